//! What a runner promises, with a bus, a clock and a component that are played.

mod settlement;
mod subscriptions;
mod traps;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use fanout_component::types::{
    BackfillProgress, CatchUp, Delivery, Event, FetchedDeliveries, Filter, LeasedDelivery, Need, Origin, Position,
    Problem, Rejection, Scope, SettleError, Settlement, SettlementOutcome, Subscription, SubscriptionOrigin,
    SubscriptionState, Verdict,
};
use fanout_runner::{Attempts, Called, Declared, Inbox, Need as Wanted, Plan, Runner, Subscriber, Trouble};

const LEASE_MS: u64 = 3_000;

/// What the bus says of a subscription that says nothing of batches.
const BUS_BATCH: u32 = 40;

/// What the bus and the component saw, and what the bus will say.
#[derive(Default)]
struct World {
    now: Cell<Duration>,
    made: RefCell<Vec<String>>,
    /// How many were asked for in each fetch.
    most: RefCell<Vec<u32>>,
    listed: RefCell<Vec<Subscription>>,
    fetches: RefCell<VecDeque<Result<FetchedDeliveries, Trouble>>>,
    fetched_from: RefCell<Vec<String>>,
    settled: RefCell<BTreeMap<Vec<u8>, Verdict>>,
    renewed: RefCell<Vec<Vec<u8>>>,
    /// Tokens whose leases are over.
    lost: RefCell<Vec<Vec<u8>>>,
    /// How many calls of `settle` fail.
    away: Cell<u32>,
    handed_over: RefCell<Vec<Vec<String>>>,
    notified: RefCell<Vec<BackfillProgress>>,
}

#[derive(Clone)]
struct Bus(Rc<World>);

impl Inbox for Bus {
    fn declare(&self, declared: &Declared) -> Result<Option<Subscription>, Trouble> {
        self.0.made.borrow_mut().push(declared.name.clone());
        let made = Subscription {
            batch_size: declared.batch.unwrap_or(BUS_BATCH),
            ..listed(&declared.name, SubscriptionOrigin::Call, SubscriptionState::Active)
        };
        Ok(declared.need.map(|_| made))
    }

    fn subscriptions(&self) -> Result<Vec<Subscription>, Trouble> {
        Ok(self.0.listed.borrow().clone())
    }

    fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble> {
        self.0.most.borrow_mut().push(most);
        self.0.fetched_from.borrow_mut().push(name.to_owned());
        let next = self.0.fetches.borrow_mut().pop_front();
        next.unwrap_or_else(|| {
            self.pause(wait);
            Ok(fetched(&[], None))
        })
    }

    fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble> {
        if self.0.away.get() > 0 {
            self.0.away.set(self.0.away.get() - 1);
            self.pause(Duration::from_millis(10));
            return Err(away(None));
        }
        let outcome = |settlement: &Settlement| {
            if self.0.lost.borrow().contains(&settlement.token) {
                return Err(SettleError::LeaseExpired(problem("lease-expired")));
            }
            if matches!(settlement.verdict, Verdict::StillWorking) {
                self.0.renewed.borrow_mut().push(settlement.token.clone());
                return Ok(SettlementOutcome::Extended(settlement.token.clone()));
            }
            self.0
                .settled
                .borrow_mut()
                .insert(settlement.token.clone(), settlement.verdict.clone());
            Ok(SettlementOutcome::Settled)
        };
        Ok(settlements.iter().map(outcome).collect())
    }

    fn now(&self) -> Duration {
        self.0.now.get()
    }

    fn pause(&self, time: Duration) {
        self.0.now.set(self.0.now.get() + time);
    }
}

/// A component whose handler takes so long, and answers as the event's id says.
struct Component<const BATCHES: bool> {
    world: Rc<World>,
    takes: Duration,
}

