//! A whole bus goes from one JetStream domain to another, which a leaf node link joins, while it is published to and
//! delivers.

mod killed;
mod load;
mod refused;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanout_client::{Bus, Deliveries, Delivery, Event, Subscription, connect};
use fanout_plan::Policy;
use fanout_plan::document::Document;
use fanout_plan::migration::Stage;
use fanout_provider::jetstream::{Migration, MigrationStep as Step, Store};
use fanout_tests::{ANYONE_HERE, Cli, LeafNodes, SERVED_POLICY, Served, free_ports, jetstream_domain};
use fanout_transport::testing::NatsServer;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(20);
const LISTEN: [&str; 2] = ["--listen", "tcp://127.0.0.1:0"];

/// So that two buses fit the servers of a test.
const SIZES: &str = "
[retention]
max-bytes = \"64MiB\"

[registry]
max-bytes = \"8MiB\"

[dead-letters]
max-bytes = \"16MiB\"
";

/// Each with a type of event of its own, but for `billing` and `late`, which are given the same.
const DECLARED: [(&str, &str); 7] = [
    ("billing", "invoice.paid"),
    ("late", "invoice.paid"),
    ("held", "held.due"),
    ("waiting", "waiting.due"),
    ("refusing", "refused.always"),
    ("letters", "letter.due"),
    ("redriven", "redriven.due"),
];

fn policy_of(more: &str) -> String {
    let declared = DECLARED.map(|(name, event_type)| {
        format!("\n[subscriptions.{name}]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\nevent-types = [\"{event_type}\"]\n")
    });
    format!("{more}{SERVED_POLICY}{SIZES}{ANYONE_HERE}{}", declared.concat())
}

/// What the servers that others are joined to listen for.
struct Link(u16);

impl Link {
    fn new() -> Self {
        Self(free_ports(1)[0])
    }

    async fn old(&self) -> NatsServer {
        jetstream_domain("old", "", LeafNodes::Hub(self.0)).await
    }

    async fn joined(&self, domain: &str, limits: &str) -> NatsServer {
        jetstream_domain(domain, limits, LeafNodes::Leaf(self.0)).await
    }
}

fn migrate(cli: &Cli, policy: &Path, from: &NatsServer, to: &NatsServer, more: &[&str]) -> (i32, String, String) {
    let (from, to) = (from.url(), to.url());
    let ends = ["--from", &from, "--to", &to];
    tokio::task::block_in_place(|| cli.run(&["migrate"], policy, &[&ends[..], more].concat()))
}

/// What is refused with this code, says this, and changes nothing.
fn is_refused(run: &(i32, String, String), code: &str, says: &str) {
    let (exit, out, err) = run;
    assert!(
        *exit == 1 && err.contains(&format!("[{code}]")) && err.contains(says),
        "{code}, {says}: {out}{err}"
    );
}

/// The same in this process, for one that is stopped in the middle: nothing of it is kept but what the stores hold.
async fn by_hand(policy: &Path, from: &NatsServer, to: &NatsServer) -> Migration {
    let document = Document::parse(&std::fs::read_to_string(policy).unwrap()).unwrap();
    let policy = Policy::from_settings("test", &document.settings).unwrap();
    let store = async |nats: &NatsServer| Store::new(async_nats::connect(nats.url()).await.unwrap(), policy.clone());
    let migration = Migration::between(store(from).await, store(to).await).await.unwrap();
    migration.check().await.unwrap();
    migration
}

/// Copies and switches, and ends as a process that is killed does once it has shown this step.
async fn killed_after(migration: Migration, is_last: impl Fn(&Step) -> bool + Send + Sync + 'static) {
    let mut migration = migration.showing(move |step| {
        if is_last(step) {
            std::panic::resume_unwind(Box::new("killed"));
        }
    });
    let run = tokio::spawn(async move {
        migration.copy().await.unwrap();
        migration.switch(DRAIN).await.map(drop)
    });
    let killed = run.await;
    assert!(
        killed.as_ref().is_err_and(tokio::task::JoinError::is_panic),
        "{killed:?}"
    );
}

const TENANTS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

fn event(event_type: &str, n: usize) -> Event {
    // Each type has a source of its own: another event of one source and id is the same event.
    Event::new(TENANTS[n % 4], event_type, format!("{n:04}")).source(event_type)
}

async fn briefly<T>(call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(200), call).await.ok()
}

/// The buses at which events are published, which may become more.
type Buses = Arc<Mutex<Vec<Bus>>>;

/// Publishes one event at the first bus that takes it, until one does.
async fn publish_somewhere(at: &Buses, event: &Event) -> (u32, u64) {
    let began = Instant::now();
    loop {
        let buses = at.lock().unwrap().clone();
        for bus in &buses {
            // A client repeats a call that is refused for now; here it is another bus's turn, with the same id.
            if let Some(Ok(receipt)) = briefly(bus.publish(event)).await {
                return (receipt.position.partition, receipt.position.offset);
            }
        }
        assert!(began.elapsed() < PATIENCE, "{} is taken by none", event.id);
        tokio::task::yield_now().await;
    }
}

