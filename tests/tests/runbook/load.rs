//! What goes on beside each procedure: two programs publish, one through each instance, and two share a durable
//! subscription. Every event that was accepted has to be handled at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_client::{Bus, Deliveries, Event, Subscription, connect_with};
use fanout_tests::eventually;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::world::World;

/// How often a program publishes, where nothing is in its way.
const EACH: Duration = Duration::from_millis(25);
/// How long what was accepted may wait until it is handled.
const HANDLED_WITHIN: Duration = Duration::from_secs(60);
/// How long a program rests that can't reach its instance.
const RESTS: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Seen {
    /// When each was accepted, by its id.
    accepted: BTreeMap<String, Instant>,
    handled: BTreeSet<String>,
    reports: BTreeSet<String>,
}

/// It ends when this is dropped.
pub(crate) struct Load {
    seen: Arc<Mutex<Seen>>,
    programs: JoinSet<()>,
    publishes: tokio::sync::watch::Sender<bool>,
}

impl Load {
    /// Subscribes, and begins to publish: what was published before a subscription is not its own.
    pub(crate) async fn begin(world: &World) -> Self {
        let (publishes, published) = tokio::sync::watch::channel(true);
        let mut load = Self {
            seen: Arc::default(),
            programs: JoinSet::new(),
            publishes,
        };
        for instance in 1..=2 {
            let of = Program {
                url: world.bus(instance),
                options: world.load(),
                seen: Arc::clone(&load.seen),
            };
            drop(of.deliveries(&billing()).await);
            load.programs.spawn(of.clone().handle());
            load.programs.spawn(of.clone().publish(instance, published.clone()));
            if instance == 1 {
                let program = world.machines.folder("reports-1").join("usr/local/bin/reports");
                load.programs.spawn(of.report(program));
            }
        }
        load
    }

    /// Until so many more events were accepted than now.
    pub(crate) async fn goes_on(&self, why: &str) {
        let before = self.accepted();
        eventually(&format!("events are accepted {why}"), || async {
            (self.accepted() >= before + 10).then_some(())
        })
        .await;
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.lock().unwrap().accepted.len()
    }

    /// What was accepted between two moments is not to be there.
    pub(crate) fn forget_between(&self, from: Instant, to: Instant) {
        let mut seen = self.seen.lock().unwrap();
        seen.accepted.retain(|_, at| *at < from || *at > to);
    }

    /// Ends what publishes, and waits until every accepted event is handled.
    pub(crate) async fn end(mut self) {
        self.publishes.send_replace(false);
        let end = Instant::now() + HANDLED_WITHIN;
        loop {
            let missing = self.missing();
            if missing.is_empty() {
                break;
            }
            assert!(
                Instant::now() < end,
                "{} accepted events were not handled, the first of them: {:?}",
                missing.len(),
                &missing[..missing.len().min(8)]
            );
            tokio::time::sleep(RESTS).await;
        }
        self.programs.shutdown().await;
    }

    /// What was accepted and is not handled yet, and how long ago that was, in seconds.
    fn missing(&self) -> Vec<(String, u64)> {
        let seen = self.seen.lock().unwrap();
        let missing = seen.accepted.iter().filter(|(id, _)| !seen.handled.contains(*id));
        missing.map(|(id, at)| (id.clone(), at.elapsed().as_secs())).collect()
    }

    /// Reports that their program took.
    pub(crate) fn reports(&self) -> usize {
        self.seen.lock().unwrap().reports.len()
    }
}

fn billing() -> Subscription {
    Subscription::durable("billing").event_types(["invoice.*"])
}

#[derive(Clone)]
struct Program {
    url: String,
    options: fanout_client::Options,
    seen: Arc<Mutex<Seen>>,
}

impl Program {
    async fn bus(&self) -> Bus {
        loop {
            match connect_with(&self.url, self.options.clone()).await {
                Ok(bus) => return bus,
                Err(_) => tokio::time::sleep(RESTS).await,
            }
        }
    }

    /// Publishes one event after another, each until it is accepted.
    async fn publish(self, name: usize, published: tokio::sync::watch::Receiver<bool>) {
        let mut pace = interval(EACH);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut bus = self.bus().await;
        for n in 0_u64.. {
            pace.tick().await;
            if !*published.borrow() {
                return;
            }
            let id = format!("{name}-{n}");
            let event = Event::new("acme", "invoice.paid", &id).source("load").data("{}");
            while bus.publish(&event).await.is_err() {
                if !*published.borrow() {
                    return;
                }
                tokio::time::sleep(RESTS).await;
                bus = self.bus().await;
            }
            self.seen.lock().unwrap().accepted.insert(id, Instant::now());
        }
    }

    /// The deliveries of a subscription, once there are any.
    async fn deliveries(&self, of: &Subscription) -> (Bus, Deliveries) {
        loop {
            let bus = self.bus().await;
            match bus.subscribe(of.clone()).await {
                Ok(deliveries) => return (bus, deliveries),
                Err(_) => tokio::time::sleep(RESTS).await,
            }
        }
    }

    async fn handle(self) {
        loop {
            let (_bus, mut deliveries) = self.deliveries(&billing()).await;
            while let Some(Ok(delivery)) = deliveries.recv().await {
                let id = delivery.event().id.clone();
                self.seen.lock().unwrap().handled.insert(id);
                // Unsettled, it comes again.
                drop(delivery.ack().await);
            }
        }
    }

    /// A subscriber that refuses what it is given, until its program is mended.
    async fn report(self, program: PathBuf) {
        let reports = Subscription::declared("reports");
        loop {
            let (_bus, mut deliveries) = self.deliveries(&reports).await;
            while let Some(Ok(delivery)) = deliveries.recv().await {
                let is_mended = std::fs::read_to_string(&program).is_ok_and(|text| text.contains("mended"));
                if is_mended {
                    self.seen.lock().unwrap().reports.insert(delivery.event().id.clone());
                    drop(delivery.ack().await);
                } else {
                    drop(delivery.retry("no column `amount`").await);
                }
            }
        }
    }
}

/// Publishes reports, all of which are accepted.
pub(crate) async fn publish_reports(world: &World, count: usize) {
    let bus = connect_with(&world.bus(1), world.load()).await.unwrap();
    for n in 0..count {
        let event = Event::new("acme", "report.made", format!("r{n}"))
            .source("load")
            .data("{}");
        bus.publish(&event).await.unwrap();
    }
}

/// Publishes large events until the log takes no more.
pub(crate) async fn fill(world: &World) {
    let bus = connect_with(&world.bus(1), world.load()).await.unwrap();
    let data = Bytes::from(vec![b'x'; 64 << 10]);
    for n in 0..2_000 {
        let event = Event::new("archive", "file.stored", format!("f{n}"))
            .source("load")
            .data(data.clone());
        match bus.publish(&event).await {
            Ok(_) => {}
            Err(error) if error.code == "store-full" => return,
            // Its leader may change meanwhile: the next says the same.
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
    }
    panic!("the log takes everything");
}
