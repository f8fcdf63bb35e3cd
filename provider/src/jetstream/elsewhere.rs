//! What the other places of a bus hold, read over whatever joins them; and how far this place is behind.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanout_plan::in_force::InForce;
use fanout_plan::partition::Partition;
use fanout_plan::place::{PARTITIONS, Place};
use fanout_plan::planner::{LeftOut, LogState, MirrorState, Observed};
use fanout_plan::status::MirrorStatus;
use fanout_plan::subscription::{Progress, Registered};
use fanout_plan::{Code, JetStreamApi, PlaceName, Problem, SubscriptionName, TenantId, Timestamp, TypePattern};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;
use tracing::debug;

use super::apply::MADE_BY;
use super::observe::{in_force, log_state, partition};
use super::{Store, StoreError};

/// How long the other places may take together, who all are asked at once: somebody may wait for the plan.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A partition of a place's own events, and what its stream holds.
pub(super) struct Held {
    pub(super) partition: Partition,
    pub(super) state: LogState,
}

/// What a place holds that concerns the others.
struct Found {
    /// Its own partitions.
    partitions: Vec<Held>,
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
                found.partitions.into_iter().map(|held| held.partition).collect()
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

    /// Reads what places hold that the policy does not have any more, and of which something is mirrored here. Of a place that was let
    /// go nothing is asked: its servers may be gone.
    pub(super) async fn observe_left_out(&self, observed: &mut Observed) {
        let Some(places) = &self.policy.places else { return };
        let mut left_out = BTreeMap::new();
        for spec in observed.topology.streams.values().filter(|s| !s.let_go) {
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
            let found = timeout(ANSWERS_WITHIN, async {
                let found = self.found_at(name, place).await?;
                let there = self.at(name, place);
                let nowhere = there.kept_nowhere(&found.partitions, places.all.values()).await?;
                Ok::<_, async_nats::Error>((found, nowhere))
            });
            let why = match found.await {
                Ok(Ok(found)) => return (name.clone(), Ok(found)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nobody answered within {ANSWERS_WITHIN:?}"),
            };
            (name.clone(), Err(Problem::new(Code::PlaceUnreachable, why)))
        });
        for (name, found) in join_all(read).await {
            let left = found.map(|(found, kept_nowhere)| {
                let stays = |r: &Registered| r.is_at_one_place() && !r.has_moved() && r.progress != Progress::Finished;
                let at_it = found.registry.iter().filter(|(_, r)| stays(r));
                let missing = found.partitions.iter().filter_map(|held| {
                    let number = held.partition.number;
                    Some((number, missing(observed.logs.get(&number), places.own()?, held)))
                });
                LeftOut {
                    subscriptions: at_it.map(|(name, _)| name.clone()).collect(),
                    not_mirrored: missing.filter(|(_, missing)| *missing > 0).collect(),
                    kept_nowhere,
                }
            });
            observed.left_out.insert(name, left);
        }
    }

    /// How many events of this place's own partitions are of tenants that none of some places keeps.
    pub(super) async fn kept_nowhere<'a>(
        &self,
        own: &[Held],
        places: impl Iterator<Item = &'a Place> + Clone,
    ) -> Result<u64, StoreError> {
        if places.clone().any(|place| place.keeps.is_empty()) {
            return Ok(0);
        }
        let action = "count the events that no other place keeps";
        let keep: BTreeSet<&TenantId> = places.flat_map(|place| &place.keeps).collect();
        let mut nowhere = 0;
        for Held { partition, .. } in own {
            let name = self.names.partition(partition.number);
            let stream = self.stream(name.clone()).await?;
            let mut kept = 0;
            for tenant in keep.iter().filter(|tenant| partition.slot.holds(tenant)) {
                let subjects = partition.template.filter(Some(tenant), &TypePattern::any());
                let subjects = stream.info_with_subjects(subjects).await;
                let counts = subjects.map_err(StoreError::when(action))?;
                kept += counts
                    .try_fold(0, |all, (_, events)| std::future::ready(Ok(all + events as u64)))
                    .await
                    .map_err(StoreError::when(action))?;
            }
            // What is stored meanwhile is counted once too often, and not once too little.
            let all = self.stream_info(&name).await?.map_or(0, |info| info.state.messages);
            nowhere += all.saturating_sub(kept);
        }
        Ok(nowhere)
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

    /// The partitions in which events of its own place are stored.
    pub(super) async fn own_partitions(&self) -> Result<Vec<Held>, async_nats::Error> {
        let mut found = Vec::new();
        let mut all = self.js.streams();
        while let Some(info) = all.try_next().await? {
            let Some(number) = self.names.partition_of(&info.config.name) else {
                continue;
            };
            let is_ours = info.config.metadata.contains_key(MADE_BY);
            let partition = partition(number, &info.config).filter(|p| is_ours && !p.is_mirror());
            let state = log_state(&info);
            found.extend(partition.map(|partition| Held { partition, state }));
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

/// How many events of another place's partition a place does not have whose mirror of it holds this, of those that it keeps.
pub(super) fn missing(mirror: Option<&LogState>, place: &Place, theirs: &Held) -> u64 {
    if !place.keeps_any_of(&theirs.partition.slot) {
        return 0;
    }
    let (head, retained) = (theirs.state.head, theirs.state.messages);
    let missing = match mirror {
        None => head,
        Some(state) if place.keeps.is_empty() => head.saturating_sub(state.head),
        // Of what it keeps only some of, the server knows.
        Some(state) => match state.mirror.filter(|m| m.heard_ago.is_some()) {
            Some(mirror) => mirror.lag,
            None => head,
        },
    };
    // What has expired there is missed by nobody.
    missing.min(retained)
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
    use fanout_plan::partition::Slot;

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
    fn what_a_place_lacks_is_what_it_keeps_and_does_not_have() {
        let slot = Slot::Tenant("acme".parse().unwrap());
        let theirs = |head, messages| Held {
            partition: Partition {
                slot: slot.clone(),
                ..Partition::undivided("payments.{tenant}.webhook.{event-type}".parse().unwrap())
            },
            state: LogState {
                head,
                messages,
                ..LogState::default()
            },
        };
        let keeping = |tenants: &[&str]| Place {
            number: 1,
            domain: "shop".to_owned(),
            leaf_of: None,
            keeps: tenants.iter().map(|t| t.parse().unwrap()).collect(),
            retired: false,
            replicas: None,
        };
        let mirror = |head, mirror| LogState {
            head,
            mirror,
            ..LogState::default()
        };
        let heard = |lag| {
            Some(MirrorState {
                lag,
                heard_ago: Some(Duration::ZERO),
            })
        };
        let (all, acme, globex) = (keeping(&[]), keeping(&["acme"]), keeping(&["globex"]));
        assert_eq!(missing(None, &all, &theirs(7, 5)), 5, "a partition without a mirror");
        assert_eq!(missing(None, &globex, &theirs(7, 5)), 0, "it keeps nothing of it");
        assert_eq!(missing(Some(&mirror(5, heard(0))), &all, &theirs(7, 7)), 2);
        assert_eq!(missing(Some(&mirror(5, heard(0))), &acme, &theirs(7, 7)), 0);
        assert_eq!(missing(Some(&mirror(0, None)), &acme, &theirs(7, 7)), 7);
        assert_eq!(
            missing(Some(&mirror(0, None)), &all, &theirs(7, 0)),
            0,
            "all has expired"
        );
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
