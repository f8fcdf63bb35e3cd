//! Question 6: how long from a publish to a handler, by need, at shares of what the box sustains; beside JetStream's own
//! client and core NATS on the same server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fanout_client::{Bus, Event, Start, Subscription};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::fanout::{LOG, World, subject};
use crate::flow::{Meter, closed_loop, open_loop, warm};
use crate::load::EVENT_BYTES;
use crate::plot::Plot;
use crate::table::{Table, ms, rate};
use crate::ways::{self, Handler, Way};

/// What is measured, each with tenants of its own, so that nobody else's handler has work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Queue,
    Durable,
    Backfill,
    JetStream,
    Core,
}

impl Need {
    const ALL: [Self; 5] = [Self::Queue, Self::Durable, Self::Backfill, Self::JetStream, Self::Core];

    fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Durable => "durable",
            Self::Backfill => "backfill, once live",
            Self::JetStream => "JetStream's own client",
            Self::Core => "core NATS",
        }
    }

    fn tenant(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Durable => "durable",
            Self::Backfill => "backfill",
            Self::JetStream => "bare",
            Self::Core => "core",
        }
    }

    /// A handler at work, and the way to it.
    async fn open(self, world: &World, meter: &Arc<Meter>, history: u64) -> Result<(Way, Handler, Option<Replay>)> {
        let tenant = self.tenant();
        let through = |bus: &Bus| Way::Bus(bus.clone(), tenant.into());
        match self {
            Self::Queue | Self::Durable => {
                let bus = world.bus().await?;
                let asked = if self == Self::Queue {
                    Subscription::queue(tenant)
                } else {
                    Subscription::durable(tenant)
                };
                let handler = ways::subscribe(&bus, asked.tenants([tenant]), meter).await?;
                Ok((through(&world.bus().await?), handler, None))
            }
            Self::Backfill => {
                let bus = world.bus().await?;
                let (handler, replay) = replay(&bus, tenant, history, meter).await?;
                Ok((through(&world.bus().await?), handler, Some(replay)))
            }
            Self::JetStream => {
                let handler = ways::pull(&world.jetstream().await, LOG, &subject(tenant), meter).await?;
                let way = Way::JetStream(world.jetstream().await, subject(tenant).into());
                Ok((way, handler, None))
            }
            Self::Core => {
                // No stream has this subject.
                let subject = "bare.core";
                let handler = ways::core(&world.client().await, subject, meter).await?;
                Ok((Way::Core(world.client().await, subject.into()), handler, None))
            }
        }
    }
}

/// How a backfill got to the end of what was there.
struct Replay {
    events: u64,
    took: Duration,
}

