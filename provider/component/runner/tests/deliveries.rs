//! What a runner promises, with a bus, a clock and a component that are played.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use fanout_component::types::{
    BackfillProgress, CatchUp, Delivery, Event, FetchedDeliveries, Filter, LeasedDelivery, Need, Origin, Position,
    Problem, Rejection, SettleError, Settlement, SettlementOutcome, Subscription, SubscriptionOrigin,
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
    told: RefCell<Vec<BackfillProgress>>,
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
    const IS_TOLD: bool = true;

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
        self.world.told.borrow_mut().push(progress.clone());
        match self.world.told.borrow().len() {
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

#[test]
fn each_delivery_of_a_batch_is_settled_by_its_own_answer() {
    let world = Rc::<World>::default();
    world
        .fetches
        .borrow_mut()
        .push_back(Ok(fetched(&["fine", "refused", "unanswered", "after"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, Attempts::default()).turn();
    assert_eq!(*world.made.borrow(), ["a"]);
    assert_eq!(world.handed_over.borrow().len(), 1, "one invocation");
    assert_eq!(verdict(&world, "fine"), Some(Verdict::Handled));
    let refused = Verdict::Rejected(Rejection::DeadLetter("no".to_owned()));
    assert_eq!(verdict(&world, "refused"), Some(refused));
    for unanswered in ["unanswered", "after"] {
        let verdict = verdict(&world, unanswered);
        assert!(
            matches!(verdict, Some(Verdict::Rejected(Rejection::Retry(_)))),
            "{verdict:?}"
        );
    }
}

#[test]
fn what_waits_for_its_turn_keeps_its_lease_and_what_lost_it_is_not_handed_over() {
    let world = Rc::<World>::default();
    world
        .fetches
        .borrow_mut()
        .push_back(Ok(fetched(&["1", "2", "3", "4"], None)));
    world.lost.borrow_mut().push(b"4".to_vec());
    runner::<false>(
        &world,
        plan(Wanted::Durable),
        Duration::from_secs(1),
        Attempts::default(),
    )
    .turn();
    assert_eq!(*world.handed_over.borrow(), [["1"], ["2"], ["3"]]);
    let renewed = |id: &str| {
        world
            .renewed
            .borrow()
            .iter()
            .filter(|token| *token == id.as_bytes())
            .count()
    };
    assert_eq!(renewed("1"), 0, "it was handed over at once");
    assert!(
        renewed("3") >= 2,
        "three seconds' lease, and two seconds' waiting: {:?}",
        world.renewed.borrow()
    );
    for id in ["1", "2", "3"] {
        assert_eq!(verdict(&world, id), Some(Verdict::Handled), "{id}");
    }
}

#[test]
fn a_bus_that_is_away_is_settled_with_when_it_is_back() {
    let world = Rc::<World>::default();
    world.away.set(3);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, Attempts::default()).turn();
    assert_eq!(verdict(&world, "1"), Some(Verdict::Handled));
    // One that stays away is given up: the event comes again when the lease is over.
    world.away.set(u32::MAX);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["2"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, Attempts::default()).turn();
    assert_eq!(verdict(&world, "2"), None);
}

#[test]
fn a_queue_s_deliveries_are_neither_settled_nor_renewed() {
    let world = Rc::<World>::default();
    world
        .fetches
        .borrow_mut()
        .push_back(Ok(fetched(&["1", "refused"], None)));
    runner::<false>(&world, plan(Wanted::Queue), Duration::from_secs(9), Attempts::default()).turn();
    assert_eq!(world.handed_over.borrow().len(), 2);
    assert!(world.settled.borrow().is_empty() && world.renewed.borrow().is_empty());
}

#[test]
fn what_a_queue_s_handler_trapped_at_is_not_noted_since_it_does_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let load = || Attempts::load(Some(folder.path().to_owned())).unwrap();
    let world = Rc::<World>::default();
    world.fetches.borrow_mut().push_back(Ok(fetched(&["trap"], None)));
    let mut runner = runner::<false>(&world, plan(Wanted::Queue), Duration::ZERO, load());
    catch_unwind(AssertUnwindSafe(|| runner.turn())).unwrap_err();
    assert!(!load().trapped(&leased("trap", 1).delivery));
}

#[test]
fn a_subscription_that_is_gone_is_made_again() {
    let world = Rc::<World>::default();
    world
        .fetches
        .borrow_mut()
        .push_back(Err(Trouble::Unknown(problem("unknown-subscription"))));
    let mut runner = runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, Attempts::default());
    for _ in 0..5 {
        runner.turn();
    }
    assert_eq!(*world.made.borrow(), ["a", "a"]);
}

#[test]
fn a_component_is_told_once_that_it_caught_up_and_again_only_if_it_did_not_take_it() {
    let world = Rc::<World>::default();
    let caught_up = CatchUp {
        replayed: 2,
        finished: false,
    };
    for _ in 0..4 {
        world
            .fetches
            .borrow_mut()
            .push_back(Ok(fetched(&["1", "2"], Some(caught_up))));
    }
    let backfill = plan(Wanted::Backfill(fanout_component::types::Start::First));
    let mut runner = runner::<true>(&world, backfill, Duration::ZERO, Attempts::default());
    for _ in 0..8 {
        runner.turn();
    }
    assert_eq!(world.told.borrow().len(), 2, "refused once, taken once");
    // It is wound back, and catches up again.
    for answer in [None, Some(caught_up)] {
        world.fetches.borrow_mut().push_back(Ok(fetched(&[], answer)));
        runner.turn();
    }
    let told = world.told.borrow();
    assert_eq!(told.len(), 3, "and told of it");
    let reached = Position {
        partition: 0,
        offset: 2,
    };
    assert_eq!((told[1].replayed, told[1].reached), (2, Some(reached)));
}

#[test]
fn what_the_component_subscribed_to_by_a_call_is_delivered_until_it_ends_it() {
    let world = Rc::<World>::default();
    let called = Plan {
        declared: None,
        called: Called::All,
        batch: Some(10),
    };
    let mut runner = runner::<true>(&world, called, Duration::ZERO, Attempts::default());
    runner.turn();
    assert!(world.fetched_from.borrow().is_empty(), "there is none yet");
    *world.listed.borrow_mut() = vec![
        listed("late", SubscriptionOrigin::Call, SubscriptionState::Active),
        listed("other", SubscriptionOrigin::Link, SubscriptionState::Active),
    ];
    runner.turn();
    assert_eq!(*world.fetched_from.borrow(), ["late"]);
    world.listed.borrow_mut().clear();
    for _ in 0..3 {
        runner.turn();
    }
    let fetched = world.fetched_from.borrow().len();
    runner.turn();
    assert_eq!(world.fetched_from.borrow().len(), fetched, "it is ended");
}

/// A component that traps takes the runner along; here, what it was at is left as the runner noted it.
fn after_a_trap_in(ids: &[&str]) -> (tempfile::TempDir, Attempts) {
    let folder = tempfile::tempdir().unwrap();
    let mut attempts = Attempts::load(Some(folder.path().to_owned())).unwrap();
    let deliveries: Vec<_> = fetched(ids, None)
        .deliveries
        .into_iter()
        .map(|leased| leased.delivery)
        .collect();
    attempts.begin(&deliveries);
    let attempts = Attempts::load(Some(folder.path().to_owned())).unwrap();
    (folder, attempts)
}

#[test]
fn a_batch_that_trapped_is_handed_over_one_by_one() {
    let (_folder, attempts) = after_a_trap_in(&["1", "2"]);
    let world = Rc::<World>::default();
    world
        .fetches
        .borrow_mut()
        .push_back(Ok(fetched(&["1", "2", "3", "4"], None)));
    let mut runner = runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, attempts);
    runner.turn();
    assert_eq!(*world.handed_over.borrow(), [vec!["1"], vec!["2"], vec!["3", "4"]]);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1", "2"], None)));
    runner.turn();
    assert_eq!(
        world.handed_over.borrow()[3],
        ["1", "2"],
        "they were handled: nothing is held against them"
    );
}

