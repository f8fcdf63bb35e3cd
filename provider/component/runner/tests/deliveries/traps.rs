//! Traps: each is an attempt that counts, and takes nothing else along.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use fanout_component::types::{LeasedDelivery, Rejection, Verdict};
use fanout_runner::{Attempts, Need as Wanted};

use super::{World, fetched, leased, plan, runner, verdict};

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

/// A component that traps takes the runner along; here, what it was at is left as the runner noted it.
fn after_a_trap_in(ids: &[&str]) -> (tempfile::TempDir, Attempts) {
    let folder = tempfile::tempdir().expect("there is a folder");
    let mut attempts = Attempts::load(Some(folder.path().to_owned())).expect("what was noted is read");
    let deliveries: Vec<_> = fetched(ids, None)
        .deliveries
        .into_iter()
        .map(|leased| leased.delivery)
        .collect();
    attempts.begin(&deliveries);
    let attempts = Attempts::load(Some(folder.path().to_owned())).expect("what was noted is read");
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
    let folder = tempfile::tempdir().expect("there is a folder");
    let world = Rc::<World>::default();
    for life in 0..most {
        let attempts = Attempts::load(Some(folder.path().to_owned())).expect("what was noted is read");
        let mut fetch = fetched(batches[life % batches.len()], None);
        let settled = |leased: &LeasedDelivery| world.settled.borrow().contains_key(&leased.token);
        for leased in &mut fetch.deliveries {
            leased.delivery.position.partition = u32::try_from(life % batches.len()).expect("there are few");
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
