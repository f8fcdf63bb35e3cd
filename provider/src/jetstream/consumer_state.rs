//! How far a subscription has come, as its consumers say.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::jetstream::consumer;
use async_nats::jetstream::stream::{self, ClusterInfo, Stream};
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::subscription::Registered;
use futures::{StreamExt as _, TryStreamExt as _};

use super::floors::settled_to;
use super::refusal::found;
use super::{Store, StoreError};

/// States that are read at once.
const READS: usize = 16;

/// How far a subscription has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConsumerState {
    /// Events that wait to be delivered.
    pub pending: u64,
    /// Events delivered and not yet settled.
    pub unsettled: u64,
    /// Of those, how many were delivered more than once.
    pub redelivered: u64,
    /// Every event up to this offset is settled.
    pub settled_to: u64,
    /// The log's last offset.
    pub log_head: u64,
    /// The last event that was delivered has this offset.
    pub delivered_to: u64,
    /// Pulls that wait for events.
    pub pulls: u64,
    /// Whether the server that says so has all of the log up to its head. The leader of a consumer counts what waits in its own
    /// copy of the log (nats-server 2.15.1), which may be seconds behind that of the log's leader: then nothing may
    /// seem to wait while hundreds of events do.
    pub is_current: bool,
}

impl ConsumerState {
    /// Where there is nothing to come from.
    fn none() -> Self {
        Self {
            is_current: true,
            ..Self::default()
        }
    }

    /// Whether every event up to the log's head is settled, for all that is known.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.is_current && self.pending == 0 && self.unsettled == 0
    }
}

/// Whether a consumer's leader has all that the log's leader had.
fn is_current(log: Option<&ClusterInfo>, consumer: Option<&ClusterInfo>) -> bool {
    // A server of its own says nothing of a cluster.
    let (Some(log), Some(consumer)) = (log, consumer) else {
        return true;
    };
    match &consumer.leader {
        None => false,
        leader if *leader == log.leader => true,
        Some(leader) => log
            .replicas
            .iter()
            .any(|peer| peer.name == *leader && peer.current && peer.lag.unwrap_or_default() == 0),
    }
}

