//! How a bus's log is divided: each partition is one stream, and says which tenants it holds, since when, and whether
//! new events still go there.
//!
//! A change of the topology makes a new *generation* of partitions. The older one is retired: it takes nothing new, is
//! read to its end, and goes when its last event has expired. Partition numbers and generations only grow, so that a
//! position never means two events. There is no table of partitions beside the streams: each stream carries its own
//! mark, so that none of the two can be wrong about the other.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::{BusNames, Filter, Incarnation, PlaceName, SubjectTemplate, TenantId, Timestamp};

/// Which tenants a partition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// All.
    Whole,
    /// Those whose hash falls to it.
    Shard {
        /// Which shard, from 0.
        index: u32,
        /// Of how many.
        of: u32,
    },
    /// One.
    Tenant(TenantId),
}

/// The shard of a tenant: FNV-1a, as nats-server's `{{partition(n,token)}}` computes it (2.15), so that a mapping in the
/// server's configuration sends what others publish to the same shard: it sees the tenant's token.
pub fn shard_of(tenant: &TenantId, of: u32) -> u32 {
    let hash = tenant.token().bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    hash % of.max(1)
}

impl Slot {
    /// Whether a tenant's events are held here.
    pub fn holds(&self, tenant: &TenantId) -> bool {
        match self {
            Self::Whole => true,
            Self::Shard { index, of } => shard_of(tenant, *of) == *index,
            Self::Tenant(mine) => mine == tenant,
        }
    }

    /// What a filter can find here, as far as subjects tell; `None` for nothing.
    pub fn narrow(&self, filter: &Filter) -> Option<Filter> {
        let (tenants, event_types) = filter.passing_lists();
        if tenants.is_empty() {
            return Some(match self {
                Self::Tenant(mine) => Filter::new(vec![mine.clone()], event_types.to_vec()),
                Self::Whole | Self::Shard { .. } => filter.narrowed(),
            });
        }
        let tenants: Vec<_> = tenants.iter().filter(|t| self.holds(t)).cloned().collect();
        (!tenants.is_empty()).then(|| Filter::new(tenants, event_types.to_vec()))
    }

    /// Whether a filter can find anything here.
    pub fn touches(&self, filter: &Filter) -> bool {
        let (tenants, _) = filter.passing_lists();
        tenants.is_empty() || tenants.iter().any(|t| self.holds(t))
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("whole"),
            Self::Shard { index, of } => write!(f, "shard {index} of {of}"),
            Self::Tenant(tenant) => write!(f, "tenant {tenant}"),
        }
    }
}

impl FromStr for Slot {
    type Err = ();
    fn from_str(s: &str) -> Result<Self, ()> {
        if s == "whole" {
            return Ok(Self::Whole);
        }
        if let Some(tenant) = s.strip_prefix("tenant ") {
            return tenant.parse().map(Self::Tenant).map_err(drop);
        }
        let (index, of) = s.strip_prefix("shard ").and_then(|s| s.split_once(" of ")).ok_or(())?;
        Ok(Self::Shard {
            index: index.parse().map_err(drop)?,
            of: of.parse().map_err(drop)?,
        })
    }
}

/// How long an event stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// For the retention window, however often it is read.
    Log,
    /// Until its one durable subscription has settled it.
    WorkQueue,
}

/// Where new events for a partition come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The bus's own subjects.
    Plain,
    /// A subject of the partition only: those of shards, which no subject filter can tell apart, and those of a new
    /// partition while an older one still holds the bus's subjects (the server lets one stream hold a subject, 10065).
    Internal,
    /// Nowhere, since this time, nanoseconds since the Unix epoch.
    Retired(Timestamp),
    /// The partition of this number at its own place, which it mirrors.
    Mirror,
}

