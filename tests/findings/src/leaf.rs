//! Question 3: a leaf node with a filtered mirror against consuming across the link, and the link cut. Bare JetStream.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, Source, SubjectTransform};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::load;
use crate::pace::{self, Follower, Seen};
use crate::plot::Plot;
use crate::proxy::Link;
use crate::server::{Node, Spec, free_port, in_domain, ready, until};
use crate::table::{Table, ms, rate};

const LOG: &str = "log";
const MIRROR: &str = "mirror";
const OUTBOX: &str = "outbox";
const MINE: &str = "payments.acme.webhook.invoice.paid";

/// A hub and a leaf, and the link between them.
struct World {
    hub: Node,
    leaf: Node,
    link: Link,
}

impl World {
    async fn start() -> Result<Self> {
        let port = free_port()?;
        let hub = Node::start(&Spec {
            domain: Some("hub".into()),
            leaf_port: Some(port),
            ..Spec::named("hub")
        })
        .await?;
        let link = Link::to(port).await?;
        let leaf = Node::start(&Spec {
            domain: Some("leaf".into()),
            leaf_of: Some(link.port()),
            ..Spec::named("leaf")
        })
        .await?;
        let world = Self { hub, leaf, link };
        ready(&world.hub.jetstream().await?).await?;
        ready(&world.leaf.jetstream().await?).await?;
        world.connected().await?;
        world.streams().await?;
        Ok(world)
    }

    /// Waits until the leaf reaches the hub.
    async fn connected(&self) -> Result<()> {
        ready(&self.leaf.jetstream_of("hub").await?).await
    }

    async fn streams(&self) -> Result<()> {
        let (hub, leaf) = (self.hub.jetstream().await?, self.leaf.jetstream().await?);
        leaf.create_stream(Config {
            name: OUTBOX.into(),
            subjects: vec!["outbox.leaf.>".into()],
            ..Config::default()
        })
        .await
        .context("create the outbox")?;
        hub.create_stream(Config {
            name: LOG.into(),
            subjects: vec!["payments.*.webhook.>".into()],
            sources: Some(vec![Source {
                name: OUTBOX.into(),
                external: Some(in_domain("leaf")),
                subject_transforms: vec![SubjectTransform {
                    source: "outbox.leaf.>".into(),
                    destination: "payments.>".into(),
                }],
                ..Source::default()
            }]),
            ..Config::default()
        })
        .await
        .context("create the log")?;
        leaf.create_stream(Config {
            name: MIRROR.into(),
            mirror: Some(Source {
                name: LOG.into(),
                external: Some(in_domain("hub")),
                filter_subject: Some("payments.acme.webhook.>".into()),
                ..Source::default()
            }),
            ..Config::default()
        })
        .await
        .context("create the mirror")?;
        Ok(())
    }

