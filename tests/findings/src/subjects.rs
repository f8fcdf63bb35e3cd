//! Question 1: a tenant prefix in one log, a few shards, or a stream for each tenant. Bare JetStream; what quotas of the
//! bus change is in [`crate::quotas`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use async_nats::jetstream::{self, context::PublishErrorKind};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::histogram::Latencies;
use crate::load::{EVENT_BYTES, consume, event, publish, publish_singly};
use crate::plot::Plot;
use crate::server::Node;
use crate::table::{Table, ms, rate};

/// Requests to the server's API at once.
const API_AT_ONCE: usize = 32;
/// Streams of a tenant each, of which everything is consumed; with more, the first so many.
const MOST_CONSUMED: u64 = 1_000;

/// How tenants share streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Shared,
    Sharded(u64),
    PerTenant,
}

impl Layout {
    fn name(self) -> String {
        match self {
            Self::Shared => "shared".to_owned(),
            Self::Sharded(n) => format!("sharded({n})"),
            Self::PerTenant => "per tenant".to_owned(),
        }
    }

    fn streams(self, tenants: u64) -> u64 {
        match self {
            Self::Shared => 1,
            Self::Sharded(n) => n,
            Self::PerTenant => tenants,
        }
    }

    fn stream_of(self, tenant: u64) -> u64 {
        match self {
            Self::Shared => 0,
            Self::Sharded(n) => tenant % n,
            Self::PerTenant => tenant,
        }
    }

    fn subject(self, tenant: u64) -> String {
        match self {
            Self::Sharded(_) => format!("payments.{}.t{tenant}.webhook.invoice.paid", self.stream_of(tenant)),
            _ => format!("payments.t{tenant}.webhook.invoice.paid"),
        }
    }

    fn config(self, stream: u64) -> Config {
        let subjects = match self {
            Self::Shared => "payments.*.webhook.>".to_owned(),
            Self::Sharded(_) => format!("payments.{stream}.*.webhook.>"),
            Self::PerTenant => format!("payments.t{stream}.webhook.>"),
        };
        Config {
            name: stream_name(stream),
            subjects: vec![subjects],
            max_age: Duration::from_secs(7 * 86_400),
            allow_direct: true,
            ..Config::default()
        }
    }
}

fn stream_name(stream: u64) -> String {
    format!("log{stream}")
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    scale(lab, &mut findings).await?;
    isolation(lab, &mut findings).await?;
    crate::quotas::run(lab, &mut findings).await?;
    Ok(findings)
}

/// One layout with so many tenants.
#[derive(Debug)]
struct Figures {
    create: Duration,
    publish: f64,
    single: Latencies,
    deliver: f64,
    memory_mb: f64,
    disk_mb: f64,
    files: u64,
    restart: Duration,
}

async fn scale(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let sizes: &[u64] = lab
        .scale
        .pick(&[20, 50], &[100, 1_000, 10_000], &[100, 1_000, 5_000, 20_000, 50_000]);
    let most_streams = lab.scale.pick(50, 1_000, 5_000);
    let events = lab.scale.pick(500, 20_000, 100_000);
    let mut table = Table::new(
        "scale",
        &[
            "layout",
            "tenants",
            "streams",
            "created in",
            "publish/s",
            "one at a time p50",
            "p99",
            "deliver/s",
            "memory",
            "disk",
            "files",
            "restart",
        ],
    );
    let mut published: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    let mut restarted = Vec::new();
    for layout in [Layout::Shared, Layout::Sharded(8), Layout::PerTenant] {
        let (mut rates, mut restarts) = (Vec::new(), Vec::new());
        for &tenants in sizes.iter().filter(|&&t| layout.streams(t) <= most_streams) {
            lab.say(format!("{}, {tenants} tenants, {events} events", layout.name()));
            let f = measure(lab, layout, tenants, events).await?;
            lab.raw.note(&json!({
                "part": "scale", "layout": layout.name(), "tenants": tenants, "events": events, "event_bytes": EVENT_BYTES,
                "create_s": f.create.as_secs_f64(), "publish_per_s": f.publish, "single": f.single.to_json(),
                "deliver_per_s": f.deliver, "memory_mb": f.memory_mb, "disk_mb": f.disk_mb, "files": f.files,
                "restart_s": f.restart.as_secs_f64(),
            }))?;
            let at = match layout {
                Layout::Sharded(_) => "sharded".to_owned(),
                _ => layout.name().replace(' ', "-"),
            };
            let end = if rates.is_empty() { "least" } else { "most" };
            findings.figure(&format!("{at}-tenants-{end}"), tenants.to_string());
            findings.figure(&format!("{at}-publish-{end}"), rate(f.publish));
            findings.figure(&format!("{at}-restart-{end}"), ms(f.restart.as_secs_f64() * 1_000.0));
            findings.figure(&format!("{at}-memory-{end}"), format!("{:.0} MB", f.memory_mb));
            rates.push((tenants as f64, f.publish));
            restarts.push((tenants as f64, f.restart.as_secs_f64() * 1_000.0));
            table.row(vec![
                layout.name(),
                tenants.to_string(),
                layout.streams(tenants).to_string(),
                ms(f.create.as_secs_f64() * 1_000.0),
                rate(f.publish),
                ms(f.single.percentile(50.0)),
                ms(f.single.percentile(99.0)),
                rate(f.deliver),
                format!("{:.0} MB", f.memory_mb),
                format!("{:.0} MB", f.disk_mb),
                f.files.to_string(),
                ms(f.restart.as_secs_f64() * 1_000.0),
            ]);
        }
        published.push((layout.name(), rates));
        restarted.push((layout.name(), restarts));
    }
    findings.tables.push(table);
    findings.plots.push(Plot {
        name: "publish",
        title: "Publish rate, 256 acknowledgements in flight".into(),
        x: "tenants",
        y: "events a second",
        log_x: true,
        lines: published,
    });
    findings.plots.push(Plot {
        name: "restart",
        title: "From SIGKILL to JetStream answering".into(),
        x: "tenants",
        y: "milliseconds",
        log_x: true,
        lines: restarted,
    });
    Ok(())
}