/// Stores a history, subscribes from its first event, and handles all of it: what comes then is live.
async fn replay(bus: &Bus, tenant: &str, history: u64, meter: &Arc<Meter>) -> Result<(Handler, Replay)> {
    let events: Vec<_> = (0..history)
        .map(|n| Event::new(tenant, ways::EVENT_TYPE, format!("old-{n}")).data(crate::load::event(0)))
        .collect();
    for events in events.chunks(5_000) {
        for receipt in bus.publish_many(events).await {
            receipt.context("store the history")?;
        }
    }
    let start = Instant::now();
    let asked = Subscription::backfill(tenant, Start::First)
        .tenants([tenant])
        .prefetch(1_000);
    let mut deliveries = bus.subscribe(asked).await?;
    let mut left = history;
    while left > 0 {
        let next = tokio::time::timeout(Duration::from_secs(30), deliveries.recv()).await;
        let delivery = next
            .context("the history stopped coming")?
            .context("the backfill ended")??;
        tokio::spawn(async move { delivery.ack().await.ok() });
        left -= 1;
    }
    let took = start.elapsed();
    let replay = Replay { events: history, took };
    Ok((ways::handle(deliveries, meter), replay))
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    let shares: &[u64] = lab
        .scale
        .pick(&[10, 90], &[10, 50, 90], &[10, 20, 30, 40, 50, 60, 70, 80, 90]);
    let time = Duration::from_secs(lab.scale.pick(1, 2, 15));
    let history = lab.scale.pick(200, 10_000, 100_000);
    let head = [
        "handler of",
        "of its rate",
        "events/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "longest",
        "receipt p50",
        "receipt p99",
        "sent late p99",
        "refused",
        "never came",
    ];
    let mut table = Table::new("latency", &head);
    let mut rates = Table::new("rates", &["handler of", "events/s, handled and settled", "under way"]);
    let mut replayed = Table::new("replay", &["events in the log", "replayed in", "events/s"]);
    let (mut middle, mut tail) = (Vec::new(), Vec::new());
    let world = World::start(&[]).await?;
    for need in Need::ALL {
        let meter = Meter::new()?;
        let (way, handler, replay) = need.open(&world, &meter, history).await?;
        if let Some(replay) = replay {
            let per_second = replay.events as f64 / replay.took.as_secs_f64();
            lab.raw
                .note(&json!({ "part": "replay", "events": replay.events, "seconds": replay.took.as_secs_f64() }))?;
            findings.figure("replay", rate(per_second));
            let took = ms(replay.took.as_secs_f64() * 1_000.0);
            replayed.row(vec![replay.events.to_string(), took, rate(per_second)]);
        }
        let (most, window) = sustained(lab, need, &way, &meter).await?;
        rates.row(vec![need.name().to_owned(), rate(most), window.to_string()]);
        let (mut p50s, mut p99s) = (Vec::new(), Vec::new());
        for &share in shares {
            handler.check()?;
            let per_second = most * share as f64 / 100.0;
            lab.say(format!(
                "{}, {share} %: {} events a second",
                need.name(),
                rate(per_second)
            ));
            let open = open_loop(&way, &meter, per_second, time).await?;
            lab.raw.note(&json!({
                "part": "latency", "need": need.name(), "share": share, "rate": per_second, "event_bytes": EVENT_BYTES,
                "sent": open.sent, "failed": open.failed, "missing": open.missing(), "handled": open.handled.to_json(),
                "stored": open.stored.to_json(), "sent_late": open.late.to_json(),
            }))?;
            let handled = &open.handled;
            if share == 50 || (lab.scale.name() == "smoke" && share == 10) {
                findings.figure(&format!("{}-p50", need.tenant()), ms(handled.percentile(50.0)));
                findings.figure(&format!("{}-p99", need.tenant()), ms(handled.percentile(99.0)));
                findings.figure(&format!("{}-rate", need.tenant()), rate(most));
            }
            p50s.push((share as f64, handled.percentile(50.0)));
            p99s.push((share as f64, handled.percentile(99.0)));
            table.row(vec![
                need.name().to_owned(),
                format!("{share} %"),
                rate(per_second),
                ms(handled.percentile(50.0)),
                ms(handled.percentile(90.0)),
                ms(handled.percentile(99.0)),
                ms(handled.percentile(99.9)),
                ms(handled.max()),
                ms(open.stored.percentile(50.0)),
                ms(open.stored.percentile(99.0)),
                ms(open.late.percentile(99.0)),
                open.failed.to_string(),
                open.missing().to_string(),
            ]);
        }
        middle.push((need.name().to_owned(), p50s));
        tail.push((need.name().to_owned(), p99s));
    }
    findings.tables.extend([rates, table, replayed]);
    for (name, title, lines) in [
        ("p50", "From due to handler, p50", middle),
        ("p99", "From due to handler, p99", tail),
    ] {
        findings.plots.push(Plot {
            name,
            title: title.into(),
            x: "percent of the rate that the box sustains for this need",
            y: "milliseconds",
            log_x: false,
            lines,
        });
    }
    Ok(findings)
}

/// The rate that the box sustains from a publish to a settled delivery: a short ramp, whose best counts.
async fn sustained(lab: &Lab, need: Need, way: &Way, meter: &Arc<Meter>) -> Result<(f64, usize)> {
    let time = Duration::from_millis(lab.scale.pick(300, 1_000, 4_000));
    warm(way, meter).await?;
    let mut best = (0.0, 0);
    for window in [32, 128, 512] {
        let per_second = closed_loop(way, meter, window, time).await?;
        lab.say(format!(
            "{}: {} events a second, {window} under way",
            need.name(),
            rate(per_second)
        ));
        lab.raw
            .note(&json!({ "part": "ramp", "need": need.name(), "under_way": window, "per_s": per_second }))?;
        if per_second > best.0 {
            best = (per_second, window);
        }
    }
    if best.0 <= 0.0 {
        bail!("{}: nothing was handled", need.name());
    }
    Ok(best)
}