async fn publish(at: &Bus, event: &Event) -> (u32, u64) {
    publish_somewhere(&Arc::new(Mutex::new(vec![at.clone()])), event).await
}

/// Publishes one after the other until told to end. The positions, and the longest that one took.
struct Publishing {
    ends: Arc<AtomicBool>,
    task: JoinHandle<(Vec<(u32, u64)>, Duration)>,
}

impl Publishing {
    fn begin(at: &Buses) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn({
            let (ends, at) = (Arc::clone(&ends), Arc::clone(at));
            async move {
                let (mut positions, mut longest) = (Vec::new(), Duration::ZERO);
                while !ends.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    positions.push(publish_somewhere(&at, &event("invoice.paid", positions.len())).await);
                    longest = longest.max(began.elapsed());
                }
                (positions, longest)
            }
        });
        Self { ends, task }
    }

    async fn end(self) -> (Vec<(u32, u64)>, Duration) {
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// What became of one delivery.
#[derive(Clone, Debug)]
struct Taken {
    id: String,
    tenant: String,
    position: (u32, u64),
    attempt: u32,
    refused: bool,
}

/// Takes what a subscription is given: refuses the first attempt of each event whose number ends with a 7, and acknowledges the rest.
/// Only what the bus has confirmed is noted. Ends when told to, or once `n` are acknowledged and nothing follows.
async fn take(bus: Bus, name: &'static str, stop: Arc<AtomicBool>, n: usize) -> Vec<Taken> {
    let (mut taken, began) = (Vec::<Taken>::new(), Instant::now());
    let mut deliveries = bus.subscribe(Subscription::declared(name)).await.unwrap();
    while !stop.load(Ordering::Relaxed) && began.elapsed() < PATIENCE {
        let Ok(next) = tokio::time::timeout(Duration::from_millis(500), deliveries.recv()).await else {
            if taken.iter().filter(|t| !t.refused).count() >= n {
                break;
            }
            continue;
        };
        let Some(Ok(delivery)) = next else {
            tokio::task::yield_now().await;
            continue;
        };
        let refuses = delivery.event().id.ends_with('7') && delivery.attempt() == 1;
        let position = delivery.position();
        let this = Taken {
            id: delivery.event().id.clone(),
            tenant: delivery.event().tenant.clone(),
            position: (position.partition, position.offset),
            attempt: delivery.attempt(),
            refused: refuses,
        };
        let settled = match refuses {
            true => delivery.retry("not yet").await,
            false => delivery.ack().await,
        };
        if settled.is_ok() {
            taken.push(this);
        }
    }
    deliveries.stop(Duration::from_secs(1)).await;
    taken
}

/// The next delivery of a subscription.
async fn next(deliveries: &mut Deliveries) -> Delivery {
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "nothing is delivered");
        match tokio::time::timeout(PATIENCE, deliveries.recv()).await {
            Ok(Some(Ok(delivery))) => return delivery,
            _ => tokio::task::yield_now().await,
        }
    }
}

/// Whether each event was acknowledged once, none is missing, and what was refused came with its next attempt.
fn each_once(taken: &[Taken], wanted: &BTreeSet<String>) {
    let mut acknowledged = BTreeMap::<_, Vec<&Taken>>::new();
    for one in taken.iter().filter(|t| !t.refused) {
        acknowledged.entry(one.id.clone()).or_default().push(one);
    }
    let twice: Vec<_> = acknowledged.iter().filter(|(_, all)| all.len() > 1).collect();
    assert!(twice.is_empty(), "these came again after they were settled: {twice:#?}");
    let missing: Vec<_> = wanted.iter().filter(|id| !acknowledged.contains_key(*id)).collect();
    assert!(missing.is_empty(), "these are lost: {missing:?}");
    let more: Vec<_> = acknowledged.keys().filter(|id| !wanted.contains(*id)).collect();
    assert!(more.is_empty(), "nobody published these: {more:?}");
    for refused in taken.iter().filter(|t| t.refused) {
        let last = acknowledged[&refused.id][0].attempt;
        assert_eq!(last, refused.attempt + 1, "attempts of {} are forgotten", refused.id);
    }
}

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_nanos()).unwrap()
}

/// The dead letters of a subscription, as the command line lists them.
fn letters(cli: &Cli, policy: &Path, nats: &NatsServer, of: &str) -> Vec<serde_json::Value> {
    let url = nats.url();
    let (code, out, err) = tokio::task::block_in_place(|| {
        cli.run(
            &["--json", "dead-letters", "list"],
            policy,
            &["--subscription", of, "--nats", &url],
        )
    });
    assert_eq!(code, 0, "{out}{err}");
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    listed["dead_letters"].as_array().unwrap().clone()
}

async fn streams(nats: &NatsServer) -> Vec<String> {
    use futures::TryStreamExt as _;
    let js = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    js.stream_names().try_collect().await.unwrap()
}

async fn stage(policy: &Path, from: &NatsServer, to: &NatsServer) -> Stage {
    by_hand(policy, from, to).await.stage().await.unwrap()
}
