//! How long a queue subscriber waits when it hears of an event from the log's announcement instead of from the
//! publisher's own message, and how often each hears of a repeat: the evidence of `docs/adr/0003`.
//!
//! `FANOUT_NATS_SERVER=… cargo run --release -p fanout-tests --example announce_latency`

use std::time::{Duration, Instant};

use async_nats::jetstream::stream::{Config, Republish};
use fanout_transport::testing::{NatsServer, NatsSettings};
use futures::StreamExt as _;

const EVENTS: usize = 5_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let nats = NatsServer::start_with(NatsSettings::default()).await;
    let (publisher, listener) = (nats.client().await, nats.client().await);
    let js = async_nats::jetstream::new(publisher);
    js.create_stream(Config {
        name: "log".into(),
        subjects: vec!["p.>".into()],
        republish: Some(Republish {
            source: ">".into(),
            destination: "live.>".into(),
            headers_only: false,
        }),
        ..Config::default()
    })
    .await?;
    println!("{EVENTS} events of 1 KiB, one at a time, each published twice with one id");
    println!("{:24} {:>9} {:>9} {:>12}", "heard on", "p50", "p99", "of each event");
    for (name, subject) in [("the event's subject", "p.>"), ("the log's announcement", "live.p.>")] {
        let mut heard = listener.queue_subscribe(subject, "q".into()).await?;
        listener.flush().await?;
        let mut copies = 0;
        let mut waits = Vec::with_capacity(EVENTS);
        for i in 0..EVENTS {
            let id = format!("{subject}{i}");
            let publish = || {
                let mut headers = async_nats::HeaderMap::new();
                headers.insert("Nats-Msg-Id", id.as_str());
                js.publish_with_headers("p.acme.x", headers, vec![7; 1024].into())
            };
            let start = Instant::now();
            let ack = publish().await?;
            // Repeats of earlier events may stand before it.
            while let Some(message) = heard.next().await {
                copies += 1;
                if message
                    .headers
                    .is_some_and(|h| h.get("Nats-Msg-Id").is_some_and(|v| v.as_str() == id))
                {
                    break;
                }
            }
            waits.push(start.elapsed());
            ack.await?;
            publish().await?.await?;
        }
        waits.sort();
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(300), heard.next()).await {
            copies += 1;
        }
        println!(
            "{name:24} {:>9.0?} {:>9.0?} {:>12.2}",
            waits[EVENTS / 2],
            waits[EVENTS * 99 / 100],
            f64::from(copies) / EVENTS as f64
        );
        heard.unsubscribe().await?;
    }
    Ok(())
}
