//! A bus of two instances, and what happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use fanout_tests::nemesis::{Frozen, Nemesis, Proxy, Way};
use fanout_tests::types::{Event, PublishError};
use fanout_tests::{Bench, Cli, Component, event, eventually, ingress_and_invoicing, publisher};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsServer;

use crate::laws::{Laws, Order};

const LOG: &str = "fanout_payments_log";

/// How long the store may be away for the command line.
const PATIENCE: Duration = Duration::from_secs(30);

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"
ordering = \"key\"

[delivery]
deadline = \"400ms\"
ack-wait = \"1s\"

[retry]
schedule = \"20ms\"
max-attempts = 3
";

/// What the bus stands on, and what happens to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One server, to which nothing happens; instances are killed.
    Calm,
    /// One server, behind a proxy for each instance.
    OneServer,
    /// A cluster of three, with three copies of everything.
    ThreeServers,
}

/// Xorshift: repeatable, and good enough to choose steps.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.roll(to - from))
    }
}

pub struct World {
    bench: Bench,
    /// Servers beside the bench's own.
    others: Vec<NatsServer>,
    place: Place,
    /// One before each instance, under the nemesis.
    proxies: Vec<Proxy>,
    ingress: Component,
    /// Served for as long as it is here.
    _invoicing: Component,
    cli: Cli,
    policy: std::path::PathBuf,
    laws: Arc<Mutex<Laws>>,
    dice: Dice,
    published: usize,
    paused: bool,
}

impl World {
    pub async fn new(place: Place, order: Order, seed: u64) -> Self {
        let links = ingress_and_invoicing();
        let replicas = if place == Place::ThreeServers { "3" } else { "1" };
        let settings = [
            ("ordering", "key"),
            ("delivery.deadline", "400ms"),
            ("delivery.ack-wait", "1s"),
            ("retention.replicas", replicas),
        ];
        let (mut bench, others) = match place {
            Place::ThreeServers => Bench::without_provider_in_cluster(&settings, &links).await,
            _ => (Bench::without_provider(&settings, &links).await, Vec::new()),
        };
        let mut proxies = Vec::new();
        for _ in 0..2 {
            if place != Place::Calm {
                proxies.push(bench.put_proxy().await);
            }
            bench.add_provider().await;
        }
        let laws = Arc::new(Mutex::new(Laws::new(order)));
        let invoicing = bench.component("invoicing").await;
        let judged = Arc::clone(&laws);
        invoicing.judge(move |d| judged.lock().unwrap().judge(d));
        let cli = Cli::new(bench.nats.url());
        Self {
            ingress: bench.silent_component("ingress").await,
            _invoicing: invoicing,
            policy: cli.policy(&format!("{POLICY}\n[retention]\nreplicas = {replicas}\n")),
            bench,
            others,
            place,
            proxies,
            cli,
            laws,
            dice: Dice(seed),
            published: 0,
            paused: false,
        }
    }

