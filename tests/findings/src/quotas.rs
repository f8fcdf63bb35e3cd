//! Question 1, the part that is Fanout's: a loud tenant at ten times its quota beside a quiet one, through the bus, with
//! the quota and without.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fanout_client::{Bus, ErrorKind, Event};
use futures::TryStreamExt as _;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::experiment::{Findings, Lab};
use crate::fanout::{LOG, World, subject};
use crate::histogram::Latencies;
use crate::load::event;
use crate::table::{Table, ms};
use crate::ways::EVENT_TYPE;

/// How many times its quota the loud tenant tries.
const LOUDNESS: u64 = 10;
/// Publishes of the loud tenant that are under way at most.
const UNDER_WAY: usize = 1_024;
/// As in the bare rows.
const STORED_BEFORE: u64 = 500;
const QUIET_EVERY: Duration = Duration::from_millis(10);

/// What became of one tenant's events.
#[derive(Debug, Default)]
struct Counts {
    stored: AtomicU64,
    over_quota: AtomicU64,
    full: AtomicU64,
    other: AtomicU64,
}

impl Counts {
    async fn publish(&self, bus: &Bus, tenant: &str, id: String) -> bool {
        let event = Event::new(tenant, EVENT_TYPE, id).data(event(0));
        let counted = match bus.publish(&event).await {
            Ok(_) => &self.stored,
            Err(e) => match e.kind {
                ErrorKind::QuotaExceeded(_) => &self.over_quota,
                ErrorKind::StoreFull => &self.full,
                _ => &self.other,
            },
        };
        counted.fetch_add(1, Ordering::Relaxed);
        std::ptr::eq(counted, &self.stored)
    }

    fn of(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }
}

pub(crate) async fn run(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let time = Duration::from_secs(lab.scale.pick(1, 3, 15));
    // In a second; and what the log holds, which the loud tenant fills within the time if nothing stops it.
    let (quota, log_bytes) = lab.scale.pick((50, "2MiB"), (500, "16MiB"), (500, "16MiB"));
    let terms = Terms { quota, log_bytes, time };
    findings.figure("offered", (LOUDNESS * quota).to_string());
    let mut table = Table::new(
        "quotas",
        &[
            "through the bus",
            "when full",
            "quiet alone p50",
            "p99",
            "beside the loud one p50",
            "p99",
            "quiet events refused",
            "stored quiet events that are gone",
            "loud events stored",
            "refused by its quota",
            "refused, the log is full",
        ],
    );
    for (with_quota, when_full) in [
        (false, "drop-oldest"),
        (true, "drop-oldest"),
        (false, "refuse"),
        (true, "refuse"),
    ] {
        let name = if with_quota { "with a quota" } else { "no quota" };
        lab.say(format!(
            "a loud tenant and a quiet one through the bus: {name}, {when_full}"
        ));
        let outcome = terms.beside(with_quota, when_full).await?;
        let (quiet, loud) = (&outcome.quiet, &outcome.loud);
        let refused = Counts::of(&quiet.full) + Counts::of(&quiet.over_quota) + Counts::of(&quiet.other);
        let offered = refused + Counts::of(&quiet.stored);
        lab.raw.note(&json!({
            "part": "quotas", "quota": with_quota.then_some(quota), "when_full": when_full, "seconds": time.as_secs(), "offered": LOUDNESS * quota,
            "quiet_alone": outcome.alone.to_json(), "quiet_beside": outcome.beside.to_json(), "quiet_refused": refused,
            "quiet_gone": outcome.gone, "loud_stored": Counts::of(&loud.stored), "loud_over_quota": Counts::of(&loud.over_quota),
            "loud_full": Counts::of(&loud.full), "loud_other": Counts::of(&loud.other),
        }))?;
        let at = format!("{}-{when_full}", if with_quota { "quota" } else { "no-quota" });
        findings.figure(&format!("{at}-p99"), ms(outcome.beside.percentile(99.0)));
        findings.figure(&format!("{at}-gone"), format!("{} of {STORED_BEFORE}", outcome.gone));
        findings.figure(&format!("{at}-refused"), format!("{refused} of {offered}"));
        table.row(vec![
            name.to_owned(),
            when_full.to_owned(),
            ms(outcome.alone.percentile(50.0)),
            ms(outcome.alone.percentile(99.0)),
            ms(outcome.beside.percentile(50.0)),
            ms(outcome.beside.percentile(99.0)),
            format!("{refused} of {offered}"),
            format!("{} of {STORED_BEFORE}", outcome.gone),
            Counts::of(&loud.stored).to_string(),
            Counts::of(&loud.over_quota).to_string(),
            Counts::of(&loud.full).to_string(),
        ]);
    }
    findings.tables.push(table);
    Ok(())
}

