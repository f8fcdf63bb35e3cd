//! How long a bus takes to go to another server while it is published to and delivers: `fanout migrate`, beside a bare mirror
//! of the same log between the same two servers.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, Source};
use bytes::Bytes;
use fanout_client::{Bus, Event, Subscription, connect};
use fanout_tests::{ANYONE_HERE, Served, beside_the_tests};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::experiment::{Findings, Lab};
use crate::fanout::LOG;
use crate::places::SETTINGS;
use crate::server::{Node, Spec, in_domain, ready, until_within};
use crate::table::{Table, ms, rate};
use crate::ways::EVENT_TYPE;
use fanout_transport::testing::free_ports;

/// What an event carries.
const EVENT_BYTES: usize = 200;
/// Events of one request, and requests that are under way, while the log is filled.
const AT_ONCE: usize = 1_000;
const REQUESTS: usize = 4;
const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];
/// They publish while the bus goes, each one event after the other, and wait in between.
const PUBLISHERS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);
/// How long a publisher waits for one instance before it tries the other.
const BRIEFLY: Duration = Duration::from_millis(100);
const SUBSCRIPTION: &str = "billing";
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(240);
/// The name of the bare mirror.
const BARE: &str = "bare";

/// Two servers, and the bus at the first.
struct World {
    at_old: Served,
    old: Node,
    new: Node,
    policy: PathBuf,
    /// Holds the policy.
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Result<Self> {
        let joined_at = free_ports(1)[0];
        let old = Node::start(&Spec {
            domain: Some("old".into()),
            leaf_port: Some(joined_at),
            ..Spec::named("old")
        })
        .await?;
        let new = Node::start(&Spec {
            domain: Some("new".into()),
            leaf_of: Some(joined_at),
            ..Spec::named("new")
        })
        .await?;
        ready(&old.jetstream().await?).await?;
        ready(&new.jetstream_of("old").await?).await?;
        let folder = tempfile::tempdir().context("a folder for the policy")?;
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, format!("{SETTINGS}{ANYONE_HERE}")).context("write the policy")?;
        let at_old = serve(&old, &policy);
        Ok(Self {
            at_old,
            old,
            new,
            policy,
            folder,
        })
    }

    /// A connection to an instance of the bus.
    async fn bus(of: &Served) -> Result<Bus> {
        Ok(connect(of.listen.first().context("it listens")?).await?)
    }

    /// An instance at the new server, with a policy file of its own, beside which it logs.
    fn serve_at_new(&self) -> Result<Served> {
        let policy = self.folder.path().join("new.toml");
        std::fs::copy(&self.policy, &policy).context("copy the policy")?;
        Ok(serve(&self.new, &policy))
    }
}

fn serve(at: &Node, policy: &Path) -> Served {
    let listen = ["--listen", "tcp://127.0.0.1:0"];
    tokio::task::block_in_place(|| Served::start(&at.url(), policy, &listen))
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let events = lab.scale.pick(2_000, 100_000, 1_000_000);
    let world = World::start().await?;
    let bus = World::bus(&world.at_old).await?;
    lab.say(format!("{events} events are stored"));
    let filled = fill(&bus, events).await?;
    lab.raw
        .note(&json!({ "part": "fill", "events": events, "seconds": filled.as_secs_f64() }))?;
    lab.say(format!("they were in {:.1} s", filled.as_secs_f64()));

    // From here on there are publishers and a subscription, whose deliveries begin behind what is stored.
    let traffic = Traffic::begin(&bus).await?;
    lab.say("a bare mirror of the log");
    let bare = bare_mirror(&world).await?;
    lab.say(format!(
        "it had all in {:.1} s; the bus migrates",
        bare.took.as_secs_f64()
    ));
    let migrated = migrate(lab, &world, &traffic).await?;
    lab.say(format!("it did in {:.1} s", migrated.whole.as_secs_f64()));
    let arrived = traffic.end().await?;
    report(lab, events, &bare, &migrated, &arrived)
}