    /// A consumer on the leaf's mirror, and one of the hub's log used from the leaf.
    async fn consumers(&self) -> Result<(PullConsumer, PullConsumer)> {
        let config = |name: &str| pull::Config {
            durable_name: Some(name.into()),
            filter_subject: "payments.acme.webhook.>".into(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(5),
            ..pull::Config::default()
        };
        let leaf = self.leaf.jetstream().await?;
        let hub = self.leaf.jetstream_of("hub").await?;
        Ok((
            leaf.create_consumer_on_stream(config("local"), MIRROR)
                .await
                .context("the leaf's consumer")?,
            hub.create_consumer_on_stream(config("across"), LOG)
                .await
                .context("the hub's consumer")?,
        ))
    }
}

/// Every other event is of the tenant that the mirror keeps.
fn subject(n: u64) -> String {
    if n.is_multiple_of(2) {
        MINE.to_owned()
    } else {
        "payments.globex.webhook.invoice.paid".to_owned()
    }
}

fn mine(published: &BTreeSet<u64>) -> BTreeSet<u64> {
    published.iter().copied().filter(|n| n.is_multiple_of(2)).collect()
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    lag(lab, &mut findings).await?;
    fastest(lab, &mut findings).await?;
    cut(lab, &mut findings).await?;
    upstream(lab, &mut findings).await?;
    Ok(findings)
}

async fn lag(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let time = Duration::from_secs(lab.scale.pick(1, 3, 20));
    let rates: &[u64] = lab
        .scale
        .pick(&[100], &[100, 1_000, 5_000], &[100, 1_000, 5_000, 10_000]);
    let mut table = Table::new(
        "lag",
        &[
            "events/s",
            "read",
            "p50",
            "p99",
            "p99.9",
            "longest",
            "missing",
            "twice",
            "reordered",
        ],
    );
    let (mut local_line, mut across_line) = (Vec::new(), Vec::new());
    for &rate in rates {
        lab.say(format!("lag at {rate} events a second"));
        let world = World::start().await?;
        let (local, across) = world.consumers().await?;
        let origin = Instant::now();
        let (mut local, mut across) = (Follower::start(local, origin), Follower::start(across, origin));
        let published = pace::publish(&world.hub.jetstream().await?, origin, rate, time, subject).await?;
        let expected = mine(&published.accepted);
        for follower in [&mut local, &mut across] {
            follower.seen(expected.len() as u64, Duration::from_secs(5)).await;
        }
        for (how, seen, line) in [
            ("leaf's mirror", local.stop().await?, &mut local_line),
            ("across the link", across.stop().await?, &mut across_line),
        ] {
            let odd = seen.oddities(&expected);
            lab.raw.note(&json!({
                "part": "lag", "rate": rate, "how": how, "latency": seen.latencies.to_json(), "missing": odd.missing,
                "twice": odd.twice, "reordered": odd.reordered,
            }))?;
            line.push((rate as f64, seen.latencies.percentile(99.0)));
            let at = if how == "leaf's mirror" { "mirror" } else { "across" };
            findings.figure("rate", rate.to_string());
            findings.figure(&format!("{at}-p50"), ms(seen.latencies.percentile(50.0)));
            findings.figure(&format!("{at}-p99"), ms(seen.latencies.percentile(99.0)));
            table.row(vec![
                rate.to_string(),
                how.to_owned(),
                ms(seen.latencies.percentile(50.0)),
                ms(seen.latencies.percentile(99.0)),
                ms(seen.latencies.percentile(99.9)),
                ms(seen.latencies.max()),
                odd.missing.to_string(),
                odd.twice.to_string(),
                odd.reordered.to_string(),
            ]);
        }
    }
    findings.tables.push(table);
    findings.plots.push(Plot {
        name: "lag",
        title: "From due to read on the leaf, p99".into(),
        x: "events a second",
        y: "milliseconds",
        log_x: true,
        lines: vec![
            ("leaf's mirror".into(), local_line),
            ("across the link".into(), across_line),
        ],
    });
    Ok(())
}

/// As fast as the machine goes: what the hub takes, and when the leaf has it.
async fn fastest(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let events = lab.scale.pick(1_000, 50_000, 500_000);
    lab.say(format!("{events} events as fast as they go"));
    let world = World::start().await?;
    let (local, across) = world.consumers().await?;
    let origin = Instant::now();
    let (mut local, mut across) = (Follower::start(local, origin), Follower::start(across, origin));
    let took = load::publish(&world.hub.jetstream().await?, events, subject).await?;
    let mut table = Table::new("fastest", &["", "events/s"]);
    table.row(vec![
        "published at the hub".into(),
        rate(events as f64 / took.as_secs_f64()),
    ]);
    for (how, follower) in [
        ("read from the leaf's mirror", &mut local),
        ("read across the link", &mut across),
    ] {
        follower.seen(events / 2, Duration::from_secs(10)).await;
        let per_second = (events / 2) as f64 / origin.elapsed().as_secs_f64();
        lab.raw
            .note(&json!({ "part": "fastest", "how": how, "events": events, "per_s": per_second }))?;
        table.row(vec![format!("{how}, half of them"), rate(per_second)]);
    }
    findings.tables.push(table);
    local.stop().await?;
    across.stop().await?;
    Ok(())
}

/// The link cut under load.
async fn cut(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let seconds: &[u64] = lab.scale.pick(&[1], &[1, 7, 12], &[1, 7, 20, 60]);
    let rate = lab.scale.pick(100, 1_000, 1_000);
    let mut table = Table::new(
        "cut",
        &[
            "cut for",
            "read",
            "missing",
            "twice",
            "reordered",
            "caught up, after the link was back",
            "p50 of all",
            "longest",
        ],
    );
    let (mut missing, mut twice, mut reordered) = (0, 0, 0);
    for &seconds in seconds {
        lab.say(format!("the link cut for {seconds} s at {rate} events a second"));
        let world = World::start().await?;
        let (local, across) = world.consumers().await?;
        let origin = Instant::now();
        let (mut local, mut across) = (Follower::start(local, origin), Follower::start(across, origin));
        let js = world.hub.jetstream().await?;
        let time = Duration::from_secs(seconds + 4);
        let publishing = pace::publish(&js, origin, rate, time, subject);
        let cutting = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            world.link.cut();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            world.link.heal();
            origin.elapsed()
        };
        let (published, healed) = tokio::join!(publishing, cutting);
        let expected = mine(&published?.accepted);
        let before: BTreeSet<u64> = {
            let due = |n: &u64| Duration::from_secs_f64(*n as f64 / rate as f64);
            expected.iter().copied().filter(|n| due(n) < healed).collect()
        };
        for follower in [&mut local, &mut across] {
            follower.seen(expected.len() as u64, Duration::from_secs(20)).await;
        }
        for (how, seen) in [
            ("leaf's mirror", local.stop().await?),
            ("across the link", across.stop().await?),
        ] {
            let odd = seen.oddities(&expected);
            let caught_up = caught_up(&seen, &before, healed);
            if how == "leaf's mirror" {
                (missing, twice, reordered) = (missing + odd.missing, twice + odd.twice, reordered + odd.reordered);
                findings.figure("longest-cut", format!("{seconds} s"));
                findings.figure("caught-up", caught_up.map_or("never".to_owned(), ms));
            }
            lab.raw.note(&json!({
                "part": "cut", "cut_s": seconds, "rate": rate, "how": how, "missing": odd.missing, "twice": odd.twice,
                "reordered": odd.reordered, "caught_up_ms": caught_up, "latency": seen.latencies.to_json(),
            }))?;
            table.row(vec![
                format!("{seconds} s"),
                how.to_owned(),
                odd.missing.to_string(),
                odd.twice.to_string(),
                odd.reordered.to_string(),
                caught_up.map_or("never".to_owned(), ms),
                ms(seen.latencies.percentile(50.0)),
                ms(seen.latencies.max()),
            ]);
        }
    }
    for (name, count) in [("missing", missing), ("twice", twice), ("reordered", reordered)] {
        findings.figure(name, count.to_string());
    }
    findings.tables.push(table);
    Ok(())
}

/// In milliseconds after the link was back.
fn caught_up(seen: &Seen, before: &BTreeSet<u64>, healed: Duration) -> Option<f64> {
    let at = seen.complete_at(before)?;
    (seen.oddities(before).missing == 0).then(|| at.saturating_sub(healed).as_secs_f64() * 1_000.0)
}

/// Publishing on the leaf while the link is cut.
async fn upstream(lab: &Lab, findings: &mut Findings) -> Result<()> {
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
        let arrived = arrived(&world, accepted.len() as u64).await?;
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

/// The numbers in the hub's log, once all are there or nothing more comes.
async fn arrived(world: &World, expected: u64) -> Result<Vec<u64>> {
    let hub = world.hub.jetstream().await?;
    world.connected().await?;
    let log = hub.get_stream(LOG).await?;
    let mut last = (0, Instant::now());
    until("the log has stood still", async || {
        let now = log.get_info().await.map_or(0, |info| info.state.messages);
        if now != last.0 {
            last = (now, Instant::now());
        }
        now >= expected || last.1.elapsed() > Duration::from_secs(3)
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
