//! A tenant with so many events waiting that others would stand behind them is isolated: a consumer of its own gives
//! its events from some place in the log on, and the subscription's consumer passes over them there. When all have been
//! handled, one consumer gives everything again.
//!
//! Nothing is lost in between, whatever an instance knows of it yet: the subscription's consumer passes over an event
//! only once it is remembered that the tenant's own one gives it, and that one begins there whenever it is made. It is
//! given up together with the subscription's consumer, for one that begins where everything before was handled.
//! Deliberately absent: who has many events waiting, which takes an observation of the store.

use serde::{Deserialize, Serialize};

use crate::by_partition::ByPartition;
use crate::partition::{Keeps, Partition};
use crate::subscription::{Progress, Registered};
use crate::{ConsumerName, Filter, Position, TenantId};

/// Tenants of one subscription that are isolated at once: each costs a consumer in each partition.
pub const MAX_ISOLATED: usize = 8;

/// When isolated tenants were taken back, the last time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejoined {
    /// How often that was.
    pub generation: u32,
    /// Every event up to this offset had been handled, in each partition.
    pub after: ByPartition,
}

/// One consumer of a subscription in one partition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reader {
    /// The partition's number.
    pub partition: u32,
    /// The tenant that is isolated; `None` for the subscription's own consumer.
    pub tenant: Option<TenantId>,
}

impl Registered {
    /// Its consumers in a partition, its own one first.
    pub fn readers(&self, partition: &Partition) -> impl Iterator<Item = Reader> {
        let number = partition.number;
        let isolated = self
            .isolated
            .iter()
            .filter(move |(_, from)| self.progress != Progress::Finished && from.knows(number))
            .map(|(tenant, _)| Some(tenant.clone()));
        let reader = move |tenant| Reader {
            partition: number,
            tenant,
        };
        [None].into_iter().chain(isolated).map(reader)
    }

    /// The name of its own consumer in the store. `=` is in no subscription's name, nor in a tenant's.
    pub fn consumer_name(&self) -> ConsumerName {
        match (&self.rejoined, self.rewound) {
            (Some(joined), _) => self.numbered(joined.generation).into(),
            (None, Some(rewound)) => format!("{}={}", self.consumers_id(), rewound.generation).into(),
            (None, None) => self.consumers_id().to_string().into(),
        }
    }

    /// The name of a consumer in the store.
    pub fn consumer_of(&self, reader: &Reader) -> ConsumerName {
        match &reader.tenant {
            None => self.consumer_name(),
            Some(tenant) => {
                let joined = self.rejoined.as_ref().map_or(0, |j| j.generation);
                format!("{}={}", self.numbered(joined), tenant.name_part()).into()
            }
        }
    }

    fn numbered(&self, joined: u32) -> String {
        format!("{}={}={joined}", self.consumers_id(), self.generation())
    }

    /// Whether a consumer of this name is, or was, one of its own: not one of another that had its name.
    pub fn has_consumer(&self, name: &ConsumerName) -> bool {
        name.is_of(&self.consumers_id())
    }

    /// Which events a consumer gives; `None` if the partition holds none of them.
    pub fn filter_of(&self, reader: &Reader, partition: &Partition) -> Option<Filter> {
        let all = partition.slot.narrow(&self.subscription.filter)?;
        match &reader.tenant {
            None => Some(all),
            Some(tenant) => (all.allows_tenant(tenant) && partition.slot.holds(tenant))
                .then(|| Filter::new(vec![tenant.clone()], all.event_types)),
        }
    }

    /// Where a tenant's own consumer begins.
    pub fn isolated_from(&self, reader: &Reader) -> Option<u64> {
        let from = self.isolated.get(reader.tenant.as_ref()?)?;
        from.0.get(&reader.partition).copied()
    }

    /// Whether a tenant's own consumer gives this event, so that the subscription's passes over it.
    pub fn is_isolated_at(&self, tenant: &TenantId, position: Position) -> bool {
        self.isolated
            .get(tenant)
            .and_then(|from| from.0.get(&position.partition))
            .is_some_and(|from| position.offset >= *from)
    }

    /// Whether a tenant is isolated in a partition, so that the subscription's own consumer passes over events there.
    pub fn isolates_in(&self, partition: u32) -> bool {
        self.isolated.values().any(|from| from.knows(partition))
    }

    /// Whether more tenants can be isolated in a partition.
    pub fn can_isolate_more(&self, partition: &Partition) -> bool {
        // What a work queue's consumer passes over is gone, and no two of its consumers may meet (10100).
        partition.keeps == Keeps::Log && self.isolated.len() < MAX_ISOLATED
    }

    /// The same with tenants that are isolated in a partition from an offset on. Those that are already stay so.
    #[must_use]
    pub fn isolate(&self, tenants: &[TenantId], partition: u32, from: u64) -> Self {
        let mut next = self.clone();
        for tenant in tenants {
            if next.isolated.len() < MAX_ISOLATED || next.isolated.contains_key(tenant) {
                let places = next.isolated.entry(tenant.clone()).or_default();
                places.0.entry(partition).or_insert(from);
            }
        }
        next
    }

    /// The same with nobody isolated, once everything up to these offsets has been handled.
    #[must_use]
    pub fn rejoin(&self, after: ByPartition) -> Self {
        Self {
            isolated: Default::default(),
            rejoined: Some(Rejoined {
                generation: self.rejoined.as_ref().map_or(0, |j| j.generation) + 1,
                after,
            }),
            ..self.clone()
        }
    }
}