struct Beside {
    alone: Latencies,
    beside: Latencies,
    quiet: Counts,
    loud: Arc<Counts>,
    gone: u64,
}

/// What a row is measured with.
struct Terms {
    quota: u64,
    log_bytes: &'static str,
    time: Duration,
}

impl Terms {
    async fn beside(&self, with_quota: bool, when_full: &str) -> Result<Beside> {
        let Self { quota, log_bytes, time } = *self;
        let limit = quota.to_string();
        let mut settings = vec![("retention.max-bytes", log_bytes), ("retention.when-full", when_full)];
        if with_quota {
            settings.push(("quota.tenant.loud.events-per-second", &limit));
        }
        let world = World::start(&settings).await?;
        let bus = world.bus().await?;
        let before: Vec<_> = (0..STORED_BEFORE)
            .map(|n| Event::new("quiet", EVENT_TYPE, format!("before-{n}")).data(event(n)))
            .collect();
        for receipt in bus.publish_many(&before).await {
            receipt.context("store the quiet tenant's events")?;
        }
        let counts = Counts::default();
        let alone = quiet(&bus, &counts, "alone", time).await?;
        let alone_stored = Counts::of(&counts.stored);
        let stop = Arc::new(AtomicBool::new(false));
        let loud = Arc::new(Counts::default());
        let shouting = tokio::spawn(shout(
            world.bus().await?,
            LOUDNESS * quota,
            Arc::clone(&loud),
            Arc::clone(&stop),
        ));
        let beside_counts = Counts::default();
        let beside = quiet(&bus, &beside_counts, "beside", time).await?;
        stop.store(true, Ordering::Relaxed);
        shouting.await.context("the loud tenant")??;
        let log = world.jetstream().await.get_stream(LOG).await?;
        let mut held = log.info_with_subjects(subject("quiet")).await?;
        let mut held_events = 0;
        while let Some((_, count)) = held.try_next().await? {
            held_events += count as u64;
        }
        let should = STORED_BEFORE + alone_stored + Counts::of(&beside_counts.stored);
        Ok(Beside {
            alone,
            beside,
            quiet: beside_counts,
            loud,
            gone: should.saturating_sub(held_events).min(STORED_BEFORE),
        })
    }
}

/// Publishes at a steady pace; latency counts from the moment at which each was due.
async fn quiet(bus: &Bus, counts: &Counts, run: &str, time: Duration) -> Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let start = Instant::now();
    for n in 0_u32.. {
        let at = QUIET_EVERY * n;
        if at >= time {
            break;
        }
        tokio::time::sleep_until((start + at).into()).await;
        if counts.publish(bus, "quiet", format!("{run}-{n}")).await {
            latencies.record((start + at).elapsed());
        }
    }
    Ok(latencies)
}

/// Publishes so many events a second, whatever comes of it, until told to stop.
async fn shout(bus: Bus, offered: u64, counts: Arc<Counts>, stop: Arc<AtomicBool>) -> Result<()> {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY));
    let start = Instant::now();
    for n in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let due = start + Duration::from_secs_f64(n as f64 / offered as f64);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        let permit = Arc::clone(&under_way).acquire_owned().await?;
        let (bus, counts) = (bus.clone(), Arc::clone(&counts));
        tokio::spawn(async move {
            counts.publish(&bus, "loud", format!("loud-{n}")).await;
            drop(permit);
        });
    }
    // All are answered before the count is read.
    drop(under_way.acquire_many(u32::try_from(UNDER_WAY)?).await?);
    Ok(())
}