/// Stores the events, through the bus.
async fn fill(bus: &Bus, events: u64) -> Result<Duration> {
    let began = Instant::now();
    let data = Bytes::from(vec![b'.'; EVENT_BYTES]);
    let numbers: Vec<u64> = (0..events).collect();
    stream::iter(numbers.chunks(AT_ONCE))
        .map(|numbers| {
            let events: Vec<_> = numbers
                .iter()
                .map(|n| {
                    let tenant = TENANTS[(n % TENANTS.len() as u64) as usize];
                    Event::new(tenant, EVENT_TYPE, format!("old-{n}")).data(data.clone())
                })
                .collect();
            async move {
                for receipt in bus.publish_many(&events).await {
                    receipt.context("fill the log")?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(REQUESTS)
        .try_collect::<Vec<()>>()
        .await?;
    Ok(began.elapsed())
}

/// A copy of the log, and how long it took.
struct Copied {
    events: u64,
    took: Duration,
}

async fn last_of(js: &jetstream::Context, stream: &str) -> Option<u64> {
    Some(js.get_stream(stream).await.ok()?.cached_info().state.last_sequence)
}

/// Waits until a stream has what another had.
async fn has(js: &jetstream::Context, stream: &str, number: u64) -> Result<()> {
    until_within(PATIENCE, &format!("{stream} has {number} events"), async || {
        last_of(js, stream).await.is_some_and(|last| last >= number)
    })
    .await
}

/// Mirrors the log as the raw client does it, and removes the mirror.
async fn bare_mirror(world: &World) -> Result<Copied> {
    let (old, new) = (world.old.jetstream().await?, world.new.jetstream().await?);
    let events = last_of(&old, LOG).await.context("the log")?;
    let began = Instant::now();
    new.create_stream(Config {
        name: BARE.into(),
        mirror: Some(Source {
            name: LOG.into(),
            external: Some(in_domain("old")),
            ..Source::default()
        }),
        ..Config::default()
    })
    .await
    .context("the bare mirror")?;
    has(&new, BARE, events).await?;
    let took = began.elapsed();
    new.delete_stream(BARE).await.context("remove the bare mirror")?;
    Ok(Copied { events, took })
}

/// What `fanout migrate` did, each counted from its start.
struct Migrated {
    events: u64,
    /// The copy of the log had all that was there when it began.
    copied: Duration,
    /// Deliveries stood still: before it all was compared, message by message.
    compared: Duration,
    whole: Duration,
    /// As it says itself.
    refused_ms: f64,
    undelivered_ms: f64,
}

async fn migrate(lab: &Lab, world: &World, traffic: &Traffic) -> Result<Migrated> {
    let (old, new) = (world.old.jetstream().await?, world.new.jetstream().await?);
    let events = last_of(&old, LOG).await.context("the log")?;
    let began = Instant::now();
    let mut process = Command::new(beside_the_tests("fanout"))
        .arg("migrate")
        .arg(&world.policy)
        .args(["--from", &world.old.url(), "--to", &world.new.url()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run fanout migrate")?;
    let said = process.stdout.take().context("it has an output")?;
    let mut complaints = process.stderr.take().context("it has an output for errors")?;
    let mut ended = tokio::task::spawn_blocking(move || -> Result<_> {
        let mut lines = Vec::new();
        for line in BufReader::new(said).lines() {
            lines.push((began.elapsed(), line.context("what it says")?));
        }
        let mut why = String::new();
        complaints.read_to_string(&mut why)?;
        Ok((process.wait()?.success(), lines, why, began.elapsed()))
    });
    let copied = tokio::select! {
        biased;
        copied = has(&new, LOG, events) => copied.map(|()| began.elapsed())?,
        ended = &mut ended => {
            let (_, lines, why, _) = ended.context("who reads what it says")??;
            bail!("fanout migrate ended before the copy had all: {lines:?} {why}");
        }
    };
    // An instance that is started before the copies are made would make an empty bus.
    let at_new = world.serve_at_new()?;
    traffic.goes_also(&World::bus(&at_new).await?);
    let (good, lines, why, whole) = ended.await.context("who reads what it says")??;
    let text: Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
    ensure!(good, "fanout migrate: {}{why}", text.join("\n"));
    for (at, line) in &lines {
        lab.raw
            .note(&json!({ "part": "said", "at_ms": at.as_secs_f64() * 1_000.0, "line": line }))?;
    }
    let compared = lines
        .iter()
        .find(|(_, line)| line.starts_with("deliveries stand still"));
    let last = text.last().copied().unwrap_or_default();
    traffic.keeps(at_new);
    Ok(Migrated {
        events,
        copied,
        compared: compared.context("it says when deliveries stand still")?.0,
        whole,
        refused_ms: said_ms(last, "publishing was refused for ")?,
        undelivered_ms: said_ms(last, "nothing was delivered for ")?,
    })
}

/// A time that a line tells.
fn said_ms(line: &str, before: &str) -> Result<f64> {
    let number = line.split_once(before).and_then(|(_, after)| after.split_once(" ms"));
    let (number, _) = number.with_context(|| format!("no time behind `{before}` in `{line}`"))?;
    number.parse().with_context(|| format!("a time in `{line}`"))
}

/// Publishers and a subscriber, which go to whichever instance takes and gives.
struct Traffic {
    buses: Arc<Mutex<Vec<Bus>>>,
    ends: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<Vec<Instant>>>,
    seen: Arc<Mutex<Seen>>,
    subscribers: Mutex<Vec<JoinHandle<()>>>,
    /// Instances that are there for as long as this.
    instances: Mutex<Vec<Served>>,
}

/// What a subscriber was given.
#[derive(Default)]
struct Seen {
    given: Vec<Instant>,
    /// How often the settlement of each event was confirmed.
    settled: BTreeMap<String, u32>,
}

/// What came of it.
struct Arrived {
    accepted: u64,
    /// Accepted, and its settlement never confirmed.
    missing: u64,
    /// Given again after its settlement was confirmed.
    twice: u64,
    /// The longest time without a receipt anywhere, and without a delivery.
    no_receipt: Duration,
    no_delivery: Duration,
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is noted is whole whoever panicked.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    async fn begin(bus: &Bus) -> Result<Self> {
        let buses = Arc::new(Mutex::new(vec![bus.clone()]));
        let (ends, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        // It is there before the first is published.
        let made = bus.subscribe(Subscription::durable(SUBSCRIPTION)).await?;
        made.stop(Duration::from_secs(1)).await;
        let next = Arc::new(AtomicU64::new(0));
        let publishers = (0..PUBLISHERS)
            .map(|_| tokio::spawn(publish(Arc::clone(&buses), Arc::clone(&ends), Arc::clone(&next))))
            .collect();
        let traffic = Self {
            buses,
            publishers,
            subscribers: Mutex::default(),
            instances: Mutex::default(),
            ends,
            seen,
        };
        traffic.subscribes(bus);
        Ok(traffic)
    }

    fn subscribes(&self, bus: &Bus) {
        let subscriber = tokio::spawn(take(bus.clone(), Arc::clone(&self.ends), Arc::clone(&self.seen)));
        locked(&self.subscribers).push(subscriber);
    }

    /// There is another instance.
    fn goes_also(&self, bus: &Bus) {
        locked(&self.buses).push(bus.clone());
        self.subscribes(bus);
    }

    fn keeps(&self, instance: Served) {
        locked(&self.instances).push(instance);
    }

    /// Publishes no more, and waits until all that was accepted is settled.
    async fn end(self) -> Result<Arrived> {
        self.ends.store(true, Ordering::Relaxed);
        let mut receipts = Vec::new();
        for publisher in self.publishers {
            receipts.extend(publisher.await.context("a publisher")?);
        }
        let accepted = receipts.len() as u64;
        let settled = || locked(&self.seen).settled.len() as u64;
        let patience = Duration::from_secs(30);
        // What is missing is told as such.
        let all = until_within(patience, "all is settled", async || settled() >= accepted).await;
        drop(all);
        for subscriber in locked(&self.subscribers).drain(..) {
            subscriber.abort();
        }
        let seen = std::mem::take(&mut *locked(&self.seen));
        ensure!(!seen.given.is_empty(), "nothing was delivered");
        Ok(Arrived {
            accepted,
            missing: accepted.saturating_sub(seen.settled.len() as u64),
            twice: seen.settled.values().filter(|times| **times > 1).count() as u64,
            no_receipt: longest(receipts),
            no_delivery: longest(seen.given),
        })
    }
}

/// The longest time between two moments that follow each other.
fn longest(mut moments: Vec<Instant>) -> Duration {
    moments.sort();
    let between = moments.windows(2).map(|pair| pair[1] - pair[0]);
    between.max().unwrap_or_default()
}

/// Publishes one event after the other, each at the first instance that takes it, and returns when each was accepted.
async fn publish(buses: Arc<Mutex<Vec<Bus>>>, ends: Arc<AtomicBool>, next: Arc<AtomicU64>) -> Vec<Instant> {
    let mut receipts = Vec::new();
    let mut prefers = 0;
    while !ends.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let tenant = TENANTS[(n % TENANTS.len() as u64) as usize];
        let event = Event::new(tenant, EVENT_TYPE, n.to_string()).data(vec![b'.'; EVENT_BYTES]);
        let began = Instant::now();
        loop {
            let all = locked(&buses).clone();
            let bus = &all[prefers % all.len()];
            if let Ok(Ok(_)) = tokio::time::timeout(BRIEFLY, bus.publish(&event)).await {
                receipts.push(Instant::now());
                break;
            }
            // An event that nobody takes is published by nobody: the experiment ends without it, and counts what is missing.
            if began.elapsed() > PATIENCE {
                return receipts;
            }
            prefers += 1;
        }
        tokio::time::sleep(PAUSE).await;
    }
    receipts
}

/// Takes what an instance gives, and notes what was settled.
async fn take(bus: Bus, ends: Arc<AtomicBool>, seen: Arc<Mutex<Seen>>) {
    loop {
        let Ok(mut deliveries) = bus.subscribe(Subscription::durable(SUBSCRIPTION)).await else {
            // An instance that waits refuses, after a while of its own.
            if ends.load(Ordering::Relaxed) {
                return;
            }
            continue;
        };
        while let Some(next) = deliveries.recv().await {
            let Ok(delivery) = next else { break };
            let id = delivery.event().id.clone();
            locked(&seen).given.push(Instant::now());
            if delivery.ack().await.is_ok() {
                *locked(&seen).settled.entry(id).or_default() += 1;
            }
        }
    }
}

fn report(lab: &Lab, events: u64, bare: &Copied, migrated: &Migrated, arrived: &Arrived) -> Result<Findings> {
    let mut findings = Findings::default();
    lab.raw.note(&json!({
        "part": "migration", "events": events, "bare_s": bare.took.as_secs_f64(), "copied_s": migrated.copied.as_secs_f64(),
        "compared_s": migrated.compared.as_secs_f64(), "whole_s": migrated.whole.as_secs_f64(),
        "refused_ms": migrated.refused_ms, "undelivered_ms": migrated.undelivered_ms, "accepted": arrived.accepted,
        "missing": arrived.missing, "twice": arrived.twice, "no_receipt_ms": arrived.no_receipt.as_secs_f64() * 1_000.0,
        "no_delivery_ms": arrived.no_delivery.as_secs_f64() * 1_000.0,
    }))?;
    let bare_rate = bare.events as f64 / bare.took.as_secs_f64();
    let mut copies = Table::new("copies", &["", "events", "after", "events/s", "bare mirror = 1"]);
    for (what, copied, took) in [
        ("a bare mirror has all", bare.events, bare.took),
        ("`fanout migrate`: the copy has all", migrated.events, migrated.copied),
        ("it is compared, message by message", migrated.events, migrated.compared),
        ("the bus is at the new server", migrated.events, migrated.whole),
    ] {
        let per_second = copied as f64 / took.as_secs_f64();
        copies.row(vec![
            what.to_owned(),
            copied.to_string(),
            format!("{:.1} s", took.as_secs_f64()),
            rate(per_second),
            format!("{:.2}", per_second / bare_rate),
        ]);
    }
    let mut pauses = Table::new("pauses", &["", "as `fanout migrate` says", "as programs saw"]);
    for (what, said, seen) in [
        ("publishing", migrated.refused_ms, arrived.no_receipt),
        ("deliveries", migrated.undelivered_ms, arrived.no_delivery),
    ] {
        pauses.row(vec![what.to_owned(), ms(said), ms(seen.as_secs_f64() * 1_000.0)]);
    }
    let mut traffic = Table::new(
        "traffic",
        &["published meanwhile", "missing", "twice, after it was settled"],
    );
    traffic.row(vec![
        arrived.accepted.to_string(),
        arrived.missing.to_string(),
        arrived.twice.to_string(),
    ]);
    let whole = migrated.events as f64 / migrated.whole.as_secs_f64();
    findings.figure("events", migrated.events.to_string());
    findings.figure("whole", format!("{:.0} s", migrated.whole.as_secs_f64()));
    findings.figure("rate", rate(whole));
    findings.figure("to-bare", format!("{:.2}", whole / bare_rate));
    findings.figure("refused", ms(migrated.refused_ms));
    findings.figure("no-receipt", ms(arrived.no_receipt.as_secs_f64() * 1_000.0));
    findings.figure("published", arrived.accepted.to_string());
    findings.figure("missing", arrived.missing.to_string());
    findings.figure("twice", arrived.twice.to_string());
    findings.tables.extend([copies, pauses, traffic]);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_told_is_read_and_one_that_is_not_is_an_error() {
        let line =
            "bus b is in domain new; publishing was refused for 120 ms, and nothing was delivered for 340 ms. What";
        assert_eq!(said_ms(line, "publishing was refused for ").unwrap(), 120.0);
        assert_eq!(said_ms(line, "nothing was delivered for ").unwrap(), 340.0);
        assert!(said_ms("bus b stays", "publishing was refused for ").is_err());
    }

    #[test]
    fn the_longest_time_is_between_moments_that_follow_each_other() {
        let began = Instant::now();
        let moments = [0, 50, 10, 12].map(|at| began + Duration::from_millis(at));
        assert_eq!(longest(moments.to_vec()), Duration::from_millis(38));
    }
}
