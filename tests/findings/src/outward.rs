//! Question 3, the other way: publishing on the leaf while its link is cut.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, pull};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::leaf::{LOG, MINE, RESUMES_IN, World};
use crate::load;
use crate::pace;
use crate::server::until_within;
use crate::table::Table;

/// What becomes of events that are published there while the link is cut.
pub(crate) async fn run(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let seconds = lab.scale.pick(1, 3, 20);
    let rate = lab.scale.pick(50, 200, 500);
    let mut table = Table::new(
        "upstream",
        &[
            "published on the leaf",
            "offered",
            "told to have failed",
            "in the hub's log",
            "lost without a word",
            "twice",
        ],
    );
    for how in [Upstream::Core, Upstream::Hub, Upstream::Outbox] {
        lab.say(format!(
            "publishing on the leaf, {}, the link cut for {seconds} s",
            how.name()
        ));
        let world = World::start().await?;
        let time = Duration::from_secs(seconds + 4);
        let offering = how.offer(&world, rate, time);
        let cutting = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.link.cut();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            world.link.heal();
        };
        let (offered, ()) = tokio::join!(offering, cutting);
        let offered = offered?;
        let accepted: BTreeSet<u64> = offered.accepted;
        // Nothing but a source has something left to bring.
        let still = match how {
            Upstream::Outbox => RESUMES_IN,
            Upstream::Core | Upstream::Hub => Duration::from_secs(3),
        };
        let arrived = arrived(&world, accepted.len() as u64, still).await?;
        let unique: BTreeSet<u64> = arrived.iter().copied().collect();
        let lost = accepted.difference(&unique).count();
        lab.raw.note(&json!({
            "part": "upstream", "how": how.name(), "cut_s": seconds, "offered": accepted.len() + offered.failed.len(),
            "failed": offered.failed.len(), "arrived": unique.len(), "lost": lost, "twice": arrived.len() - unique.len(),
        }))?;
        let at = match how {
            Upstream::Core => "core",
            Upstream::Hub => "hub",
            Upstream::Outbox => "outbox",
        };
        let offered_in_all = accepted.len() + offered.failed.len();
        findings.figure(&format!("{at}-lost"), format!("{lost} of {offered_in_all}"));
        findings.figure(
            &format!("{at}-failed"),
            format!("{} of {offered_in_all}", offered.failed.len()),
        );
        table.row(vec![
            how.name().to_owned(),
            (accepted.len() + offered.failed.len()).to_string(),
            offered.failed.len().to_string(),
            unique.len().to_string(),
            lost.to_string(),
            (arrived.len() - unique.len()).to_string(),
        ]);
    }
    findings.tables.push(table);
    Ok(())
}

/// How an event gets from the leaf to the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upstream {
    Core,
    Hub,
    Outbox,
}

impl Upstream {
    fn name(self) -> &'static str {
        match self {
            Self::Core => "core NATS publish",
            Self::Hub => "acknowledged by the hub",
            Self::Outbox => "acknowledged by an outbox that the hub sources",
        }
    }

    async fn offer(self, world: &World, rate: u64, time: Duration) -> Result<pace::Published> {
        let origin = Instant::now();
        let js: jetstream::Context = world.leaf.jetstream().await?;
        match self {
            Self::Hub => pace::publish(&js, origin, rate, time, |_| MINE.to_owned()).await,
            Self::Outbox => {
                let subject = MINE.replacen("payments", "outbox.leaf", 1);
                pace::publish(&js, origin, rate, time, |_| subject.clone()).await
            }
            Self::Core => {
                let client = world.leaf.client().await?;
                let mut published = pace::Published::default();
                for n in 0..rate * time.as_secs() {
                    let at = Duration::from_secs_f64(n as f64 / rate as f64);
                    tokio::time::sleep_until((origin + at).into()).await;
                    match client.publish(MINE, load::event(n)).await {
                        Ok(()) => published.accepted.insert(n),
                        Err(_) => published.failed.insert(n),
                    };
                }
                client.flush().await?;
                Ok(published)
            }
        }
    }
}

/// The numbers in the hub's log, once all are there or it has stood still for so long.
async fn arrived(world: &World, expected: u64, still: Duration) -> Result<Vec<u64>> {
    let hub = world.hub.jetstream().await?;
    world.connected().await?;
    let log = hub.get_stream(LOG).await?;
    let mut last = (0, Instant::now());
    until_within(still * 3, "the log has stood still", async || {
        let now = log.get_info().await.map_or(0, |info| info.state.messages);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now >= expected || last.1.elapsed() > still
    })
    .await?;
    let config = pull::Config {
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = hub.create_consumer_on_stream(config, LOG).await?;
    let mut numbers = Vec::new();
    let count = consumer.cached_info().num_pending;
    load::consume(&consumer, count, Duration::from_secs(3), |m| {
        numbers.extend(load::number(&m.payload))
    })
    .await?;
    Ok(numbers)
}
