//! A model of deliveries in lockstep with the real provider, on a random schedule: publish, fail, crash, restart, pause,
//! rewind, redrive; and, under the nemesis, cut, hold, freeze and step down. Whatever happens, every event ends handled
//! or as a dead letter, and each key's order holds.
//!
//! The seed is printed; `FANOUT_MODEL_SEED` repeats a run.

mod laws;
mod world;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fanout_tests::eventually;

use laws::Order;
use world::{Place, World};

/// A schedule ends after this, however many steps it has left.
const BUDGET: Duration = Duration::from_secs(30);
const STEPS: usize = 40;

/// Runs a schedule, and holds what came of it to the laws.
async fn run(place: Place, order: Order) {
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
    let mut world = World::new(place, order, seed).await;
    let start = Instant::now();
    for step in 0..STEPS {
        if start.elapsed() > BUDGET {
            break;
        }
        println!("{step}: {}", world.step().await);
        let wrong = world.laws().wrong.clone();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
    world.heal().await;
    world.all_is_accounted_for().await;
    // Mended, what is a dead letter can be handled too: with its own payload, which the handler compares.
    world.laws().failures_left.clear();
    eventually("no dead letter is left", || async {
        world.ask(&["dead-letters", "redrive"], &["--all"]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.dead_letters().is_empty().then_some(())
    })
    .await;
    let log = world.log().await;
    let laws = world.laws();
    assert_eq!(laws.holds(&log), [""; 0]);
    let unhandled: BTreeSet<_> = laws.accepted_ids().difference(&laws.handled).cloned().collect();
    assert!(unhandled.is_empty(), "{unhandled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_ends_handled_or_a_dead_letter_and_keys_keep_their_order() {
    run(Place::Calm, Order::Strict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_under_the_nemesis() {
    run(Place::OneServer, Order::FirstDeliveries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_on_three_servers_under_the_nemesis() {
    run(Place::ThreeServers, Order::FirstDeliveries).await;
}
