//! Deliveries against a model of a bus, on a clock of their own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::component::Doing;
use fanout_wit::types::{Event, FetchedDeliveries, Origin, SettleError, Settlement, SettlementOutcome, Verdict};

const HOLD: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(120);

/// What a bus keeps of an event.
#[derive(Clone, Debug, PartialEq)]
enum Kept {
    Pending,
    Held { token: u64, until: Instant },
    Acked,
    DeadLettered(String),
}

#[derive(Debug, Default)]
struct Log {
    events: BTreeMap<u64, Kept>,
    attempts: BTreeMap<u64, Vec<String>>,
    next_token: u64,
    declared: usize,
    is_down: bool,
    forgot: bool,
    replayed: Option<u64>,
    finishes: bool,
}

/// A bus: clones are one.
#[derive(Clone, Debug, Default)]
struct Model(Arc<Mutex<Log>>);

impl Model {
    fn with(events: u64) -> Self {
        let model = Self::default();
        model.log().events = (1..=events).map(|offset| (offset, Kept::Pending)).collect();
        model
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap()
    }

    fn count(&self, wanted: fn(&Kept) -> bool) -> usize {
        self.log().events.values().filter(|kept| wanted(kept)).count()
    }

    fn acked(&self) -> usize {
        self.count(|kept| *kept == Kept::Acked)
    }

