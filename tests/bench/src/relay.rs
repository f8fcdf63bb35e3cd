//! The least that can stand between a program and the log as a process of its own: it takes a request, does the plain
//! client's work, and answers. It checks nothing, knows no tenants and keeps no quotas. What it costs against the plain
//! client is about the price of a second process on this machine.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::{self, AckKind};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::delivery::{BARE, LOG, consumer};
use crate::load::raw_as_stored;
use crate::world::{PAYLOAD, World, subject};

/// In whose environment this stands is the relay: the URL of NATS.
pub(crate) const RELAY: &str = "FANOUT_BENCH_RELAY";
/// Whose payloads it publishes.
const PUBLISH: &str = "bench.relay.publish";
/// Whose payload names a consumer that it reads from then on.
const READ: &str = "bench.relay.read";
/// Where it hands on what it reads.
const HANDLER: &str = "bench.relay.handler";
/// What it has in hand at a time.
const AT_ONCE: usize = 64;

/// Relays until its input ends.
pub(crate) async fn run(url: &str) -> Result<()> {
    let nats = async_nats::connect(url).await?;
    let js = jetstream::new(nats.clone());
    let publishing = tokio::spawn(publish(nats.clone(), js.clone(), nats.subscribe(PUBLISH).await?));
    let reading = tokio::spawn(read(nats.clone(), js, nats.subscribe(READ).await?));
    nats.flush().await?;
    writeln!(std::io::stdout())?;
    // Until the load program is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1])).await??;
    publishing.abort();
    reading.abort();
    Ok(())
}

async fn publish(nats: Client, js: jetstream::Context, requests: async_nats::Subscriber) -> Result<()> {
    let to = subject(BARE);
    requests
        .map(anyhow::Ok)
        .try_for_each_concurrent(256, |request| {
            let (nats, js, to) = (&nats, &js, to.clone());
            async move {
                let reply = request.reply.context("a request wants an answer")?;
                let headers = request.headers.unwrap_or_default();
                js.publish_with_headers(to, headers, request.payload).await?.await?;
                nats.publish(reply, Bytes::new()).await?;
                Ok(())
            }
        })
        .await
}

async fn read(nats: Client, js: jetstream::Context, mut requests: async_nats::Subscriber) -> Result<()> {
    while let Some(request) = requests.next().await {
        let name = std::str::from_utf8(&request.payload)?;
        let consumer: PullConsumer = js.get_consumer_from_stream(name, LOG).await.context("its consumer")?;
        let messages = consumer.stream().max_messages_per_batch(500).messages().await?;
        let to = nats.clone();
        // It ends with its consumer.
        tokio::spawn(
            messages
                .map_err(anyhow::Error::from)
                .try_for_each_concurrent(AT_ONCE, move |message| {
                    let nats = to.clone();
                    async move {
                        nats.request(HANDLER, message.payload.clone()).await?;
                        message.ack_with(AckKind::Ack).await.map_err(|e| anyhow!("{e}"))
                    }
                }),
        );
        let reply = request.reply.context("a request wants an answer")?;
        nats.publish(reply, Bytes::new()).await?;
    }
    Ok(())
}

/// The relay, a process of its own; ended on drop.
pub(crate) struct Relay(Child);

impl Relay {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let process = Command::new(std::env::current_exe()?)
            .env(RELAY, world.bench.nats.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut relay = Self(process);
        let stdout = relay.0.stdout.take().context("its output")?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        ensure!(!ready.is_empty(), "the relay ended before it served");
        Ok(relay)
    }

    /// Publishes through it from so many callers at once.
    pub(crate) async fn publish(js: &jetstream::Context, run: &str, events: usize, callers: usize) -> Result<usize> {
        let nats = &js.client();
        stream::iter(0..events)
            .map(|i| async move {
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", format!("{run}-{i}"));
                let body = Bytes::from_static(&[b'x'; PAYLOAD]);
                nats.request_with_headers(PUBLISH, headers, body).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(callers)
            .try_for_each(|()| async { Ok(()) })
            .await?;
        Ok(events)
    }

    /// Stores events, which it reads and hands on to a handler here.
    pub(crate) async fn deliver(js: &jetstream::Context, run: &str, events: usize) -> Result<usize> {
        let nats = js.client();
        let mut calls = nats.subscribe(HANDLER).await?;
        consumer(js, run).await?;
        nats.request(READ, run.to_owned().into()).await?;
        let handling = async {
            for _ in 0..events {
                let call = calls.next().await.context("the calls ended")?;
                let reply = call.reply.context("a call wants an answer")?;
                nats.publish(reply, Bytes::new()).await?;
            }
            anyhow::Ok(())
        };
        let (published, handled) = tokio::join!(raw_as_stored(js, BARE, run, events), handling);
        handled?;
        js.get_stream_no_info(LOG).await?.delete_consumer(run).await?;
        published
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().ok();
        }
    }
}