/// Runners one after the other, each until the component traps; a fetch brings what is not settled of one batch, the batches in
/// turn.
fn lives<const BATCHES: bool>(batches: &[&[&str]], most: usize) -> Rc<World> {
    let folder = tempfile::tempdir().unwrap();
    let world = Rc::<World>::default();
    for life in 0..most {
        let attempts = Attempts::load(Some(folder.path().to_owned())).unwrap();
        let mut fetch = fetched(batches[life % batches.len()], None);
        let settled = |leased: &LeasedDelivery| world.settled.borrow().contains_key(&leased.token);
        for leased in &mut fetch.deliveries {
            leased.delivery.position.partition = u32::try_from(life % batches.len()).unwrap();
        }
        fetch.deliveries.retain(|leased| !settled(leased));
        world.fetches.borrow_mut().push_back(Ok(fetch));
        let mut runner = runner::<BATCHES>(&world, plan(Wanted::Durable), Duration::ZERO, attempts);
        // It traps, or it does not: what counts is what is settled in the end.
        drop(catch_unwind(AssertUnwindSafe(|| runner.turn())));
    }
    world
}

fn is_refused(world: &World, id: &str) -> bool {
    matches!(verdict(world, id), Some(Verdict::Rejected(Rejection::Retry(_))))
}

