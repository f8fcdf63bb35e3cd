//! Notes how far the subscriptions that this instance delivers have come, for consumers that have to be made again
//! ([`fanout_plan::floor`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fanout_plan::floor::Floor;
use fanout_plan::isolation::Reader;
use fanout_plan::planner::LogState;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, ConsumerName, Incarnation, SubscriptionName};
use tracing::{debug, warn};

use crate::bus::Bus;
use crate::delivery::Health;
use crate::jetstream::{Store, StoreError};

/// How often a subscription is observed that has settled something.
const EVERY: Duration = Duration::from_secs(2);
/// How long observing a consumer takes at least: of thousands, each is observed less often.
const PACE: Duration = Duration::from_millis(10);

/// What was noted by this instance.
#[derive(Default)]
struct Noted {
    /// By subscription: how much was settled when it was observed last, by which deliveries if there are any here.
    seen: BTreeMap<SubscriptionName, (Option<Arc<Health>>, u64, Instant)>,
    /// Which log each partition was then.
    logs: Vec<(u32, Incarnation)>,
    /// By partition and consumer.
    floors: BTreeMap<(u32, ConsumerName), Floor>,
}

/// Notes until the provider ends.
pub(crate) async fn keep(bus: Bus) {
    let mut noted = Noted::default();
    loop {
        let began = Instant::now();
        let view = bus.view();
        let mut observed = 0;
        if let Some(store) = &view.store {
            let logs = store.layout().partitions.values().map(|p| (p.number, p.log)).collect();
            if noted.logs != logs {
                noted.seen.clear();
                noted.logs = logs;
            }
            // An entry goes when it is as old as the retention; until then it is written again.
            let again = store.policy().retention.max_age / 4;
            noted.seen.retain(|name, _| view.registry.contains_key(name));
            for (name, registered) in view.registry.iter().filter(|(_, r)| keeps_a_place(store, r)) {
                let health = view.health.get(name);
                let settled = health.map_or(0, |health| settled(health));
                let (seen, stale) = noted.seen.get(name).map_or((false, false), |(of, before, at)| {
                    let same = match (of, health) {
                        (Some(of), Some(health)) => Arc::ptr_eq(of, health),
                        (of, health) => of.is_none() && health.is_none(),
                    };
                    (same && *before == settled, at.elapsed() > again)
                });
                if seen && !stale {
                    continue;
                }
                match observe(store, registered, stale, &mut noted.floors).await {
                    Ok(count) => {
                        observed += count;
                        noted
                            .seen
                            .insert(name.clone(), (health.cloned(), settled, Instant::now()));
                    }
                    Err(error) => {
                        debug!(subscription = %name, %error, "the floor of a subscription was not noted; it is noted later")
                    }
                }
            }
            // Also of one that was ended and made again under its name.
            let is_there = |consumer: &ConsumerName| {
                let now = consumer.subscription().and_then(|name| view.registry.get(&name));
                now.is_some_and(|now| now.has_consumer(consumer))
            };
            noted.floors.retain(|(_, consumer), _| is_there(consumer));
        }
        let pause = EVERY.max(PACE * observed).saturating_sub(began.elapsed());
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
async fn observe(
    store: &Store,
    registered: &Registered,
    stale: bool,
    floors: &mut BTreeMap<(u32, ConsumerName), Floor>,
) -> Result<u32, StoreError> {
    let mut observed = 0;
    let mut written = Vec::new();
    for (partition, reader) in store.readers_of(registered) {
        let consumer = registered.consumer_of(&reader);
        observed += 1;
        let Some((settled_to, delivered_to)) = store.settled_and_delivered(partition.number, &consumer).await? else {
            continue;
        };
        let key = (partition.number, consumer);
        let noted = floors.get(&key).copied();
        if !stale
            && noted.is_some_and(|noted| {
                (noted.settled_to, noted.delivered_to) == (settled_to, delivered_to) && noted.log == partition.log
            })
        {
            continue;
        }
        // Read after the consumer: its events lie before this end.
        let state = store.log_state(partition.number).await?;
        let noted = match noted {
            Some(noted) => Some(noted),
            None => store.floor(key.0, &key.1).await?,
        };
        match noted {
            Some(noted) if noted.log != partition.log => {
                begin_anew(store, registered, &reader, noted, &state).await?;
            }
            // The planner has yet to find out that it is another log.
            Some(noted) if !noted.goes_on_in(&state) => {
                store.is_amiss();
                continue;
            }
            _ => {}
        }
        // Within one log a floor never goes back: the server may not say where a replicated consumer began.
        let before = noted.filter(|noted| noted.log == partition.log);
        let settled_to = before.map_or(settled_to, |before| before.settled_to.max(settled_to));
        let floor = Floor::of(partition.log, &state, settled_to, delivered_to);
        store.note_floor(key.0, &key.1, floor).await?;
        written.push(key.clone());
        floors.insert(key, floor);
    }
    // It was ended meanwhile, and what was noted of it before this was forgotten then.
    if !written.is_empty() && store.has_ended(registered).await? {
        for key in written {
            store.forget_floor(key.0, &key.1).await;
            floors.remove(&key);
        }
    }
    Ok(observed)
}

/// Begins anew what is remembered of a consumer's gap, and says what went with the log before. Of several instances that find
/// it, one says so.
async fn begin_anew(
    store: &Store,
    registered: &Registered,
    reader: &Reader,
    noted: Floor,
    state: &LogState,
) -> Result<(), StoreError> {
    let mut remembered = store.remembered_gap(registered, reader).await?;
    let partition = reader.partition;
    let lost = noted.lost_with_its_log(remembered.gap.head, state);
    let lost = remembered.gap.begin_anew(lost, store.now());
    let told = store.remember_gap(registered, reader, remembered).await?;
    if let Some(lost) = lost.filter(|_| told) {
        warn!(
            code = %Code::RetentionGap,
            "subscription {}: the log was deleted and made again, or put back to an earlier state: what it had not handled from {partition}/{} to {partition}/{} is lost",
            registered.subscription.name,
            lost.from,
            lost.to
        );
    }
    Ok(())
}
