//! What the other places of a bus hold, read over whatever joins them; and how far this place is behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fanout_plan::in_force::InForce;
use fanout_plan::partition::Partition;
use fanout_plan::place::{PARTITIONS, Place};
use fanout_plan::planner::{LeftOut, LogState, MirrorState, Observed};
use fanout_plan::status::MirrorStatus;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, JetStreamApi, PlaceName, Problem, SubscriptionName, Timestamp};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::apply::MADE_BY;
use super::observe::{in_force, log_state, partition};
use super::{Store, StoreError};

/// How long the other places may take together, who all are asked at once: somebody may wait for the plan.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// What a place holds that concerns the others.
struct Found {
    /// Its own partitions, and the last offset of each.
    partitions: Vec<(Partition, u64)>,
    registry: BTreeMap<SubscriptionName, Registered>,
    /// The policy that it was brought to.
    policy: Option<InForce>,
    /// What its clock said, and when that was read here.
    clock: Option<(Timestamp, Instant)>,
}

impl Store {
    /// The store of the same bus at another of its places, over whatever joins both.
    pub fn at(&self, name: &PlaceName, place: &Place) -> Self {
        let mut policy = (*self.policy).clone();
        policy.jetstream = place.api();
        if let Some(places) = &mut policy.places {
            places.here = name.clone();
            // One that the policy does not have any more is read, too.
            places.all.entry(name.clone()).or_insert_with(|| place.clone());
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
        let (found, here) = futures::join!(join_all(read), timeout(ANSWERS_WITHIN, self.clock()));
        let here = here.ok().flatten();
        for (name, found) in found {
            let partitions = found.map(|found| {
                observed.registries.insert(name.clone(), found.registry);
                if let Some(policy) = found.policy {
                    observed.policies.insert(name.clone(), policy);
                }
                if let (Some(here), Some(there)) = (here, found.clock) {
                    observed.clocks.insert(name.clone(), ahead(there, here));
                }
                found.partitions.into_iter().map(|(partition, _)| partition).collect()
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

    /// Reads what places hold that the policy does not have any more, and of which something is mirrored here.
    pub(super) async fn observe_left_out(&self, observed: &mut Observed) {
        let Some(places) = &self.policy.places else { return };
        let mut left_out = BTreeMap::new();
        for spec in observed.topology.streams.values() {
            if let (Some(partition), Some(mirror)) = (&spec.partition, &spec.mirror)
                && let Some(name) = partition.place.as_ref().filter(|name| !places.all.contains_key(*name))
                && let Some(domain) = JetStreamApi::domain_of(&mirror.api)
            {
                left_out.entry(name.clone()).or_insert_with(|| Place {
                    number: partition.number / PARTITIONS,
                    domain,
                    leaf_of: None,
                    keeps: Vec::new(),
                    retired: true,
                    replicas: None,
                });
            }
        }
        let read = left_out.iter().map(|(name, place)| async move {
            let found = timeout(ANSWERS_WITHIN, self.found_at(name, place)).await;
            let why = match found {
                Ok(Ok(found)) => return (name.clone(), Ok(found)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nobody answered within {ANSWERS_WITHIN:?}"),
            };
            (name.clone(), Err(Problem::new(Code::PlaceUnreachable, why)))
        });
        for (name, found) in join_all(read).await {
            let left = found.map(|found| {
                let stays = |r: &Registered| r.is_at_one_place() && !r.has_moved() && r.progress != Progress::Finished;
                let at_it = found.registry.iter().filter(|(_, r)| stays(r));
                let mirrored = found.partitions.iter().filter_map(|(partition, head)| {
                    let log = observed.logs.get(&partition.number)?;
                    Some((partition.number, missing(log, partition, *head, observed)))
                });
                LeftOut {
                    subscriptions: at_it.map(|(name, _)| name.clone()).collect(),
                    not_mirrored: mirrored.filter(|(_, missing)| *missing > 0).collect(),
                }
            });
            observed.left_out.insert(name, left);
        }
    }

    async fn found_at(&self, name: &PlaceName, place: &Place) -> Result<Found, async_nats::Error> {
        let there = self.at(name, place);
        let (partitions, registry, policy, clock) = futures::join!(
            there.own_partitions(),
            there.subscriptions(),
            there.policy_in_force(),
            there.clock()
        );
        Ok(Found {
            partitions: partitions?,
            registry: registry?,
            policy: policy?,
            clock,
        })
    }

    /// The policy that its store was brought to, where that is said.
    async fn policy_in_force(&self) -> Result<Option<InForce>, StoreError> {
        let info = self.stream_info(&self.names.dead_letters()).await?;
        Ok(info.and_then(|info| in_force(&info.config)))
    }

    /// What its clock says, and when that was; `None` where it can't be read.
    async fn clock(&self) -> Option<(Timestamp, Instant)> {
        let asked = Instant::now();
        let said = self.time_of_stream(&self.names.dead_letters()).await.ok()?;
        // It was read somewhere between both.
        Some((said, asked + asked.elapsed() / 2))
    }

    /// The partitions in which events of its own place are stored, and the last offset of each.
    pub(super) async fn own_partitions(&self) -> Result<Vec<(Partition, u64)>, async_nats::Error> {
        let mut found = Vec::new();
        let mut all = self.js.streams();
        while let Some(info) = all.try_next().await? {
            let Some(number) = self.names.partition_of(&info.config.name) else {
                continue;
            };
            let is_ours = info.config.metadata.contains_key(MADE_BY);
            let partition = partition(number, &info.config).filter(|p| is_ours && !p.is_mirror());
            found.extend(partition.map(|partition| (partition, info.state.last_sequence)));
        }
        Ok(found)
    }

    /// What its registry remembers; nothing where it has none yet.
    pub(super) async fn subscriptions(&self) -> Result<BTreeMap<SubscriptionName, Registered>, StoreError> {
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

/// By how much one clock is ahead of another, in nanoseconds; each was read at a moment.
fn ahead((there, read_there): (Timestamp, Instant), (here, read_here): (Timestamp, Instant)) -> i64 {
    let between = |later: Instant, earlier: Instant| {
        i64::try_from(later.saturating_duration_since(earlier).as_nanos()).unwrap_or(i64::MAX)
    };
    let waited = between(read_there, read_here) - between(read_here, read_there);
    there
        .nanoseconds()
        .saturating_sub(here.nanoseconds())
        .saturating_sub(waited)
}

/// How many events of another place's partition a mirror does not have. Of one that keeps some of them, what it knows of.
fn missing(log: &LogState, partition: &Partition, head: u64, observed: &Observed) -> u64 {
    let mirrors = observed.topology.streams.values();
    let mut spec = mirrors.filter(|s| s.partition.as_ref().is_some_and(|p| p.number == partition.number));
    let keeps_all = spec
        .next()
        .and_then(|s| s.mirror.as_ref())
        .is_none_or(|mirror| mirror.subjects.is_empty());
    match (keeps_all, log.mirror) {
        (true, _) => head.saturating_sub(log.head),
        (false, Some(mirror)) if mirror.heard_ago.is_some() => mirror.lag,
        (false, _) => head,
    }
}

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
    fn clocks_are_compared_as_of_one_moment() {
        let began = Instant::now();
        let second = |s: i64| Timestamp::from_nanoseconds(s * 1_000_000_000);
        let later = began + Duration::from_secs(2);
        assert_eq!(ahead((second(12), later), (second(10), began)), 0);
        assert_eq!(ahead((second(10), began), (second(12), later)), 0);
        assert_eq!(ahead((second(3_612), later), (second(10), began)), 3_600_000_000_000);
        assert_eq!(ahead((second(10), began), (second(3_612), later)), -3_600_000_000_000);
    }

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