async fn measure(lab: &Lab, layout: Layout, tenants: u64, events: u64) -> Result<Figures> {
    let mut node = Node::alone().await?;
    let js = node.jetstream().await?;
    let streams = layout.streams(tenants);
    let start = Instant::now();
    create(&js, layout, streams).await?;
    let create = start.elapsed();
    // Every tenant has a subject of its own before anything is timed.
    publish(&js, tenants.min(events), |i| layout.subject(i % tenants)).await?;
    let took = publish(&js, events, |i| layout.subject(lab.draw(i, tenants))).await?;
    let single = publish_singly(&js, events.min(1_000), |i| layout.subject(lab.draw(i, tenants))).await?;
    let deliver = deliver(&js, streams.min(MOST_CONSUMED)).await?;
    let memory_mb = node.memory_mb();
    let (disk_mb, files) = node.disk();
    let restart = node.restart().await?;
    Ok(Figures {
        create,
        publish: events as f64 / took.as_secs_f64(),
        single,
        deliver,
        memory_mb,
        disk_mb,
        files,
        restart,
    })
}

async fn create(js: &jetstream::Context, layout: Layout, streams: u64) -> Result<()> {
    stream::iter(0..streams)
        .map(|s| async move { js.create_stream(layout.config(s)).await.map(drop) })
        .buffer_unordered(API_AT_ONCE)
        .try_collect::<()>()
        .await
        .context("create streams")
}

/// Consumes what is in the streams with a durable consumer for each; returns events a second.
async fn deliver(js: &jetstream::Context, streams: u64) -> Result<f64> {
    let consumers: Vec<(PullConsumer, u64)> = stream::iter(0..streams)
        .map(|s| async move {
            let config = pull::Config {
                durable_name: Some("reader".into()),
                ack_policy: AckPolicy::Explicit,
                ..pull::Config::default()
            };
            let consumer = js.create_consumer_on_stream(config, stream_name(s)).await?;
            let pending = consumer.cached_info().num_pending;
            anyhow::Ok((consumer, pending))
        })
        .buffer_unordered(API_AT_ONCE)
        .try_collect()
        .await
        .context("create consumers")?;
    let start = Instant::now();
    let got: Vec<u64> = stream::iter(consumers)
        .map(|(consumer, pending)| async move { consume(&consumer, pending, Duration::from_secs(5), |_| ()).await })
        .buffer_unordered(16)
        .try_collect()
        .await?;
    Ok(got.iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64())
}