#[test]
fn each_of_two_that_trap_in_one_fetch_is_an_attempt_that_counts() {
    for world in [
        lives::<false>(&[&["fine", "trap 1", "trap 2", "after"]], 3),
        lives::<true>(&[&["fine", "trap 1", "trap 2", "after"]], 4),
    ] {
        for id in ["trap 1", "trap 2"] {
            assert!(is_refused(&world, id), "{id}: {:?}", world.handed_over.borrow());
            let alone = world.handed_over.borrow().iter().filter(|ids| *ids == &[id]).count();
            assert_eq!(alone, 1, "{id}: {:?}", world.handed_over.borrow());
        }
        for id in ["fine", "after"] {
            assert_eq!(verdict(&world, id), Some(Verdict::Handled), "{id}");
        }
    }
}

#[test]
fn traps_in_two_batches_are_held_against_both() {
    let world = lives::<true>(&[&["trap 1", "fine"], &["trap 2", "also fine"]], 6);
    for id in ["trap 1", "trap 2"] {
        assert!(is_refused(&world, id), "{id}: {:?}", world.handed_over.borrow());
    }
    for id in ["fine", "also fine"] {
        assert_eq!(verdict(&world, id), Some(Verdict::Handled), "{id}");
    }
}

#[test]
fn a_refusal_that_the_bus_did_not_take_is_made_again() {
    let (folder, attempts) = after_a_trap_in(&["trap"]);
    let world = Rc::<World>::default();
    world.away.set(u32::MAX);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["trap"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, attempts).turn();
    assert_eq!(verdict(&world, "trap"), None);
    world.away.set(0);
    let attempts = Attempts::load(Some(folder.path().to_owned())).unwrap();
    world.fetches.borrow_mut().push_back(Ok(fetched(&["trap"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, attempts).turn();
    assert!(is_refused(&world, "trap"));
    assert!(world.handed_over.borrow().is_empty());
}

#[test]
fn a_folder_that_is_not_there_is_an_error_and_a_note_that_can_t_be_read_is_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    Attempts::load(Some(folder.path().join("missing"))).unwrap_err();
    std::fs::write(folder.path().join("under-way"), [0xff, 0xfe]).unwrap();
    let attempts = Attempts::load(Some(folder.path().to_owned())).unwrap();
    let world = Rc::<World>::default();
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], None)));
    runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, attempts).turn();
    assert_eq!(*world.handed_over.borrow(), [["1"]]);
}

#[test]
fn what_waits_longer_than_its_lease_is_not_handed_over() {
    let world = Rc::<World>::default();
    world.away.set(u32::MAX);
    world
        .fetches
        .borrow_mut()
        .push_back(Ok(fetched(&["1", "2", "3"], None)));
    let takes = Duration::from_millis(LEASE_MS);
    runner::<false>(&world, plan(Wanted::Durable), takes, Attempts::default()).turn();
    assert_eq!(*world.handed_over.borrow(), [["1"]], "the others are another's by now");
}

#[test]
fn a_bus_that_names_a_wait_is_asked_after_it() {
    let world = Rc::<World>::default();
    let wait = Duration::from_secs(30);
    world.fetches.borrow_mut().push_back(Err(away(Some(wait))));
    let mut runner = runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, Attempts::default());
    runner.turn();
    while world.fetched_from.borrow().len() < 2 {
        runner.turn();
        assert!(world.now.get() < 3 * wait, "it is asked again");
    }
    assert!(world.now.get() >= wait, "{:?}", world.now.get());
}

const FINISHED: Option<CatchUp> = Some(CatchUp {
    replayed: 2,
    finished: true,
});

#[test]
fn a_finished_backfill_is_fetched_again_when_it_is_wound_back() {
    let world = Rc::<World>::default();
    let state = |state| *world.listed.borrow_mut() = vec![listed("a", SubscriptionOrigin::Link, state)];
    state(SubscriptionState::Finished);
    let mut declared = plan(Wanted::Durable);
    declared.declared.as_mut().unwrap().need = None;
    let mut runner = runner::<true>(&world, declared, Duration::ZERO, Attempts::default());
    let mut turns = || {
        for _ in 0..8 {
            runner.turn();
        }
    };
    // Told twice: the first time it does not take it.
    for _ in 0..2 {
        world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], FINISHED)));
    }
    turns();
    assert_eq!((world.fetched_from.borrow().len(), world.told.borrow().len()), (2, 2));
    state(SubscriptionState::CatchingUp);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], FINISHED)));
    turns();
    assert!(world.fetched_from.borrow().len() > 2, "it is fetched again");
    assert_eq!(world.told.borrow().len(), 3, "and the component is told again");
}

