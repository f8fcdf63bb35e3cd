//! Notes how far the subscriptions that this instance delivers have come, for consumers that have to be made again
//! ([`fanout_plan::floor`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fanout_plan::SubscriptionName;
use fanout_plan::floor::Floor;
use fanout_plan::subscription::{Progress, Registered};
use tracing::debug;

use crate::bus::Bus;
use crate::delivery::Health;
use crate::jetstream::{Store, StoreError};

/// How often a subscription is looked at that has settled something.
const EVERY: Duration = Duration::from_secs(2);
/// How long a consumer's look takes at least: of thousands, each is looked at less often.
const PACE: Duration = Duration::from_millis(10);

/// What was noted by this instance.
#[derive(Default)]
struct Noted {
    /// By subscription: how much was settled when it was looked at last, by which deliveries.
    seen: BTreeMap<SubscriptionName, (Arc<Health>, u64, Instant)>,
    /// By partition and consumer.
    floors: BTreeMap<(u32, String), Floor>,
}

/// Notes until the provider ends.
pub(crate) async fn keep(bus: Bus) {
    let mut noted = Noted::default();
    loop {
        let began = Instant::now();
        let view = bus.view();
        let mut looked_at = 0;
        if let Some(store) = &view.store {
            // An entry goes when it is as old as the retention; until then it is written again.
            let again = store.policy().max_age / 4;
            noted.seen.retain(|name, _| view.health.contains_key(name));
            for (name, health) in &view.health {
                let Some(registered) = view.registry.get(name).filter(|r| keeps_a_place(store, r)) else {
                    continue;
                };
                let settled = settled(health);
                let (seen, stale) = noted.seen.get(name).map_or((false, false), |(of, before, at)| {
                    (Arc::ptr_eq(of, health) && *before == settled, at.elapsed() > again)
                });
                if seen && !stale {
                    continue;
                }
                match look(store, registered, stale, &mut noted.floors).await {
                    Ok(looked) => {
                        looked_at += looked;
                        noted
                            .seen
                            .insert(name.clone(), (Arc::clone(health), settled, Instant::now()));
                    }
                    Err(error) => debug!(subscription = %name, %error, "how far it has come is noted later"),
                }
            }
            let known: BTreeSet<_> = view.registry.keys().collect();
            noted
                .floors
                .retain(|(_, consumer), _| Registered::of_consumer(consumer).is_some_and(|name| known.contains(&name)));
        }
        let pause = EVERY.max(PACE * looked_at).saturating_sub(began.elapsed());
        tokio::time::sleep(pause.max(EVERY / 4)).await;
    }
}

fn keeps_a_place(store: &Store, registered: &Registered) -> bool {
    registered.progress != Progress::Finished && registered.subscription.keeps_a_place(store.policy())
}

/// How much deliveries have settled since they began.
fn settled(health: &Health) -> u64 {
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    count(&health.handled) + count(&health.refused) + count(&health.dead_lettered)
}

/// Notes what has changed of each of a subscription's consumers, or all if they are `stale`. Returns how many there are.
async fn look(
    store: &Store,
    registered: &Registered,
    stale: bool,
    floors: &mut BTreeMap<(u32, String), Floor>,
) -> Result<u32, StoreError> {
    let mut looked_at = 0;
    for (partition, reader) in store.readers_of(registered) {
        let consumer = registered.consumer_of(&reader);
        looked_at += 1;
        let Some(settled_to) = store.settled_to(partition.number, &consumer).await? else {
            continue;
        };
        let key = (partition.number, consumer);
        if !stale && floors.get(&key).is_some_and(|floor| floor.settled_to == settled_to) {
            continue;
        }
        // Read after the consumer: its events lie before this end.
        let floor = Floor::of(&store.log_state(partition.number).await?, settled_to);
        store.note_floor(key.0, &key.1, floor).await?;
        floors.insert(key, floor);
    }
    Ok(looked_at)
}
