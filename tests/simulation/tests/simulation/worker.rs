//! A program that is given deliveries by the client.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fanout_client::{Delivery, Subscription};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::history::now;
use crate::publisher::{DEADLINE, connected, in_time, options};
use crate::store::LEASE;
use crate::world::{Part, Phase, SLACK};

/// For this time it is tried to settle, at least.
const SETTLED: Duration = Duration::from_secs(10);
/// For this time it is waited for what is under way.
const STOPPED: Duration = Duration::from_secs(5);

/// The software of its host.
pub async fn run(mut part: Part, subscription: &'static str) -> turmoil::Result {
    let options = options(&mut part);
    let bus = connected(&part, &options).await;
    let prefetch = 1 + part.dice.roll(8);
    let wanted = Subscription::durable(subscription).prefetch(prefetch as u32);
    let mut deliveries = loop {
        let since = now();
        let subscribed = bus.subscribe(wanted.clone()).await;
        in_time(&part, "subscribing", since, DEADLINE);
        match subscribed {
            Ok(deliveries) => break deliveries,
            Err(error) => part.world.history.note(format_args!("{}: {error}", part.name)),
        }
    };
    let world = part.world.clone();
    world.done(&part.name);
    let part = Arc::new(part);
    let mut dice = world.dice(&format!("{} handling", part.name), part.incarnation);
    let mut handling = JoinSet::new();
    let mut first: HashMap<Option<String>, u64> = HashMap::new();
    loop {
        let delivery = tokio::select! {
            biased;
            () = world.reaches(Phase::Over) => break,
            Some(handled) = handling.join_next() => {
                handled?;
                continue;
            }
            delivery = deliveries.recv() => delivery,
        };
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            other => {
                world
                    .history
                    .broken(format_args!("{}: deliveries go on for ever: {other:?}", part.name));
                return Ok(());
            }
        };
        if subscription == "ordered" && delivery.attempt() == 1 {
            let offset = delivery.position().offset;
            let before = first.insert(delivery.event().ordering_key.clone(), offset).unwrap_or(0);
            world.history.holds(before <= offset, || {
                format!(
                    "{}: no first delivery goes back: {offset} comes after {before}",
                    part.name
                )
            });
        }
        let how = How::new(&mut dice);
        world.history.note(format_args!(
            "{}: is given {} as {}: {how:?}",
            part.name,
            delivery.event().id,
            delivery.published_at()
        ));
        handling.spawn(handle(Arc::clone(&part), subscription, delivery, how));
        world.history.holds(handling.len() as u64 <= prefetch, || {
            format!("{}: no more than {prefetch} are held: {}", part.name, handling.len())
        });
    }
    handling.abort_all();
    let since = now();
    deliveries.stop(STOPPED).await;
    in_time(&part, "stopping", since, STOPPED);
    Ok(())
}

/// What a program does with a delivery.
#[derive(Clone, Copy, Debug)]
struct How {
    time: Duration,
    what: u64,
}

impl How {
    fn new(dice: &mut crate::dice::Dice) -> Self {
        let time = match dice.roll(10) {
            0 => dice.milliseconds(1_000, 4_000),
            1..=4 => dice.milliseconds(50, 600),
            _ => dice.milliseconds(1, 30),
        };
        Self {
            time,
            what: dice.roll(20),
        }
    }
}

async fn handle(part: Arc<Part>, subscription: &'static str, delivery: Delivery, how: How) {
    let history = &part.world.history;
    let (lease, offset, received) = (delivery.published_at() as u64, delivery.position().offset, now());
    let end = received + how.time;
    loop {
        known_to_be_over(&part, &delivery, lease, received);
        let left = end.saturating_sub(now());
        if left.is_zero() {
            break;
        }
        sleep(left.min(Duration::from_millis(50))).await;
    }
    let since = now();
    let (what, settled) = match how.what {
        0 => ("retry", delivery.retry("of the simulation").await),
        1 => ("retry now", delivery.retry_now("of the simulation").await),
        2 => ("release", delivery.release().await),
        3 => {
            drop(delivery);
            return;
        }
        4 => ("dead letter", delivery.dead_letter("of the simulation").await),
        _ => ("ack", delivery.ack().await),
    };
    history.note(format_args!("{}: {what} of lease {lease}: {settled:?}", part.name));
    // The last attempt begins before the end.
    in_time(&part, "settling", since, SETTLED + DEADLINE + Duration::from_secs(2));
    if settled.is_ok() && matches!(what, "ack" | "dead letter") {
        let is_settled = part.world.store().kept().is_settled(subscription, offset);
        history.holds(is_settled, || {
            format!(
                "{}: what is said to be settled is settled: {offset}, lease {lease}",
                part.name
            )
        });
    }
}

/// Whoever has a delivery whose lease is over knows it, so that no two hold one event: but before the first renewal of
/// one that was long under way, of which the client can't know when it began.
fn known_to_be_over(part: &Part, delivery: &Delivery, lease: u64, received: Duration) {
    let store = part.world.store();
    let Some(kept) = store.kept().lease_of(lease).cloned() else {
        return;
    };
    let at_most = match kept.is_renewed {
        true => kept.until,
        false => kept.until.max(received + LEASE * 3 / 4),
    };
    let is_known = delivery.is_lost() || now() <= at_most + SLACK;
    part.world.history.holds(is_known, || {
        format!(
            "{}: a lease that is over is known to be: lease {lease} ended at {:?}",
            part.name, kept.until
        )
    });
}