/// One partition of a bus's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// Which change of the topology made it.
    pub generation: u32,
    /// Whose events it holds.
    pub slot: Slot,
    /// How long it keeps them.
    pub keeps: Keeps,
    /// Where they travel.
    pub template: SubjectTemplate,
    /// Where new ones come from.
    pub binding: Binding,
    /// Which of the logs that have stood here; the first does not say. Where a stream was deleted and made again, or put back to an earlier state, an
    /// offset means another event.
    pub log: Incarnation,
    /// The place where its events are published, on a bus that has places.
    pub place: Option<PlaceName>,
}

impl Partition {
    /// The one partition of a bus that was never divided or moved: it needs no mark.
    pub fn undivided(template: SubjectTemplate) -> Self {
        Self {
            number: 0,
            generation: 0,
            slot: Slot::Whole,
            keeps: Keeps::Log,
            template,
            binding: Binding::Plain,
            log: Incarnation::default(),
            place: None,
        }
    }

    /// Whether it is as [`Self::undivided`] makes it, whichever log it is.
    pub fn is_undivided(&self) -> bool {
        let undivided = Self {
            log: self.log,
            ..Self::undivided(self.template.clone())
        };
        *self == undivided
    }

    /// Whether it takes nothing new.
    pub fn is_retired(&self) -> bool {
        matches!(self.binding, Binding::Retired(_))
    }

    /// Whether it holds what is published at another place.
    pub fn is_mirror(&self) -> bool {
        self.binding == Binding::Mirror
    }

    /// Since when it takes nothing new, nanoseconds since the Unix epoch.
    pub fn retired_at(&self) -> Option<Timestamp> {
        match self.binding {
            Binding::Retired(at) => Some(at),
            Binding::Plain | Binding::Internal | Binding::Mirror => None,
        }
    }

    /// The bus's own subjects, as far as they fall to this partition; `None` when no filter can say so.
    fn plain(&self) -> Option<String> {
        if self.place.is_some() {
            // Joined places share one space of subjects: two streams on the bus's own would both store what is published.
            return None;
        }
        match &self.slot {
            Slot::Whole => Some(self.template.all()),
            Slot::Tenant(tenant) => Some(self.template.filter(Some(tenant), &crate::TypePattern::any())),
            Slot::Shard { .. } => None,
        }
    }

    /// The binding that it has once nothing older is in the way.
    pub fn settled_binding(&self) -> Binding {
        if self.plain().is_some() {
            Binding::Plain
        } else {
            Binding::Internal
        }
    }

    /// Before an event's own subject: where an event for this partition is published when the bus's subjects can't say
    /// so. Its stream takes it off again. Generation and shard are tokens of their own, so that a mapping of the server
    /// can name them.
    pub fn internal_prefix(&self, names: &BusNames) -> String {
        let parts = names.parts_prefix();
        let generation = self.generation;
        match &self.slot {
            Slot::Whole => format!("{parts}{generation}.whole."),
            Slot::Shard { index, .. } => format!("{parts}{generation}.{index}."),
            Slot::Tenant(tenant) => format!("{parts}{generation}.{}.", tenant.token()),
        }
    }

    /// Where its stream can be asked something without anybody else being told: a subject of its own, or one of a tenant
    /// that there can't be.
    pub fn question_subject(&self, names: &BusNames) -> String {
        match self.subjects(names).as_slice() {
            [subject, ..] => subject.replace(['*', '>'], "%"),
            [] => String::new(),
        }
    }

    /// What its stream stores. The first partition of a bus has no subject of its own, as long as it needs none.
    pub fn subjects(&self, names: &BusNames) -> Vec<String> {
        let internal = format!("{}>", self.internal_prefix(names));
        match (self.binding, self.plain()) {
            (Binding::Retired(_), _) => vec![names.retired(self.number)],
            (Binding::Mirror, _) => Vec::new(),
            (Binding::Plain, Some(plain)) if self.is_first() => vec![plain],
            (Binding::Plain, Some(plain)) => vec![internal, plain],
            (Binding::Plain | Binding::Internal, _) => vec![internal],
        }
    }