impl<const BATCHES: bool> Subscriber for Component<BATCHES> {
    const TAKES_BATCHES: bool = BATCHES;
    const IS_NOTIFIED: bool = true;

    fn handle(&self, deliveries: &[Delivery]) -> Vec<Result<(), Rejection>> {
        let ids: Vec<_> = deliveries.iter().map(|delivery| delivery.event.id.clone()).collect();
        self.world.now.set(self.world.now.get() + self.takes);
        let answer = |id: &&String| match id.as_str() {
            "refused" => Err(Rejection::DeadLetter("no".to_owned())),
            _ => Ok(()),
        };
        let traps = ids.iter().any(|id| id.starts_with("trap"));
        let answers = ids.iter().take_while(|id| *id != "unanswered");
        let answers = answers.map(|id| answer(&id)).collect();
        self.world.handed_over.borrow_mut().push(ids);
        assert!(!traps, "the component traps");
        answers
    }

    fn caught_up(&self, progress: &BackfillProgress) -> Result<(), Rejection> {
        self.world.notified.borrow_mut().push(progress.clone());
        match self.world.notified.borrow().len() {
            1 => Err(Rejection::Retry("not yet".to_owned())),
            _ => Ok(()),
        }
    }
}

fn away(retry_after: Option<Duration>) -> Trouble {
    Trouble::Now {
        problem: problem("peer-unreachable"),
        retry_after,
    }
}

fn problem(code: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        message: "why".to_owned(),
    }
}

fn leased(id: &str, offset: u64) -> LeasedDelivery {
    LeasedDelivery {
        delivery: Delivery {
            subscription: "a".to_owned(),
            event: Event {
                tenant: "acme".to_owned(),
                event_type: "invoice.paid".to_owned(),
                id: id.to_owned(),
                source: "/a".to_owned(),
                subject: None,
                time: None,
                data_content_type: None,
                data_schema: None,
                extensions: Vec::new(),
                ordering_key: None,
                data: Vec::new(),
            },
            position: Position { partition: 0, offset },
            attempt: 1,
            origin: Origin::Live,
            published_at: 0,
        },
        token: id.as_bytes().to_vec(),
        traceparent: None,
    }
}

fn fetched(ids: &[&str], caught_up: Option<CatchUp>) -> FetchedDeliveries {
    FetchedDeliveries {
        deliveries: ids.iter().zip(1..).map(|(id, offset)| leased(id, offset)).collect(),
        lease_ms: LEASE_MS,
        caught_up,
    }
}

fn listed(name: &str, made_by: SubscriptionOrigin, state: SubscriptionState) -> Subscription {
    Subscription {
        name: name.to_owned(),
        need: Need::Durable,
        filter: Filter {
            tenants: Vec::new(),
            event_types: Vec::new(),
            pattern: None,
        },
        made_by,
        state,
        pending: 0,
        in_flight: 0,
        redelivered: 0,
        waiting_for_retry: 0,
        expires_at: None,
        lost: Vec::new(),
        batch_size: BUS_BATCH,
        incarnation: "1".to_owned(),
    }
}

fn plan(need: Wanted) -> Plan {
    Plan {
        declared: Some(Declared {
            name: "a".to_owned(),
            need: Some(need),
            filter: Filter {
                tenants: Vec::new(),
                event_types: Vec::new(),
                pattern: None,
            },
            scope: Scope::Everywhere,
            batch: None,
        }),
        called: Called::None,
        batch: None,
    }
}

fn runner<const BATCHES: bool>(
    world: &Rc<World>,
    plan: Plan,
    takes: Duration,
    attempts: Attempts,
) -> Runner<Bus, Component<BATCHES>> {
    let component = Component {
        world: Rc::clone(world),
        takes,
    };
    Runner::new(Bus(Rc::clone(world)), component, plan, attempts)
}

fn verdict(world: &World, id: &str) -> Option<Verdict> {
    world.settled.borrow().get(id.as_bytes()).cloned()
}
