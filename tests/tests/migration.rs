//! A whole bus goes from one JetStream domain to another, which a leaf node link joins, while it is published to and
//! delivers.

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
use tokio::sync::mpsc;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_moves_under_load_and_nothing_is_lost_or_comes_again() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of("topology = \"sharded(2)\"\n"));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let before = connect(&at_old.listen[0]).await.unwrap();
    let mut first = Vec::new();
    for n in 0..50 {
        first.push(publish(&before, &event("before.all", n)).await);
    }
    let subscribed = async |name| before.subscribe(Subscription::declared(name)).await.unwrap();

    // Dead letters, and one that is asked to be delivered again.
    let (mut lettered, mut redriven) = (subscribed("letters").await, subscribed("redriven").await);
    for n in 0..6 {
        publish(&before, &event("letter.due", n)).await;
        next(&mut lettered)
            .await
            .dead_letter(format!("reason {n}"))
            .await
            .unwrap();
    }
    for n in 0..2 {
        publish(&before, &event("redriven.due", n)).await;
        next(&mut redriven).await.dead_letter("once").await.unwrap();
    }
    let redrive = ["--all", "--subscription", "redriven"];
    let (code, out, err) = cli.run(&["dead-letters", "redrive"], &policy, &redrive);
    assert_eq!(code, 0, "{out}{err}");
    let in_hand = next(&mut redriven).await;
    // One was refused and is in hand again, and one waits for its next attempt for longer than the switch takes.
    let (mut held, mut waiting) = (subscribed("held").await, subscribed("waiting").await);
    publish(&before, &event("held.due", 0)).await;
    next(&mut held).await.retry_now("first").await.unwrap();
    let second = next(&mut held).await;
    assert_eq!(second.attempt(), 2);
    publish(&before, &event("waiting.due", 0)).await;
    let wait = Duration::from_secs(12);
    next(&mut waiting).await.retry_after(wait, "later").await.unwrap();
    let refused_at = Instant::now();
    // One whose every attempt is refused: two here, and there is one left there.
    let mut refusing = subscribed("refusing").await;
    publish(&before, &event("refused.always", 0)).await;
    next(&mut refusing).await.retry_now("first").await.unwrap();
    let wait = Duration::from_secs(10);
    next(&mut refusing).await.retry_after(wait, "second").await.unwrap();

    let listed = letters(&cli, &policy, &old, "letters");
    assert_eq!(listed.len(), 6);
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--dry-run"]);
    assert!(code == 0 && out.contains("not begun"), "{out}{err}");
    let streams = streams(&new).await;
    assert!(streams.is_empty(), "a dry run makes nothing: {streams:?}");

    let migration = by_hand(&policy, &old, &new).await;
    migration.copy().await.unwrap();
    // An instance of the new store waits beside the copies.
    let at_new = Served::start(&new.url(), &policy, &LISTEN);
    let after = connect(&at_new.listen[0]).await.unwrap();
    let early = event("before.all", 99);
    assert!(briefly(after.publish(&early)).await.is_none_or(|r| r.is_err()));
    let (code, _, err) = cli.run(&["plan"], &policy, &["--nats", &new.url()]);
    assert!(code == 1 && err.contains("bus-migrating"), "{err}");

    let stop = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take(before.clone(), "billing", Arc::clone(&stop), usize::MAX));
    let publishing = Publishing::begin(&Arc::new(Mutex::new(vec![before.clone(), after.clone()])));
    // They come due before, while and after it switches.
    for i in 0..20_u16 {
        let due = now() + 400_000_000 * i64::from(i);
        let event = Event::new("acme", "invoice.paid", format!("due-{i}")).source("till");
        before.publish_at(&event, due).await.unwrap();
    }
    let scheduled = (0..20).map(|i| format!("due-{i}"));

    let (steps, mut shown) = mpsc::unbounded_channel();
    let mut migration = migration.showing(move |step| drop(steps.send(step.clone())));
    let switching = tokio::spawn(async move {
        migration.compare().await.unwrap();
        migration.switch(DRAIN).await
    });
    while shown.recv().await.unwrap() != Step::Withheld {}
    // Settled while it is drained: neither comes again.
    second.ack().await.unwrap();
    let in_hand_id = in_hand.event().id.clone();
    let in_hand_is_settled = in_hand.ack().await.is_ok();
    let switched = switching.await.unwrap().unwrap();
    println!("{switched:#?}");
    stop.store(true, Ordering::Relaxed);
    let mut taken = taking.await.unwrap();
    // Over the link the old instance's publishes arrive in the new store, until it notices.
    let mut crossed = 0;
    while let Some(Ok(_)) = briefly(before.publish(&event("crossed.over", crossed))).await {
        crossed += 1;
        assert!(crossed < 10_000, "the old instance goes on");
    }
    let (code, _, err) = cli.run(&["plan"], &policy, &[]);
    assert!(code == 1 && err.contains("bus-moved"), "{err}");
    // An id that was accepted is the same event.
    for (n, position) in first.iter().enumerate() {
        assert_eq!(publish(&after, &event("before.all", n)).await, *position);
    }
    assert_eq!(
        letters(&cli, &policy, &new, "letters"),
        listed,
        "the dead letters are the same"
    );

    let (positions, longest) = publishing.end().await;
    println!("{} published meanwhile, the longest took {longest:?}", positions.len());
    assert!(
        switched.refused_ms < 1_000,
        "publishing was refused for {} ms",
        switched.refused_ms
    );
    let distinct: BTreeSet<_> = positions.iter().chain(&first).collect();
    assert_eq!(
        distinct.len(),
        positions.len() + 50,
        "every event has a position of its own"
    );
    let wanted: BTreeSet<String> = (0..positions.len())
        .map(|n| format!("{n:04}"))
        .chain(scheduled)
        .collect();
    let rest = wanted.len() - taken.iter().filter(|t| !t.refused).count();
    taken.extend(take(after.clone(), "billing", Arc::default(), rest).await);
    each_once(&taken, &wanted);
    // Who fetched nothing before is given all, in each partition's order.
    let late = take(after.clone(), "late", Arc::default(), wanted.len()).await;
    each_once(&late, &wanted);
    let mut last = BTreeMap::new();
    for one in late.iter().filter(|t| t.attempt == 1) {
        let before = last.insert((one.position.0, &one.tenant), one.position.1);
        assert!(
            before.is_none_or(|before| before < one.position.1),
            "{one:?} came behind {before:?}"
        );
    }

    let there = async |name| after.subscribe(Subscription::declared(name)).await.unwrap();
    let mut redriven = there("redriven").await;
    let mut again = BTreeSet::new();
    for _ in 0..if in_hand_is_settled { 1 } else { 2 } {
        let delivery = next(&mut redriven).await;
        again.insert(delivery.event().id.clone());
        delivery.ack().await.unwrap();
    }
    assert_eq!(again.contains(&in_hand_id), !in_hand_is_settled);
    let mut waiting = there("waiting").await;
    let waited = next(&mut waiting).await;
    assert!(waited.attempt() == 2 && refused_at.elapsed() > Duration::from_secs(11));
    waited.ack().await.unwrap();
    let mut refusing = there("refusing").await;
    let third = next(&mut refusing).await;
    assert_eq!(third.attempt(), 3);
    third.retry_now("third").await.unwrap();
    fanout_tests::eventually("the last attempt was refused", || async {
        (letters(&cli, &policy, &new, "refusing").len() == 1).then_some(())
    })
    .await;
    let mut held = there("held").await;
    for (name, deliveries) in [
        ("held", &mut held),
        ("redriven", &mut redriven),
        ("waiting", &mut waiting),
        ("refusing", &mut refusing),
    ] {
        let more = briefly(deliveries.recv()).await;
        assert!(more.is_none(), "{name}: {more:?} comes again");
    }
    assert!(letters(&cli, &policy, &new, "redriven").is_empty());
}