    /// The prefix that its stream takes off a subject before it stores the event.
    pub fn strips(&self, names: &BusNames) -> Option<String> {
        // What is mirrored was stripped where it was stored.
        (!self.is_first() && !self.is_mirror()).then(|| self.internal_prefix(names))
    }

    fn is_first(&self) -> bool {
        self.number == 0 && self.generation == 0 && self.plain().is_some()
    }

    /// Where an event is published so that it comes here.
    pub fn publish_subject(&self, names: &BusNames, subject: &str) -> String {
        match self.binding {
            Binding::Plain => subject.to_owned(),
            Binding::Internal | Binding::Retired(_) | Binding::Mirror => {
                format!("{}{subject}", self.internal_prefix(names))
            }
        }
    }
}

/// Every partition of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// By number.
    pub partitions: BTreeMap<u32, Partition>,
}

impl Layout {
    /// The partitions that take, or took, what is published here: all but mirrors.
    pub fn own(&self) -> impl Iterator<Item = &Partition> {
        self.partitions.values().filter(|p| !p.is_mirror())
    }

    /// The other place where the events of a partition are published; `None` for one of this place's own.
    pub fn mirrored_from(&self, partition: u32) -> Option<&PlaceName> {
        let partition = self.partitions.get(&partition)?;
        partition.place.as_ref().filter(|_| partition.is_mirror())
    }

    /// The newest generation's number.
    pub fn newest(&self) -> Option<u32> {
        self.own().map(|p| p.generation).max()
    }

    /// Which log a partition is.
    pub fn log_of(&self, partition: u32) -> Incarnation {
        self.partitions
            .get(&partition)
            .map_or_else(Incarnation::default, |p| p.log)
    }

    /// Where a tenant's new events go: the oldest partition that still takes them, so that a change takes effect at
    /// the one moment at which that partition is retired.
    pub fn publish_to(&self, tenant: &TenantId) -> Option<&Partition> {
        self.own()
            .filter(|p| !p.is_retired() && p.slot.holds(tenant))
            .min_by_key(|p| p.generation)
    }

    /// The retired partitions that may hold a tenant's earlier events, newest first.
    pub fn earlier(&self, tenant: &TenantId) -> impl Iterator<Item = &Partition> {
        let mut found: Vec<_> = self
            .partitions
            .values()
            .filter(|p| p.is_retired() && p.slot.holds(tenant))
            .collect();
        found.sort_by_key(|p| std::cmp::Reverse(p.generation));
        found.into_iter()
    }

    /// The partitions in which a filter can find something.
    pub fn touching(&self, filter: &Filter) -> impl Iterator<Item = &Partition> {
        self.partitions.values().filter(|p| p.slot.touches(filter))
    }

    /// The distinct templates under which new events travel.
    pub fn templates(&self) -> Vec<&SubjectTemplate> {
        let mut found: Vec<&SubjectTemplate> = Vec::new();
        for p in self.own().filter(|p| !p.is_retired()) {
            if !found.contains(&&p.template) {
                found.push(&p.template);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_fall_to_the_shards_that_the_server_would_choose() {
        // As nats-server 2.15.1 mapped them with `{{partition(4,1)}}`.
        for (tenant, shard) in [("acme", 3), ("globex", 2), ("a", 0), ("b", 1), ("zzz-9", 3)] {
            assert_eq!(shard_of(&tenant.parse().unwrap(), 4), shard, "{tenant}");
        }
    }

    #[test]
    fn slots_read_what_they_print() {
        for slot in [
            Slot::Whole,
            Slot::Shard { index: 3, of: 8 },
            Slot::Tenant("acme".parse().unwrap()),
            Slot::Tenant("eu.acme of 3".parse().unwrap()),
        ] {
            assert_eq!(slot.to_string().parse(), Ok(slot));
        }
        for bad in ["", "shard 1", "tenant ", "half"] {
            assert_eq!(bad.parse::<Slot>(), Err(()), "{bad}");
        }
    }
}
