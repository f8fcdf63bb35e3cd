//! A model of deliveries in lockstep with the real provider, on a random schedule: publish, fail, crash, restart, pause,
//! rewind, redrive. Whatever happens, every event ends handled or as a dead letter, and each key's order holds.
//!
//! The seed is printed; `FANOUT_MODEL_SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fanout_tests::types::{Delivery, Event, Rejection};
use fanout_tests::{Bench, Cli, Component, LinkTo, Verdict, event, eventually};

/// A schedule ends after this, however many steps it has left.
const BUDGET: Duration = Duration::from_secs(30);
const STEPS: usize = 40;
const MAX_ATTEMPTS: u32 = 3;

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

/// Xorshift: repeatable, and good enough to choose steps.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What must hold, kept by the subscriber's side.
#[derive(Default)]
struct Model {
    /// How often each event still has to fail.
    failures_left: BTreeMap<String, u32>,
    /// While set, everything fails.
    broken: bool,
    handled: BTreeSet<String>,
    /// Events that were refused for good at least once: redriven, they come behind later ones.
    set_aside: BTreeSet<String>,
    /// The furthest offset of each key, and how often it went back.
    furthest: BTreeMap<String, u64>,
    went_back: BTreeMap<String, u32>,
    rewinds: u32,
    wrong: Vec<String>,
}

impl Model {
    fn judge(&mut self, d: &Delivery) -> Verdict {
        let id = d.event.id.clone();
        let key = format!("{}/{}", d.event.tenant, d.event.ordering_key.as_deref().unwrap_or(""));
        if !self.set_aside.contains(&id) {
            let furthest = self.furthest.entry(key.clone()).or_default();
            if d.position.offset < *furthest {
                let times = self.went_back.entry(key.clone()).or_default();
                *times += 1;
                if *times > self.rewinds {
                    self.wrong.push(format!(
                        "key {key}: {id} at {} came after {furthest}",
                        d.position.offset
                    ));
                }
            }
            *furthest = d.position.offset;
        }
        let left = self.failures_left.entry(id.clone()).or_default();
        if self.broken || *left > 0 {
            *left = left.saturating_sub(1);
            if d.attempt >= MAX_ATTEMPTS {
                self.set_aside.insert(id);
            }
            return Verdict::Refuse(Rejection::Retry("the model says so".into()));
        }
        self.handled.insert(id);
        Verdict::Handle
    }
}

struct World {
    bench: Bench,
    ingress: Component,
    cli: Cli,
    policy: std::path::PathBuf,
    model: Arc<Mutex<Model>>,
    dice: Dice,
    published: Vec<String>,
    paused: bool,
}

impl World {
    async fn publish(&mut self) {
        for _ in 0..=self.dice.roll(8) {
            let tenant = ["acme", "globex", "initech"][self.dice.roll(3) as usize];
            let key = ["x", "y"][self.dice.roll(2) as usize];
            let id = format!("{:04}", self.published.len());
            let failures = [0, 0, 0, 0, 1, 2, 3][self.dice.roll(7) as usize];
            self.model.lock().unwrap().failures_left.insert(id.clone(), failures);
            let event = Event {
                ordering_key: Some(key.into()),
                ..event(tenant, "invoice.paid", &id)
            };
            self.ingress.publish(event).await.unwrap();
            self.published.push(id);
        }
    }

    fn ask(&self, verb: &[&str], more: &[&str]) {
        let (code, out, err) = self.cli.run(verb, &self.policy, more);
        assert_eq!(code, 0, "{verb:?} {more:?}: {out}{err}");
    }

    async fn step(&mut self) -> String {
        match self.dice.roll(16) {
            0..=7 => {
                self.publish().await;
                format!("publish up to {}", self.published.len())
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
            11 if !self.published.is_empty() => {
                let to = format!("position:0/{}", 1 + self.dice.roll(self.published.len() as u64));
                self.model.lock().unwrap().rewinds += 1;
                let (code, out, err) = self.cli.run(&["rewind"], &self.policy, &["invoicing", "--to", &to]);
                if err.contains("[would-lose-events]") {
                    self.model.lock().unwrap().rewinds -= 1;
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
                let mut model = self.model.lock().unwrap();
                model.broken = !model.broken;
                format!("the handler is {}", if model.broken { "broken" } else { "mended" })
            }
        }
    }

    fn dead_letters(&self) -> BTreeSet<String> {
        let (_, out, err) = self.cli.run(
            &["--json", "dead-letters", "list"],
            &self.policy,
            &["--limit", "100000"],
        );
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
        let letters = listed["dead_letters"].as_array().unwrap();
        letters
            .iter()
            .map(|l| l["attributes"]["ce-id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Every event is handled or a dead letter.
    async fn all_is_accounted_for(&self) {
        self.bench
            .subscription_when("invoicing", "nothing is pending", |s| {
                s["pending"] == 0 && s["in_flight"] == 0 && s["waiting_for_retry"] == 0
            })
            .await;
        let dead = self.dead_letters();
        let handled = self.model.lock().unwrap().handled.clone();
        let lost: Vec<_> = self
            .published
            .iter()
            .filter(|id| !handled.contains(*id) && !dead.contains(*id))
            .collect();
        assert!(lost.is_empty(), "neither handled nor set aside: {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_ends_handled_or_set_aside_and_keys_keep_their_order() {
    let seed = std::env::var("FANOUT_MODEL_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| {
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            now.as_nanos() as u64 | 1
        });
    println!("FANOUT_MODEL_SEED={seed}");
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "invoicing",
            &["handler"],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
    ];
    let settings = [
        ("ordering", "key"),
        ("delivery.deadline", "400ms"),
        ("delivery.ack-wait", "1s"),
    ];
    let mut bench = Bench::start(&settings, &links).await;
    bench.add_provider().await;
    let model = Arc::new(Mutex::new(Model::default()));
    let invoicing = bench.component("invoicing").await;
    let judged = Arc::clone(&model);
    invoicing.judge(move |d| judged.lock().unwrap().judge(d));
    let cli = Cli::new(bench.nats.url());
    let mut world = World {
        ingress: bench.silent_component("ingress").await,
        policy: cli.policy(POLICY),
        bench,
        cli,
        model: Arc::clone(&model),
        dice: Dice(seed),
        published: Vec::new(),
        paused: false,
    };
    let start = Instant::now();
    for step in 0..STEPS {
        if start.elapsed() > BUDGET {
            break;
        }
        println!("{step}: {}", world.step().await);
        let wrong = world.model.lock().unwrap().wrong.clone();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    world.model.lock().unwrap().broken = false;
    if world.paused {
        world.ask(&["resume"], &["invoicing"]);
    }
    world.all_is_accounted_for().await;
    // Mended, what was set aside can be handled too.
    world.model.lock().unwrap().failures_left.clear();
    eventually("no dead letter is left", || async {
        world.ask(&["dead-letters", "redrive"], &["--all"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.dead_letters().is_empty().then_some(())
    })
    .await;
    let model = world.model.lock().unwrap();
    let all: BTreeSet<_> = world.published.iter().cloned().collect();
    assert_eq!(model.handled, all);
    assert!(model.wrong.is_empty(), "{:?}", model.wrong);
}