async fn streams(nats: &NatsServer) -> Vec<String> {
    use futures::TryStreamExt as _;
    let js = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    js.stream_names().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_is_killed_behind_any_step_goes_back_or_goes_on() {
    let link = Link::new();
    let (old, new) = (link.old().await, link.joined("new", "").await);
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of("ordering = \"tenant\"\n"));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let before = connect(&at_old.listen[0]).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let taking = tokio::spawn(take(before.clone(), "billing", Arc::clone(&stop), usize::MAX));
    let buses = Buses::default();
    buses.lock().unwrap().push(before.clone());
    let publishing = Publishing::begin(&buses);
    let is_delivered = async || {
        let mut held = before.subscribe(Subscription::declared("held")).await.unwrap();
        publish(
            &before,
            &Event::new("acme", "held.due", now().to_string()).source("till"),
        )
        .await;
        next(&mut held).await.ack().await.unwrap();
        held.stop(Duration::from_secs(1)).await;
    };

    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Mirrored(_))).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Copying);
    is_delivered().await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Withheld).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Closed).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Closed);
    // Taken back: it goes on where it was, and nothing is left where it was to go.
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(streams(&new).await.is_empty());
    assert_eq!(stage(&policy, &old, &new).await, Stage::NotBegun);
    is_delivered().await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Still).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Equal).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Promoted(_))).await;
    assert_eq!(stage(&policy, &old, &new).await, Stage::Promoting);
    let (code, _, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert!(code == 1 && err.contains("bus-moved"), "{err}");
    killed_after(by_hand(&policy, &old, &new).await, |s| *s == Step::Released).await;
    killed_after(by_hand(&policy, &old, &new).await, |s| matches!(s, Step::Opened(_))).await;
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &[]);
    assert!(code == 0 && out.contains("is in domain new"), "{out}{err}");
    let (code, out, _) = migrate(&cli, &policy, &old, &new, &[]);
    assert!(code == 0 && out.contains("done"), "{out}");

    let at_new = Served::start(&new.url(), &policy, &LISTEN);
    let after = connect(&at_new.listen[0]).await.unwrap();
    buses.lock().unwrap().push(after.clone());
    stop.store(true, Ordering::Relaxed);
    let mut taken = taking.await.unwrap();
    let positions = publishing.end().await.0.len();
    let wanted: BTreeSet<String> = (0..positions).map(|n| format!("{n:04}")).collect();
    let rest = wanted.len() - taken.iter().filter(|t| !t.refused).count();
    taken.extend(take(after, "billing", Arc::default(), rest).await);
    each_once(&taken, &wanted);
    let mut last = BTreeMap::new();
    for one in taken.iter().filter(|t| !t.refused) {
        let before = last.insert(&one.tenant, one.position.1);
        assert!(
            before.is_none_or(|before| before < one.position.1),
            "{one:?} came behind {before:?}"
        );
    }
}

