//! What the other places of a bus hold, read over whatever joins them; and how far this place is behind.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_plan::partition::Partition;
use fanout_plan::place::Place;
use fanout_plan::planner::{LogState, MirrorState, Observed};
use fanout_plan::status::MirrorStatus;
use fanout_plan::subscription::Registered;
use fanout_plan::{Code, PlaceName, Problem, SubscriptionName, Timestamp};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::apply::MADE_BY;
use super::observe::{log_state, partition};
use super::{Store, StoreError};

/// How long the other places may take together, who all are asked at once: somebody may wait for the plan.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What a place holds that concerns the others.
struct Found {
    partitions: Vec<Partition>,
    registry: BTreeMap<SubscriptionName, Registered>,
}

impl Store {
    /// The store of the same bus at another of its places, over whatever joins both.
    pub fn at(&self, name: &PlaceName, place: &Place) -> Self {
        let mut policy = (*self.policy).clone();
        policy.jetstream = place.api();
        if let Some(places) = &mut policy.places {
            places.here = name.clone();
        }
        Self::new(self.nats(), policy)
    }

    /// Reads of each other place its own partitions and its subscriptions, or why they can't be read now.
    pub(super) async fn observe_elsewhere(&self, observed: &mut Observed) {
        let others = self.policy.places.iter().flat_map(|places| places.others());
        let read = others.map(|(name, place)| async move {
            let found = timeout(ANSWERS_WITHIN, self.found_at(name, place)).await;
            let why = match found {
                Ok(Ok(found)) => return (name.clone(), Ok(found)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nobody answered within {ANSWERS_WITHIN:?}"),
            };
            let message = format!(
                "place {name}: JetStream domain {} can't be read from here ({why}): what is mirrored of it goes on by itself once the link is back, and what is new there is mirrored then",
                place.domain
            );
            (name.clone(), Err(Problem::new(Code::PlaceUnreachable, message)))
        });
        for (name, found) in join_all(read).await {
            let partitions = found.map(|found| {
                observed.registries.insert(name.clone(), found.registry);
                found.partitions
            });
            if partitions.is_err() && observed.topology.buckets.contains_key(&self.names.attempts()) {
                match self.names_last_known_at(&name).await {
                    Ok(known) => drop(observed.last_known.insert(name.clone(), known)),
                    Err(error) => debug!(place = %name, %error, "what it had is not read now"),
                }
            }
            observed.elsewhere.insert(name, partitions);
        }
    }

    async fn found_at(&self, name: &PlaceName, place: &Place) -> Result<Found, async_nats::Error> {
        let there = self.at(name, place);
        let (partitions, registry) = futures::join!(there.own_partitions(), there.subscriptions());
        Ok(Found {
            partitions: partitions?,
            registry: registry?,
        })
    }

    /// The partitions in which events of its own place are stored.
    async fn own_partitions(&self) -> Result<Vec<Partition>, async_nats::Error> {
        let mut found = Vec::new();
        let mut all = self.js.streams();
        while let Some(info) = all.try_next().await? {
            let Some(number) = self.names.partition_of(&info.config.name) else {
                continue;
            };
            let is_ours = info.config.metadata.contains_key(MADE_BY);
            let partition = partition(number, &info.config).filter(|p| is_ours && !p.is_mirror());
            found.extend(partition);
        }
        Ok(found)
    }

    /// What its registry remembers; nothing where it has none yet.
    async fn subscriptions(&self) -> Result<BTreeMap<SubscriptionName, Registered>, StoreError> {
        let bucket = format!("KV_{}", self.names.registry());
        match self.stream_info(&bucket).await? {
            Some(_) => Ok(self.registry().await?.entries),
            None => Ok(BTreeMap::new()),
        }
    }

    /// How far each mirror is behind what it mirrors, as far as this place knows.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn mirrors(&self) -> Result<Vec<MirrorStatus>, StoreError> {
        let mirrors = self.layout.partitions.values().filter(|p| p.is_mirror());
        let read: Vec<_> = mirrors.filter_map(|p| Some((p.place.clone()?, p.number))).collect();
        futures::stream::iter(read)
            .map(|(place, partition)| async move {
                let log = self.log(partition).await?;
                let info = log
                    .get_info()
                    .await
                    .map_err(StoreError::when("read the state of a mirror"))?;
                let state = log_state(&info);
                let mirror = state.mirror.unwrap_or_default();
                Ok::<_, StoreError>(MirrorStatus {
                    place,
                    partition,
                    reached: state.head,
                    lag: mirror.heard_ago.map(|_| mirror.lag),
                    lag_seconds: lag_in_time(&state, &mirror, self.now()).map(|ago| ago.as_secs()),
                    heard_seconds_ago: mirror.heard_ago.map(|ago| ago.as_secs()),
                })
            })
            .buffered(READS)
            .try_collect()
            .await
    }
}

/// Reads of streams under way at once.
const READS: usize = 16;

/// How long ago everything was stored that a mirror has. What it lacks was stored after the last event that it has.
fn lag_in_time(state: &LogState, mirror: &MirrorState, now: Timestamp) -> Option<Duration> {
    let heard_ago = mirror.heard_ago?;
    match mirror.lag {
        0 => Some(heard_ago),
        _ if state.head == 0 => None,
        // Clocks may differ: it can't be later than when its origin was heard of.
        _ => Some(now.since(state.head_at).max(heard_ago)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_lags_by_what_it_can_know() {
        let state = |head, second: i64| LogState {
            head,
            head_at: Timestamp::from_nanoseconds(second * 1_000_000_000),
            ..LogState::default()
        };
        let now = Timestamp::from_nanoseconds(100_000_000_000);
        let seconds = |state, lag, heard| {
            let heard_ago = Some(heard).filter(|s| *s > 0).map(Duration::from_secs);
            lag_in_time(&state, &MirrorState { lag, heard_ago }, now).map(|d| d.as_secs())
        };
        assert_eq!(seconds(state(7, 40), 0, 2), Some(2), "it has all that there was");
        assert_eq!(seconds(state(7, 40), 3, 2), Some(60));
        assert_eq!(seconds(state(7, 400), 3, 9), Some(9), "the other clock is ahead");
        assert_eq!(seconds(state(0, 0), 3, 2), None);
        assert_eq!(seconds(state(7, 40), 0, 0), None, "it never heard of its origin");
    }
}