    pub fn laws(&self) -> MutexGuard<'_, Laws> {
        self.laws.lock().unwrap()
    }

    /// Publishes some events in one call, as a careful publisher does: what has no receipt is sent again with its id.
    async fn publish(&mut self) {
        let mut events = Vec::new();
        for _ in 0..=self.dice.roll(8) {
            let tenant = ["acme", "globex", "initech"][self.dice.roll(3) as usize];
            let key = ["x", "y"][self.dice.roll(2) as usize];
            let id = format!("{:04}", self.published);
            self.published += 1;
            let event = Event {
                ordering_key: Some(key.into()),
                data: format!("payload of {id}").into(),
                ..event(tenant, "invoice.paid", &id)
            };
            let failures = [0, 0, 0, 0, 1, 2, 3][self.dice.roll(7) as usize];
            self.laws().publishes(&event, failures);
            events.push(event);
        }
        let events = Mutex::new(events);
        eventually("all of a call are accepted", || async {
            let left = events.lock().unwrap().clone();
            let context = CallContext::within(Duration::from_secs(2));
            let answers = publisher::publish_tenant_events(self.ingress.bus(), context, &left)
                .await
                .ok()?;
            let mut accepted = Vec::new();
            for (event, answer) in left.into_iter().zip(answers) {
                match answer {
                    Ok(receipt) => accepted.push((event.id, receipt)),
                    Err(PublishError::Unavailable(_) | PublishError::OutcomeUnknown(_)) => {}
                    Err(e) => panic!("{e:?}"),
                }
            }
            self.laws().accepted(&accepted);
            let mut events = events.lock().unwrap();
            events.retain(|event| !accepted.iter().any(|(id, _)| *id == event.id));
            events.is_empty().then_some(())
        })
        .await;
    }

    /// The command line, whose store may be away for a moment.
    fn run(&self, verb: &[&str], more: &[&str]) -> (i32, String, String) {
        let begun = Instant::now();
        loop {
            let (code, out, err) = self.cli.run(verb, &self.policy, more);
            if code != 3 || self.place == Place::Calm || begun.elapsed() > PATIENCE {
                return (code, out, err);
            }
        }
    }

    pub fn ask(&self, verb: &[&str], more: &[&str]) {
        let (code, out, err) = self.run(verb, more);
        assert_eq!(code, 0, "{verb:?} {more:?}: {out}{err}");
    }

    /// One step; what it was.
    pub async fn step(&mut self) -> String {
        if self.place != Place::Calm && self.dice.roll(3) == 0 {
            return self.nemesis().await;
        }
        match self.dice.roll(16) {
            0..=7 => {
                self.publish().await;
                format!("publish up to {}", self.published)
            }
            8 | 9 => {
                let i = self.dice.roll(2) as usize;
                self.bench.restart_provider(i).await;
                format!("kill and restart instance {i}")
            }
            10 => {
                self.paused = !self.paused;
                let verb = if self.paused { "pause" } else { "resume" };
                self.ask(&[verb], &["invoicing"]);
                verb.to_owned()
            }
            11 if self.published > 0 => {
                let to = format!("position:0/{}", 1 + self.dice.roll(self.published as u64));
                self.laws().rewinds += 1;
                let (code, out, err) = self.run(&["rewind"], &["invoicing", "--to", &to]);
                if err.contains("[would-lose-events]") {
                    self.laws().rewinds -= 1;
                    return format!("rewind to {to}: refused, it would pass over events");
                }
                assert_eq!(code, 0, "{out}{err}");
                format!("rewind to {to}")
            }
            12 | 13 => {
                self.ask(&["dead-letters", "redrive"], &["--all"]);
                "redrive all".to_owned()
            }
            _ => {
                let mut laws = self.laws();
                laws.broken = !laws.broken;
                format!("the handler is {}", if laws.broken { "broken" } else { "mended" })
            }
        }
    }

    /// Something goes wrong, while events are published, and is right again.
    async fn nemesis(&mut self) -> String {
        let i = self.dice.roll(2) as usize;
        let for_a_while = self.dice.milliseconds(100, 1_500);
        match self.dice.roll(if self.place == Place::ThreeServers { 9 } else { 6 }) {
            0 => {
                self.proxies[i].cut();
                tokio::time::sleep(for_a_while).await;
                self.proxies[i].heal();
                format!("instance {i} has no server for {for_a_while:?}")
            }
            1 => {
                self.proxies[i].reset();
                format!("the connection of instance {i} breaks")
            }
            // What is under way is lost. An instance that was restarted stands behind the other's proxy: nothing is
            // published while it holds.
            2 => {
                let way = [Way::ToClient, Way::ToServer][self.dice.roll(2) as usize];
                self.publish().await;
                self.proxies[i].hold(way);
                tokio::time::sleep(for_a_while).await;
                self.proxies[i].reset();
                format!("instance {i} is held {way:?} for {for_a_while:?}, and its connection breaks")
            }
            // Longer than a lease.
            3 => {
                let frozen = Frozen::process(self.bench.providers[i].id());
                let for_a_while = 2 * for_a_while;
                tokio::time::sleep(for_a_while).await;
                frozen.thaw();
                format!("instance {i} is frozen for {for_a_while:?}")
            }
            4 => {
                let frozen = Frozen::process(self.bench.nats.id());
                tokio::time::sleep(for_a_while).await;
                frozen.thaw();
                format!("the server is frozen for {for_a_while:?}")
            }
            5 => {
                self.bench.nats.restart().await;
                "the server is killed and restarted".to_owned()
            }
            6 => {
                self.steps_down(async |nemesis| nemesis.step_down(LOG).await).await;
                "the log's leader steps down".to_owned()
            }
            7 => {
                self.steps_down(async |nemesis| nemesis.step_down("KV_fanout_payments_registry").await)
                    .await;
                "the registry's leader steps down".to_owned()
            }
            _ => {
                self.others[i].restart().await;
                format!("server {} is killed and restarted", i + 1)
            }
        }
    }

    /// A stream that has no leader at this moment can't be asked for one to step down.
    async fn steps_down(&self, step_down: impl AsyncFn(&Nemesis)) {
        let nemesis = Nemesis::on(self.bench.client());
        let js = jetstream::new(self.bench.client().clone());
        eventually("the log has a leader", || async {
            let info = js.get_stream(LOG).await.ok()?;
            info.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await;
        step_down(&nemesis).await;
    }

    /// Nothing goes wrong any more.
    pub async fn heal(&mut self) {
        self.laws().broken = false;
        for proxy in &self.proxies {
            proxy.heal();
        }
        if self.paused {
            self.ask(&["resume"], &["invoicing"]);
        }
    }

    pub fn dead_letters(&self) -> BTreeSet<String> {
        let (_, out, err) = self.run(&["--json", "dead-letters", "list"], &["--limit", "100000"]);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        let letters = listed["dead_letters"].as_array().unwrap();
        letters
            .iter()
            .map(|l| l["attributes"]["ce-id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Every event is handled or a dead letter.
    pub async fn all_is_accounted_for(&self) {
        self.bench
            .subscription_when("invoicing", "nothing is pending", |s| s.backlog() == Some(0))
            .await;
        let dead = self.dead_letters();
        let laws = self.laws();
        let lost = laws.lost(&dead);
        assert!(lost.is_empty(), "neither handled nor a dead letter: {lost:?}");
    }

    /// Where the log has each id.
    pub async fn log(&self) -> BTreeMap<String, Vec<u64>> {
        let js = jetstream::new(self.bench.client().clone());
        let log = js.get_stream(LOG).await.unwrap();
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for offset in log.cached_info().state.first_sequence..=log.cached_info().state.last_sequence {
            let message = log.get_raw_message(offset).await.unwrap();
            let id = message.headers.get("ce-id").unwrap().to_string();
            found.entry(id).or_default().push(offset);
        }
        found
    }
}
