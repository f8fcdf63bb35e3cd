//! Deliveries: settled by their own answer, renewed while they wait, and handed over while they are leased.

use std::rc::Rc;
use std::time::Duration;

use fanout_component::types::{Rejection, Subscription, SubscriptionOrigin, SubscriptionState, Verdict};
use fanout_runner::{Attempts, Called, Need as Wanted, Plan};

use super::{BUS_BATCH, LEASE_MS, World, away, fetched, listed, plan, runner, verdict};

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