/// Whether a consumer's leader says that nothing waits although something does. The log's leader takes a copy for current that has
/// acknowledged everything and not stored it yet (nats-server 2.15.1), so it is asked for the last event itself.
async fn leaves_out<I>(log: &Stream<I>, info: &consumer::Info, head: u64) -> Result<bool, StoreError> {
    let delivered_to = info.delivered.stream_sequence;
    let has_copies = info
        .cluster
        .as_ref()
        .is_some_and(|cluster| !cluster.replicas.is_empty());
    if !has_copies || info.num_pending > 0 || delivered_to >= head {
        return Ok(false);
    }
    let filters = match info.config.filter_subject.as_str() {
        "" => info.config.filter_subjects.clone(),
        one => vec![one.to_owned()],
    };
    let mut last = futures::stream::iter(filters)
        .map(|filter: String| async move {
            let last = log.get_last_raw_message_by_subject(&filter).await;
            found(last, "read the last event")
        })
        .buffer_unordered(READS);
    while let Some(last) = last.try_next().await? {
        // What was stored after the log's head was read may have come after the consumer was asked, too.
        if last.is_some_and(|last| last.sequence > delivered_to && last.sequence <= head) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl ConsumerState {
    /// Whether everything up to an offset is settled.
    pub(crate) fn has_caught_up(&self, head: u64) -> bool {
        self.settled_to >= head || self.is_idle()
    }
}

impl Store {
    /// How far a subscription has come in each partition that has events for it. What its own consumer has yet to pass
    /// over, because a tenant's does give it, counts as pending for both.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn consumer_states(&self, registered: &Registered) -> Result<BTreeMap<u32, ConsumerState>, StoreError> {
        let mut states: BTreeMap<u32, ConsumerState> = BTreeMap::new();
        for (reader, state) in self.reader_states(registered).await? {
            match states.get_mut(&reader.partition) {
                None => drop(states.insert(reader.partition, state)),
                Some(all) => {
                    if state.pending > 0 || state.unsettled > 0 {
                        all.settled_to = all.settled_to.min(state.settled_to);
                    }
                    all.pending += state.pending;
                    all.unsettled += state.unsettled;
                    all.redelivered += state.redelivered;
                    all.pulls += state.pulls;
                    all.is_current &= state.is_current;
                }
            }
        }
        Ok(states)
    }

    /// How far each of a subscription's consumers has come: of those in one partition, its own one is read first.
    pub(crate) async fn reader_states(
        &self,
        registered: &Registered,
    ) -> Result<Vec<(Reader, ConsumerState)>, StoreError> {
        let readers = self.readers_of(registered);
        let readers = readers.map(|(partition, reader)| (partition.clone(), reader)).collect();
        self.states_of(registered, readers).await
    }

    /// The same of some of them: of those that are there, the subscription's own ones first. At most [`READS`] are read at
    /// once: one after another, many of them would take longer over a slow link than an ownership lasts.
    pub(crate) async fn states_of(
        &self,
        registered: &Registered,
        readers: Vec<(Partition, Reader)>,
    ) -> Result<Vec<(Reader, ConsumerState)>, StoreError> {
        let partitions: BTreeSet<u32> = readers.iter().map(|(partition, _)| partition.number).collect();
        // The log's heads are read first: what is stored in between counts as pending, never as missed.
        let heads: BTreeMap<u32, stream::Info> = futures::stream::iter(partitions)
            .map(|partition| async move {
                let head = self.log(partition).await?.get_info().await;
                Ok::<_, StoreError>((partition, head.map_err(StoreError::when("read the log's state"))?))
            })
            .buffer_unordered(READS)
            .try_collect()
            .await?;
        let heads = &heads;
        let (own, of_tenants): (Vec<_>, Vec<_>) = readers.into_iter().partition(|(_, r)| r.tenant.is_none());
        let mut states = Vec::new();
        for readers in [own, of_tenants] {
            let read = futures::stream::iter(readers)
                .map(|(partition, reader): (Partition, Reader)| async move {
                    let head = heads.get(&partition.number);
                    let state = self.state_of(registered, (&partition, &reader), head).await?;
                    Ok::<_, StoreError>(state.map(|state| (reader, state)))
                })
                .buffered(READS)
                .try_filter_map(|state| std::future::ready(Ok(state)));
            states.extend(read.try_collect::<Vec<_>>().await?);
        }
        Ok(states)
    }

    /// How far one consumer has come; `None` where it was removed with its retired partition.
    async fn state_of(
        &self,
        registered: &Registered,
        (partition, reader): (&Partition, &Reader),
        head: Option<&stream::Info>,
    ) -> Result<Option<ConsumerState>, StoreError> {
        let name = registered.consumer_of(reader);
        let log = self.log(partition.number).await?;
        let info = log.consumer_info(&name).await;
        let action = format!("read the state of consumer {name}");
        let info = if partition.is_retired() {
            let of = (partition.number, &*name);
            let Some(info) = self.unless_removed(info, of, action).await? else {
                return Ok(None);
            };
            info
        } else {
            info.map_err(StoreError::when(action))?
        };
        let log_head = head.map_or(0, |head| head.state.last_sequence);
        let is_current = is_current(head.and_then(|head| head.cluster.as_ref()), info.cluster.as_ref())
            && !leaves_out(&log, &info, log_head).await?;
        Ok(Some(ConsumerState {
            pending: info.num_pending,
            unsettled: info.num_ack_pending as u64,
            redelivered: info.num_redelivered as u64,
            settled_to: settled_to(&info),
            log_head,
            delivered_to: info.delivered.stream_sequence,
            pulls: info.num_waiting as u64,
            is_current,
        }))
    }

    /// How far a subscription has come in all of them: what waits is added up, offsets are the newest partition's.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn consumer_state(&self, registered: &Registered) -> Result<ConsumerState, StoreError> {
        let states = self.consumer_states(registered).await?;
        Ok(states.values().fold(ConsumerState::none(), |all, one| ConsumerState {
            is_current: all.is_current && one.is_current,
            pending: all.pending + one.pending,
            unsettled: all.unsettled + one.unsettled,
            redelivered: all.redelivered + one.redelivered,
            pulls: all.pulls + one.pulls,
            ..*one
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_is_behind_is_known_to_be() {
        let cluster = |json: &str| serde_json::from_str::<ClusterInfo>(json).unwrap();
        let log = cluster(
            r#"{"leader":"s0","replicas":[{"name":"s1","current":true,"active":1,"lag":3},{"name":"s2","current":true,"active":1},{"name":"s3","current":false,"active":1}]}"#,
        );
        for (leader, is) in [("s0", true), ("s1", false), ("s2", true), ("s3", false), ("s4", false)] {
            let consumer = cluster(&format!(r#"{{"leader":"{leader}"}}"#));
            assert_eq!(is_current(Some(&log), Some(&consumer)), is, "{leader}");
        }
        assert!(!is_current(Some(&log), Some(&cluster("{}"))), "it has no leader");
        assert!(is_current(None, None), "one server");
        let behind = ConsumerState {
            is_current: false,
            ..ConsumerState::none()
        };
        assert!(ConsumerState::none().is_idle() && !behind.is_idle() && !behind.has_caught_up(1));
    }
}
