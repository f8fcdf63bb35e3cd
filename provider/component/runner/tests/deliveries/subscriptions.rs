//! Subscriptions that are gone, made by a call, caught up, or begun anew.

use std::rc::Rc;
use std::time::Duration;

use fanout_component::types::{CatchUp, Position, Subscription, SubscriptionOrigin, SubscriptionState};
use fanout_runner::{Attempts, Called, Need as Wanted, Plan, Trouble};

use super::{World, fetched, listed, plan, problem, runner};

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
fn a_component_is_notified_once_that_it_caught_up_and_again_only_if_it_did_not_take_it() {
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
    assert_eq!(world.notified.borrow().len(), 2, "refused once, taken once");
    // It is wound back, and catches up again.
    for answer in [None, Some(caught_up)] {
        world.fetches.borrow_mut().push_back(Ok(fetched(&[], answer)));
        runner.turn();
    }
    let notified = world.notified.borrow();
    assert_eq!(notified.len(), 3, "and notified of it");
    let reached = Position {
        partition: 0,
        offset: 2,
    };
    assert_eq!((notified[1].replayed, notified[1].reached), (2, Some(reached)));
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
    assert_eq!(
        (world.fetched_from.borrow().len(), world.notified.borrow().len()),
        (2, 2)
    );
    state(SubscriptionState::CatchingUp);
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], FINISHED)));
    turns();
    assert!(world.fetched_from.borrow().len() > 2, "it is fetched again");
    assert_eq!(world.notified.borrow().len(), 3, "and the component is notified again");
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
    // Between two lists it is there again.
    world.fetches.borrow_mut().push_back(Ok(fetched(&["1"], None)));
    for _ in 0..4 {
        runner.turn();
    }
    assert_eq!(*world.handed_over.borrow(), [["1"]]);
}

#[test]
fn what_is_ended_and_made_again_between_two_lists_is_notified_that_it_caught_up() {
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
    assert_eq!(world.notified.borrow().len(), 2, "refused once, taken once");
    // No list and no fetch has seen it gone.
    incarnation("2");
    caught_up(2);
    assert_eq!(world.notified.borrow().len(), 3, "it is another subscription");
    caught_up(3);
    assert_eq!(world.notified.borrow().len(), 3, "which is notified once");
}