/// What a loud tenant does to a quiet one.
async fn isolation(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let seconds = lab.scale.pick(1, 3, 15);
    let mut table = Table::new(
        "isolation",
        &[
            "layout",
            "when full",
            "quiet alone p50",
            "p99",
            "beside the loud one p50",
            "p99",
            "quiet events refused",
            "stored quiet events that are gone",
            "loud events stored",
        ],
    );
    for (layout, discard) in [
        (Layout::Shared, DiscardPolicy::Old),
        (Layout::Shared, DiscardPolicy::New),
        (Layout::PerTenant, DiscardPolicy::Old),
        (Layout::PerTenant, DiscardPolicy::New),
    ] {
        let full = match discard {
            DiscardPolicy::Old => "drops the oldest",
            DiscardPolicy::New => "refuses",
        };
        lab.say(format!("a loud tenant and a quiet one: {}, {full}", layout.name()));
        let outcome = beside(layout, discard, Duration::from_secs(seconds)).await?;
        lab.raw.note(&json!({
            "part": "isolation", "layout": layout.name(), "when_full": full, "seconds": seconds,
            "quiet_alone": outcome.alone.to_json(), "quiet_beside": outcome.beside.to_json(), "quiet_refused": outcome.refused,
            "quiet_offered": outcome.offered, "quiet_gone": outcome.gone, "loud_stored": outcome.loud,
        }))?;
        let at = match (layout, discard) {
            (Layout::Shared, DiscardPolicy::Old) => "bare-shared-drops",
            (Layout::Shared, DiscardPolicy::New) => "bare-shared-refuses",
            (_, DiscardPolicy::Old) => "bare-own-drops",
            (_, DiscardPolicy::New) => "bare-own-refuses",
        };
        findings.figure(&format!("{at}-p99"), ms(outcome.beside.percentile(99.0)));
        findings.figure(&format!("{at}-gone"), format!("{} of {STORED_BEFORE}", outcome.gone));
        findings.figure(
            &format!("{at}-refused"),
            format!("{} of {}", outcome.refused, outcome.offered),
        );
        table.row(vec![
            layout.name(),
            full.to_owned(),
            ms(outcome.alone.percentile(50.0)),
            ms(outcome.alone.percentile(99.0)),
            ms(outcome.beside.percentile(50.0)),
            ms(outcome.beside.percentile(99.0)),
            format!("{} of {}", outcome.refused, outcome.offered),
            format!("{} of {}", outcome.gone, STORED_BEFORE),
            outcome.loud.to_string(),
        ]);
    }
    findings.tables.push(table);
    Ok(())
}

/// Events that the quiet tenant has in the log beforehand.
const STORED_BEFORE: u64 = 500;
/// What a stream holds at most: a loud tenant fills it within a second.
const STREAM_BYTES: i64 = 16 << 20;
/// How often the quiet tenant publishes.
const QUIET_EVERY: Duration = Duration::from_millis(10);

struct Beside {
    alone: Latencies,
    beside: Latencies,
    offered: u64,
    refused: u64,
    gone: u64,
    loud: u64,
}

async fn beside(layout: Layout, discard: DiscardPolicy, time: Duration) -> Result<Beside> {
    const QUIET: u64 = 0;
    const LOUD: u64 = 1;
    let node = Node::alone().await?;
    let (js, loud_js) = (node.jetstream().await?, node.jetstream().await?);
    for s in 0..layout.streams(2) {
        let config = Config {
            max_bytes: STREAM_BYTES,
            discard,
            ..layout.config(s)
        };
        js.create_stream(config).await.context("create a stream")?;
    }
    publish(&js, STORED_BEFORE, |_| layout.subject(QUIET)).await?;
    let (alone, _, _) = quiet(&js, &layout.subject(QUIET), time).await?;
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let loud = {
        let (stop, subject) = (Arc::clone(&stop), layout.subject(LOUD));
        tokio::spawn(async move {
            let js = &loud_js;
            let numbers = stream::iter(0_u64..).take_while(|_| {
                let go_on = !stop.load(std::sync::atomic::Ordering::Relaxed);
                async move { go_on }
            });
            numbers
                .map(|i| {
                    let subject = subject.clone();
                    async move {
                        Ok::<_, jetstream::context::PublishError>(js.publish(subject, event(i)).await?.await.is_ok())
                    }
                })
                .buffer_unordered(1_000)
                .fold(
                    0_u64,
                    |stored, ok| async move { stored + u64::from(ok.unwrap_or(false)) },
                )
                .await
        })
    };
    let (beside, offered, refused) = quiet(&js, &layout.subject(QUIET), time).await?;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let loud = loud.await.context("the loud tenant")?;
    let log = js.get_stream(stream_name(layout.stream_of(QUIET))).await?;
    let mut held = log.info_with_subjects(layout.subject(QUIET)).await?;
    let mut held_events = 0;
    while let Some((_, count)) = held.try_next().await? {
        held_events += count as u64;
    }
    let should = STORED_BEFORE + alone.count() + offered - refused;
    Ok(Beside {
        alone,
        beside,
        offered,
        refused,
        gone: should.saturating_sub(held_events).min(STORED_BEFORE),
        loud,
    })
}

/// Publishes at a steady pace; returns latencies from the moment at which each was due, offered and refused.
async fn quiet(js: &jetstream::Context, subject: &str, time: Duration) -> Result<(Latencies, u64, u64)> {
    let mut latencies = Latencies::new()?;
    let (mut offered, mut refused) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < time {
        let due = start + QUIET_EVERY * u32::try_from(offered).unwrap_or(u32::MAX);
        tokio::time::sleep_until(due.into()).await;
        offered += 1;
        match js.publish(subject.to_owned(), event(offered)).await?.await {
            Ok(_) => latencies.record(due.elapsed()),
            Err(e) if matches!(e.kind(), PublishErrorKind::MaxPayloadExceeded) => return Err(e.into()),
            Err(_) => refused += 1,
        }
    }
    Ok((latencies, offered, refused))
}