#[test]
fn what_is_ended_and_made_again_under_its_name_is_delivered() {
    let world = Rc::<World>::default();
    *world.listed.borrow_mut() = vec![listed("late", SubscriptionOrigin::Call, SubscriptionState::Active)];
    let called = Plan {
        declared: None,
        called: Called::All,
        batch: Some(10),
    };
    let mut runner = runner::<true>(&world, called, Duration::ZERO, Attempts::default());
    let unknown = Err(Trouble::Unknown(problem("unknown-subscription")));
    world.fetches.borrow_mut().push_back(unknown);
    runner.turn();
    // Between two looks it is there again.
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], None)));
    for _ in 0..4 {
        runner.turn();
    }
    assert_eq!(*world.handed_over.borrow(), [["1"]]);
}

#[test]
fn what_trapped_alone_is_an_attempt_that_counts() {
    let (folder, attempts) = after_a_trap_in(&["1"]);
    let world = Rc::<World>::default();
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1", "2"], None)));
    let mut runner = runner::<true>(&world, plan(Wanted::Durable), Duration::ZERO, attempts);
    runner.turn();
    assert_eq!(*world.handed_over.borrow(), [["2"]]);
    let verdict = verdict(&world, "1");
    assert!(
        matches!(verdict, Some(Verdict::Rejected(Rejection::Retry(_)))),
        "{verdict:?}"
    );
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], None)));
    runner.turn();
    assert_eq!(world.handed_over.borrow()[1], ["1"], "its next attempt is made");
    let left = Attempts::load(Some(folder.path().to_owned())).unwrap();
    assert_eq!(
        format!("{left:?}").matches('"').count(),
        2,
        "nothing is under way: {left:?}"
    );
}

#[test]
fn a_batch_is_as_large_as_the_subscription_says_within_what_the_operator_does() {
    let first_fetch = |plan: Plan, own: u32| {
        let world = Rc::<World>::default();
        *world.listed.borrow_mut() = vec![Subscription {
            batch_size: own,
            ..listed("a", SubscriptionOrigin::Call, SubscriptionState::Active)
        }];
        runner::<true>(&world, plan, Duration::ZERO, Attempts::default()).turn();
        let most = world.most.borrow().clone();
        assert_eq!(most.len(), 1, "{most:?}");
        most[0]
    };
    let called = |batch| Plan {
        declared: None,
        called: Called::All,
        batch,
    };
    assert_eq!(first_fetch(called(None), 7), 7, "as the component asked");
    assert_eq!(
        first_fetch(called(Some(5)), 7),
        5,
        "and no more than the operator lets it"
    );
    assert_eq!(first_fetch(called(Some(50)), 7), 7);
    let own = |need, batch| {
        let mut plan = plan(Wanted::Durable);
        let declared = plan.declared.as_mut().unwrap();
        (declared.need, declared.batch, plan.batch) = (need, batch, batch);
        plan
    };
    assert_eq!(
        first_fetch(own(Some(Wanted::Durable), Some(50)), 7),
        50,
        "as the operator says"
    );
    assert_eq!(
        first_fetch(own(Some(Wanted::Durable), None), 7),
        BUS_BATCH,
        "or the bus"
    );
    assert_eq!(first_fetch(own(None, None), 7), 7, "or its policy");
    assert_eq!(first_fetch(own(None, Some(50)), 7), 50);
    assert_eq!(
        first_fetch(own(Some(Wanted::Queue), None), 1),
        100,
        "a queue's fetch is no batch"
    );
}

#[test]
fn what_is_ended_and_made_again_between_two_looks_is_told_that_it_caught_up() {
    let world = Rc::<World>::default();
    let incarnation = |incarnation: &str| {
        *world.listed.borrow_mut() = vec![Subscription {
            incarnation: incarnation.to_owned(),
            ..listed("late", SubscriptionOrigin::Call, SubscriptionState::Active)
        }];
    };
    let called = Plan {
        declared: None,
        called: Called::All,
        batch: None,
    };
    let mut runner = runner::<true>(&world, called, Duration::ZERO, Attempts::default());
    let mut caught_up = |turns: usize| {
        for _ in 0..turns {
            let caught_up = CatchUp {
                replayed: 1,
                finished: false,
            };
            world.fetches.borrow_mut().push_back(Ok(fetched(&[], Some(caught_up))));
            runner.turn();
            world.now.set(world.now.get() + Duration::from_secs(3));
        }
    };
    incarnation("1");
    caught_up(5);
    assert_eq!(world.told.borrow().len(), 2, "refused once, taken once");
    // No look and no fetch has seen it gone.
    incarnation("2");
    caught_up(2);
    assert_eq!(world.told.borrow().len(), 3, "it is another subscription");
    caught_up(3);
    assert_eq!(world.told.borrow().len(), 3, "which is told once");
}