    async fn until(&self, what: &str, holds: impl Fn(&Log) -> bool) {
        let wait = async {
            while !holds(&self.log()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(SOON, wait).await.is_err() {
            panic!("{what}: {:?}", self.log());
        }
    }
}

fn problem(code: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        message: code.to_owned(),
    }
}

fn delivery(offset: u64) -> Delivery {
    Delivery {
        subscription: "invoicing".to_owned(),
        event: Event {
            tenant: "acme".to_owned(),
            event_type: "invoice.paid".to_owned(),
            id: format!("evt-{offset}"),
            source: "/test".to_owned(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            ordering_key: None,
            data: Bytes::new(),
        },
        position: Position { partition: 0, offset },
        attempt: 1,
        origin: Origin::Live,
        published_at: 0,
    }
}

impl Inbox for Model {
    async fn declare(&self, wanted: &Subscription) -> Result<(), Trouble> {
        assert_eq!(wanted.name(), "invoicing");
        let mut log = self.log();
        if log.is_down {
            return Err(Trouble::Now(problem("peer-unreachable")));
        }
        log.declared += 1;
        log.forgot = false;
        Ok(())
    }

    async fn fetch(&self, _: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble> {
        let end = Instant::now() + wait;
        loop {
            {
                let mut log = self.log();
                let log = &mut *log;
                if log.is_down {
                    return Err(Trouble::Now(problem("peer-unreachable")));
                }
                if log.forgot {
                    return Err(Trouble::Unknown(problem("unknown-subscription")));
                }
                let mut deliveries = Vec::new();
                for (offset, kept) in &mut log.events {
                    let is_free = match kept {
                        Kept::Pending => true,
                        Kept::Held { until, .. } => *until <= Instant::now(),
                        _ => false,
                    };
                    if is_free && deliveries.len() < most as usize {
                        log.next_token += 1;
                        *kept = Kept::Held {
                            token: log.next_token,
                            until: Instant::now() + HOLD,
                        };
                        deliveries.push(LeasedDelivery {
                            delivery: delivery(*offset),
                            token: Bytes::copy_from_slice(&log.next_token.to_be_bytes()),
                            traceparent: Some(format!("trace-{offset}")),
                        });
                    }
                }
                let is_through = log
                    .events
                    .values()
                    .all(|kept| matches!(kept, Kept::Acked | Kept::DeadLettered(_)));
                let caught_up = log.replayed.filter(|_| is_through).map(|replayed| CatchUp {
                    replayed,
                    finished: log.finishes,
                });
                if !deliveries.is_empty() || caught_up.is_some() || Instant::now() >= end {
                    return Ok(FetchedDeliveries {
                        deliveries,
                        lease_ms: u64::try_from(HOLD.as_millis()).unwrap(),
                        caught_up,
                    });
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble> {
        let mut log = self.log();
        let log = &mut *log;
        if log.is_down {
            return Err(Trouble::Now(problem("peer-unreachable")));
        }
        let answers = settlements.iter().map(|settlement| {
            let token = u64::from_be_bytes(settlement.token.as_ref().try_into().unwrap());
            let held = log.events.iter_mut().find(|(_, kept)| {
                matches!(kept, Kept::Held { token: held, until } if *held == token && *until > Instant::now())
            });
            let Some((offset, kept)) = held else {
                return Err(SettleError::LeaseExpired(problem("lease-expired")));
            };
            match &settlement.verdict {
                Verdict::Handled => *kept = Kept::Acked,
                Verdict::Released => *kept = Kept::Pending,
                Verdict::StillWorking => {
                    log.next_token += 1;
                    *kept = Kept::Held {
                        token: log.next_token,
                        until: Instant::now() + HOLD,
                    };
                    return Ok(SettlementOutcome::Extended(Bytes::copy_from_slice(
                        &log.next_token.to_be_bytes(),
                    )));
                }
                Verdict::Rejected(Rejection::DeadLetter(reason)) => *kept = Kept::DeadLettered(reason.clone()),
                Verdict::Rejected(Rejection::Retry(reason)) => {
                    log.attempts.entry(*offset).or_default().push(reason.clone());
                    *kept = Kept::Pending;
                }
                Verdict::Rejected(other) => panic!("{other:?}"),
            }
            Ok(SettlementOutcome::Settled)
        });
        Ok(answers.collect())
    }
}

type Answer = Result<Vec<Result<(), Rejection>>, Unhandled>;

/// A component that answers as it is told, and remembers.
struct Played<F> {
    answer: F,
    takes: Duration,
    seen: Mutex<Vec<Vec<u64>>>,
    running: AtomicUsize,
    most_running: AtomicUsize,
    told: Mutex<Vec<Progress>>,
}

impl<F: Fn(&[u64], usize) -> Answer + Send + Sync + 'static> Played<F> {
    fn new(takes: Duration, answer: F) -> Arc<Self> {
        Arc::new(Self {
            answer,
            takes,
            seen: Mutex::default(),
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            told: Mutex::default(),
        })
    }
}

impl<F: Fn(&[u64], usize) -> Answer + Send + Sync + 'static> Subscriber for Played<F> {
    async fn handle(&self, deliveries: &[Delivery], traceparent: Option<&str>) -> Answer {
        let offsets: Vec<_> = deliveries.iter().map(|d| d.position.offset).collect();
        assert_eq!(
            traceparent,
            Some(format!("trace-{}", offsets[0]).as_str()),
            "the trace of the first, also when a batch is taken apart"
        );
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        sleep(self.takes).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let calls = {
            let mut seen = self.seen.lock().unwrap();
            seen.push(offsets.clone());
            seen.len()
        };
        (self.answer)(&offsets, calls)
    }

    async fn caught_up(&self, progress: &Progress) -> Result<(), Unhandled> {
        self.told.lock().unwrap().push(progress.clone());
        Ok(())
    }
}

fn plan(batch: usize, concurrency: usize) -> Plan {
    Plan {
        wanted: Subscription::durable("invoicing"),
        batch,
        concurrency,
        tell_caught_up: false,
    }
}

fn all_well(offsets: &[u64], _: usize) -> Answer {
    Ok(offsets.iter().map(|_| Ok(())).collect())
}

#[tokio::test(start_paused = true)]
async fn everything_is_handled_once_in_bounded_batches() {
    let bus = Model::with(95);
    let component = Played::new(Duration::from_millis(50), all_well);
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan(10, 3));
    bus.until("all are acknowledged", |log| {
        log.events.values().all(|kept| *kept == Kept::Acked)
    })
    .await;
    let seen = component.seen.lock().unwrap().clone();
    assert!(seen.iter().all(|batch| batch.len() <= 10), "{seen:?}");
    assert_eq!(seen.concat().len(), 95, "each once: {seen:?}");
    assert!(component.most_running.load(Ordering::SeqCst) <= 3);
    assert_eq!(deliveries.state().counts(), (95, 0));
    deliveries.stop().await;
}

#[tokio::test(start_paused = true)]
async fn each_is_settled_by_its_own_answer() {
    let bus = Model::with(4);
    let component = Played::new(Duration::ZERO, |offsets, calls| {
        Ok(offsets
            .iter()
            .map(|offset| match offset {
                2 if calls < 3 => Err(Rejection::Retry("later".to_owned())),
                3 => Err(Rejection::DeadLetter("never".to_owned())),
                _ => Ok(()),
            })
            .collect())
    });
    let deliveries = Deliveries::start(bus.clone(), component, plan(10, 1));
    bus.until("all are settled", |log| {
        log.events
            .values()
            .all(|kept| !matches!(kept, Kept::Pending | Kept::Held { .. }))
    })
    .await;
    deliveries.stop().await;
    assert_eq!(bus.acked(), 3);
    assert_eq!(bus.log().events[&3], Kept::DeadLettered("never".to_owned()));
    assert_eq!(bus.log().attempts[&2], ["later", "later"]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_keeps_its_holds() {
    let bus = Model::with(2);
    let component = Played::new(HOLD * 4, all_well);
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan(2, 2));
    bus.until("both are acknowledged", |log| {
        log.events.values().all(|kept| *kept == Kept::Acked)
    })
    .await;
    deliveries.stop().await;
    assert_eq!(*component.seen.lock().unwrap(), [[1, 2]], "given out once");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_is_down_uses_up_no_attempts() {
    let bus = Model::with(3);
    let component = Played::new(Duration::ZERO, |offsets, calls| {
        if calls < 12 {
            return Err(Unhandled::Unreachable("component invoicing is down".to_owned()));
        }
        all_well(offsets, calls)
    });
    let deliveries = Deliveries::start(bus.clone(), component, plan(10, 1));
    let state = deliveries.state();
    timeout(SOON, async {
        while !matches!(state.doing(), Doing::Waiting(problem) if problem.code == "subscriber-unreachable") {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it says that it waits");
    bus.until("all are acknowledged", |log| {
        log.events.values().all(|kept| *kept == Kept::Acked)
    })
    .await;
    assert!(bus.log().attempts.is_empty(), "{:?}", bus.log());
    assert!(matches!(state.doing(), Doing::Active));
    deliveries.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_event_does_not_take_its_batch_along() {
    let bus = Model::with(5);
    let component = Played::new(Duration::ZERO, |offsets, calls| {
        if offsets.contains(&4) && calls < 20 {
            return Err(Unhandled::Failed("it trapped".to_owned()));
        }
        all_well(offsets, calls)
    });
    let deliveries = Deliveries::start(bus.clone(), component, plan(5, 1));
    bus.until("all are acknowledged, the bad one last", |log| {
        log.events.values().all(|kept| *kept == Kept::Acked)
    })
    .await;
    deliveries.stop().await;
    let log = bus.log();
    assert_eq!(Vec::from_iter(log.attempts.keys()), [&4], "only it was refused");
    assert!(log.attempts[&4].iter().all(|reason| reason == "it trapped"));
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_goes_away_loses_nothing() {
    let bus = Model::with(60);
    let component = Played::new(Duration::from_millis(200), all_well);
    let deliveries = Deliveries::start(bus.clone(), component, plan(4, 2));
    for _ in 0..3 {
        sleep(Duration::from_millis(450)).await;
        bus.log().is_down = true;
        sleep(HOLD * 2).await;
        bus.log().is_down = false;
    }
    bus.until("all are acknowledged", |log| {
        log.events.values().all(|kept| *kept == Kept::Acked)
    })
    .await;
    assert!(bus.log().attempts.is_empty());
    deliveries.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_gone_is_made_again() {
    let bus = Model::with(1);
    let deliveries = Deliveries::start(bus.clone(), Played::new(Duration::ZERO, all_well), plan(1, 1));
    bus.until("it is acknowledged", |log| log.events[&1] == Kept::Acked)
        .await;
    bus.log().forgot = true;
    bus.log().events.insert(2, Kept::Pending);
    bus.until("the second too", |log| log.events[&2] == Kept::Acked).await;
    assert_eq!(bus.log().declared, 2);
    deliveries.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_leaves_nothing_held() {
    let bus = Model::with(500);
    let component = Played::new(Duration::from_millis(70), all_well);
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan(7, 4));
    sleep(Duration::from_millis(400)).await;
    deliveries.stop().await;
    assert_eq!(bus.count(|kept| matches!(kept, Kept::Held { .. })), 0);
    let handled = component.seen.lock().unwrap().concat().len();
    assert_eq!(bus.acked(), handled, "all that was handled is settled");
    assert!(handled > 0 && handled < 500, "{handled}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_tries_no_more_events_of_a_failed_batch() {
    let bus = Model::with(5);
    let component = Played::new(Duration::from_secs(1), |offsets, calls| match offsets.len() {
        1 => all_well(offsets, calls),
        _ => Err(Unhandled::Failed("it trapped".to_owned())),
    });
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan(5, 1));
    timeout(SOON, async {
        // The batch has failed, and the first of it is tried alone.
        while component.seen.lock().unwrap().is_empty() || component.running.load(Ordering::SeqCst) == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it is tried alone");
    deliveries.stop().await;
    assert_eq!(*component.seen.lock().unwrap(), [vec![1, 2, 3, 4, 5], vec![1]]);
    assert_eq!((bus.acked(), bus.count(|kept| *kept == Kept::Pending)), (1, 4));
    assert!(bus.log().attempts.is_empty(), "what was not tried counts as no attempt");
}

#[tokio::test(start_paused = true)]
async fn a_stop_gives_back_what_no_subscriber_was_reached_for() {
    let bus = Model::with(3);
    let component = Played::new(Duration::ZERO, |_, _| {
        Err(Unhandled::Unreachable("it is down".to_owned()))
    });
    let deliveries = Deliveries::start(bus.clone(), component, plan(2, 2));
    bus.until("they are held", |log| {
        !log.events.values().any(|kept| *kept == Kept::Pending)
    })
    .await;
    deliveries.stop().await;
    assert_eq!(bus.count(|kept| *kept == Kept::Pending), 3);
    assert!(bus.log().attempts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_fetch_brings_after_the_stop_is_given_back() {
    let bus = Model::with(0);
    let component = Played::new(Duration::ZERO, all_well);
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan(2, 2));
    bus.until("it waits for the first", |log| log.declared == 1).await;
    sleep(Duration::from_millis(10)).await;
    let stopping = tokio::spawn(deliveries.stop());
    sleep(Duration::from_millis(10)).await;
    bus.log().events.insert(1, Kept::Pending);
    stopping.await.unwrap();
    assert_eq!(bus.log().events[&1], Kept::Pending);
    assert!(component.seen.lock().unwrap().is_empty(), "nobody is given it");
}

#[tokio::test(start_paused = true)]
async fn a_backfill_tells_once_and_ends() {
    let bus = Model::with(3);
    bus.log().replayed = Some(3);
    bus.log().finishes = true;
    let component = Played::new(Duration::ZERO, all_well);
    let mut plan = plan(10, 1);
    plan.tell_caught_up = true;
    plan.wanted = Subscription::backfill("invoicing", crate::Start::First);
    let deliveries = Deliveries::start(bus.clone(), Arc::clone(&component), plan);
    let state = deliveries.state();
    timeout(SOON, async {
        while !matches!(state.doing(), Doing::Finished) {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it finishes");
    deliveries.stop().await;
    let told = component.told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].caught_up.replayed, 3);
    assert_eq!(told[0].reached.as_ref().map(|p| p.offset), Some(3));
}
