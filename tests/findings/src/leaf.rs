//! Question 3: a leaf node with a filtered mirror against consuming across the link, and the link cut. Bare JetStream.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, Source, SubjectTransform};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::load;
use crate::outward;
use crate::pace::{self, Follower, Seen};
use crate::plot::Plot;
use crate::proxy::Link;
use crate::server::{Node, Spec, in_domain, ready};
use crate::table::{Table, ms, rate};
use fanout_transport::testing::free_ports;

pub(crate) const LOG: &str = "log";
const MIRROR: &str = "mirror";
const OUTBOX: &str = "outbox";
pub(crate) const MINE: &str = "payments.acme.webhook.invoice.paid";
/// How long a mirror or a source may take to resume: it was seen to pause for 40 s.
pub(crate) const RESUMES_IN: Duration = Duration::from_secs(75);

/// A hub and a leaf, and the link between them.
pub(crate) struct World {
    pub(crate) hub: Node,
    pub(crate) leaf: Node,
    pub(crate) link: Link,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let port = free_ports(1)[0];
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
    pub(crate) async fn connected(&self) -> Result<()> {
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
    outward::run(lab, &mut findings).await?;
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
            follower.seen(expected.len() as u64, RESUMES_IN).await;
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