async fn stage(policy: &Path, from: &NatsServer, to: &NatsServer) -> Stage {
    by_hand(policy, from, to).await.stage().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_go_is_refused_and_nothing_is_changed() {
    let link = Link::new();
    let old = link.old().await;
    let cli = Cli::new(old.url());
    let policy = cli.policy(&policy_of(""));
    let at_old = Served::start(&old.url(), &policy, &LISTEN);
    let bus = connect(&at_old.listen[0]).await.unwrap();
    publish(&bus, &event("held.due", 0)).await;
    let mut deliveries = bus.subscribe(Subscription::declared("held")).await.unwrap();
    let held = next(&mut deliveries).await;

    let (new, small, apart) = (
        link.joined("new", "").await,
        link.joined("small", "max_file_store: 32M").await,
        jetstream_domain("apart", "", LeafNodes::None).await,
    );
    let nowhere = link.joined("old", "").await;
    let refused = |to: &NatsServer, why: &str, more: &[&str]| {
        let (code, out, err) = migrate(&cli, &policy, &old, to, more);
        assert!(code == 1 && err.contains(why), "{why}: {out}{err}");
    };
    refused(&old, "not-migratable", &[]);
    refused(&nowhere, "not-migratable", &[]);
    refused(&apart, "place-unreachable", &[]);
    refused(&small, "account-limit", &[]);
    refused(&new, "not-drained", &["--drain-seconds", "1"]);
    for to in [&nowhere, &apart, &small] {
        assert!(streams(to).await.is_empty(), "{}", to.url());
    }
    let (code, _, err) = migrate(&cli, &policy, &new, &apart, &[]);
    assert!(code == 1, "the copies are no bus: {err}");
    let other = [Cli::new(old.url()), Cli::new(old.url())];
    let by_bytes = other[0].policy(&format!("{}\n[quota]\nmax-bytes = \"1MiB\"\n", policy_of("")));
    let queue = other[1].policy(&format!(
        "topology = \"work-queue\"\n{SERVED_POLICY}{SIZES}{ANYONE_HERE}"
    ));
    for policy in [&by_bytes, &queue] {
        let (code, _, err) = migrate(&cli, policy, &old, &apart, &[]);
        assert!(code == 1 && err.contains("not-migratable"), "{err}");
    }

    assert_eq!(stage(&policy, &old, &new).await, Stage::Copying);
    held.ack().await.unwrap();
    // It goes on where it was.
    publish(&bus, &event("held.due", 1)).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.event().id, "0001");
    delivery.ack().await.unwrap();
    let (code, out, err) = migrate(&cli, &policy, &old, &new, &["--back"]);
    assert_eq!(code, 0, "{out}{err}");
    assert!(streams(&new).await.is_empty());

    let (code, out, err) = cli.run(&["apply"], &policy, &["--nats", &new.url()]);
    assert_eq!(code, 0, "{out}{err}");
    refused(&new, "target-not-empty", &[]);
}
