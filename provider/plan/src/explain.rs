//! Why each part of a topology exists, which rule of the server it keeps to, and what it costs.

use std::time::Duration;

use crate::partition::{Binding, Keeps, Partition, Slot};
use crate::place::Places;
use crate::policy::{Journaled, Storage, WhenFull};
use crate::setting::show_duration;
use crate::step::listed;
use crate::topology::{ConsumerSpec, Side, StreamSpec, Topology};
use crate::usage::SLOTS;
use crate::{BusNames, Filter, Policy, TenantId};

/// Bytes that nats-server 2.15 stores with each message besides its payload: record, subject, headers of an event.
pub(crate) const STORED_WITH_A_MESSAGE: u64 = 350;

/// A rate to count costs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Events a second.
    pub events_per_second: u64,
    /// Bytes of an event's payload.
    pub event_bytes: u64,
}

/// One part of the topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// `stream`, `bucket`, `consumer`, `mapping` or `total`.
    pub kind: &'static str,
    /// Its name in the store.
    pub name: String,
    /// Why it exists.
    pub why: String,
    /// The rule of the server that it keeps to.
    pub rule: &'static str,
    /// What it costs.
    pub cost: String,
}

/// Explains a topology under a load.
pub fn explain(policy: &Policy, topology: &Topology, load: Load) -> Vec<Part> {
    let names = policy.names();
    let open = topology
        .streams
        .values()
        .filter(|s| s.partition.as_ref().is_some_and(|p| !p.is_retired()))
        .count();
    let streams = topology.streams.values().map(|s| match &s.partition {
        Some(p) => log(policy, s, p, open as u64, load),
        None if s.side == Some(Side::Scheduled) => Part {
            kind: "stream",
            name: s.name.clone(),
            why: "keeps events that are to be published later until they are due".to_owned(),
            rule: "a change names the message that it replaces, so that of publishing and cancelling one happens (10071)",
            cost: format!(
                "1 stream, 1 consumer; as many bytes as events that wait, at most {} of them and {}",
                s.max_messages,
                show_bytes(s.max_bytes)
            ),
        },
        None if s.side == Some(Side::Marks) => Part {
            kind: "stream",
            name: s.name.clone(),
            why: "says which of them are published or cancelled, also when their own stream is full".to_owned(),
            rule: "the first of two marks is expected to be the first (10071), and the oldest make way",
            cost: format!(
                "1 stream; a few hundred bytes for each event that was due or cancelled in {}, at most {}",
                show_duration(s.max_age),
                show_bytes(s.max_bytes)
            ),
        },
        None if s.side == Some(Side::Usage) => Part {
            kind: "stream",
            name: s.name.clone(),
            why: "counts the bytes stored for each tenant, for all instances of the provider".to_owned(),
            rule: "a counter adds on the server, so that no addition is lost (2.12)",
            cost: format!(
                "1 stream; up to {} small messages for each tenant, at most {}",
                SLOTS + 1,
                show_bytes(s.max_bytes)
            ),
        },
        None if s.side == Some(Side::Retries) => Part {
            kind: "stream",
            name: s.name.clone(),
            why: "keeps refused events until their next attempt, so that they hold up no others".to_owned(),
            rule: "a message nak'ed with a delay goes on counting against `max_ack_pending` (nats-server 2.15): what waits here counts nowhere else",
            cost: format!(
                "1 stream, 1 consumer for each subscription that refuses; at most {}, and beyond that refused events stay in flight",
                show_bytes(s.max_bytes)
            ),
        },
        None if s.side == Some(Side::Journal) => Part {
            kind: "stream",
            name: s.name.clone(),
            why: format!(
                "writes down {} for {}: when, by which instance, and how each ended",
                match policy.journal.deliveries {
                    Journaled::All => "every delivery",
                    Journaled::Off | Journaled::Errors => "deliveries that did not end well",
                },
                show_duration(s.max_age)
            ),
            rule: "a subject takes the server 460 bytes of memory (nats-server 2.15): one for each thousand events, many entries in a message, and the oldest make way",
            cost: journal_cost(policy, s, load),
        },
        None => Part {
            kind: "stream",
            name: s.name.clone(),
            why: format!(
                "keeps what subscribers would not handle, whole and with reasons, for {}",
                show_duration(s.max_age)
            ),
            rule: "one message for a subscription and position: its subject is expected to be new (10071)",
            cost: format!("1 stream; as many bytes as dead letters, at most {}", show_bytes(s.max_bytes)),
        },
    });
    let buckets = topology.buckets.values().map(|b| Part {
        kind: "bucket",
        name: b.name.clone(),
        why: if b.name == names.registry() {
            "remembers subscriptions, and lets instances of the provider agree".to_owned()
        } else if b.name == names.leases() {
            "says which instance delivers what in order; where there is memory for it, a full disk is not in its way"
                .to_owned()
        } else {
            "remembers failed attempts and their reasons until the event is settled".to_owned()
        },
        rule: "a write goes through only on the revision that was read (10071)",
        cost: format!(
            "1 stream; a few hundred bytes for each entry, at most {}",
            show_bytes(b.max_bytes)
        ),
    });
    let consumers = topology
        .consumers
        .values()
        .map(|c| consumer(policy, &names, topology, c));
    streams
        .chain(buckets)
        .chain(consumers)
        .chain(mapping(policy, topology))
        .chain([total(policy, topology, load)])
        .collect()
}

fn log(policy: &Policy, s: &StreamSpec, p: &Partition, parts: u64, load: Load) -> Part {
    let whose = match &p.slot {
        Slot::Whole => String::new(),
        Slot::Shard { index, of } => format!(" of the tenants whose hash falls to shard {index} of {of}"),
        Slot::Tenant(tenant) => format!(" of tenant {tenant}"),
    };
    let full = match s.when_full {
        WhenFull::Refuse => "refuses new ones when it is full",
        WhenFull::DropOldest => "forgets the oldest when it is full, pending ones too",
    };
    let kept = match p.keeps {
        Keeps::Log => format!("for {}", show_duration(s.max_age)),
        Keeps::WorkQueue => format!(
            "until its one durable subscription has settled it, at most {}",
            show_duration(s.max_age)
        ),
    };
    let why = match p.binding {
        Binding::Retired(_) => {
            format!("takes nothing new since the topology was changed; holds earlier events{whose} until they expire")
        }
        Binding::Mirror => mirrored(policy, s, p, &whose, &kept),
        Binding::Plain | Binding::Internal => {
            format!("holds every event{whose} on {} {kept}, and {full}", p.template)
        }
    };
    Part {
        kind: "stream",
        name: s.name.clone(),
        why,
        rule: match (p.keeps, &p.slot) {
            _ if p.is_mirror() => {
                "a mirror keeps the numbers of its messages, also with filters; what it mirrors of which stream can't be changed (10055)"
            }
            (Keeps::WorkQueue, _) => {
                "work-queue retention: explicit acknowledgement (10098), filters that do not meet (10100), from the first event (10101); it can't be changed from or to a log (10052), so a change makes a new stream"
            }
            (Keeps::Log, Slot::Shard { .. }) => {
                "one stream holds a subject (10065), and no filter can tell shards apart: events are published on the shard's own subject, and stored and announced on theirs"
            }
            (Keeps::Log, _) => {
                "one stream holds a subject (10065); limits retention, so that any number of subscriptions and backfills read it (10100)"
            }
        },
        cost: if p.is_retired() {
            "1 stream; what it holds now, and less with time".to_owned()
        } else {
            log_cost(policy, s, parts, load)
        },
    }
}

/// What a mirror holds, of which place, and how it gets there.
fn mirrored(policy: &Policy, s: &StreamSpec, p: &Partition, whose: &str, kept: &str) -> String {
    let origin = p.place.as_ref().map_or_else(String::new, ToString::to_string);
    let of = match s.mirror.as_ref().map(|m| m.subjects.as_slice()) {
        None | Some([]) => "every event".to_owned(),
        Some(subjects) => format!("the events on {}", listed(subjects)),
    };
    let hub = policy
        .places
        .as_ref()
        .and_then(Places::own)
        .and_then(|own| own.leaf_of.as_ref());
    let over = hub.map_or_else(String::new, |hub| format!(" over the link to {hub}"));
    format!("mirrors{over} {of}{whose} that place {origin} has taken, under the positions that they have there, {kept}")
}

/// The filter of a consumer's subscription. Of a long one that the policy does not declare, nothing is known here.
fn filter<'a>(policy: &'a Policy, c: &'a ConsumerSpec) -> Option<&'a Filter> {
    Some(match &c.entry {
        Some(entry) => &entry.subscription.filter,
        None => &policy.subscriptions.get(&c.name.subscription()?)?.filter,
    })
}

fn consumer(policy: &Policy, names: &BusNames, topology: &Topology, c: &ConsumerSpec) -> Part {
    let stream = names.partition(c.partition);
    let work_queue = topology
        .streams
        .get(&stream)
        .is_some_and(|s| s.keeps() == Keeps::WorkQueue);
    let name = c.name.without_incarnation();
    let filter = filter(policy, c).filter(|filter| filter.pattern().is_some());
    Part {
        kind: "consumer",
        name: if c.partition == 0 {
            name.clone()
        } else {
            format!("{name} of {stream}")
        },
        why: match c.name.tenant() {
            None => format!(
                "gives subscription {} its events on {}{}",
                c.name.subscription().map_or(name, |of| of.to_string()),
                c.filter_subjects.join(", "),
                match filter.and_then(Filter::pattern) {
                    Some(p) if filter.is_some_and(Filter::subjects_say_all) =>
                        format!(", which are those that match {p}"),
                    Some(p) => format!(", of which those are delivered that match {p}"),
                    None => String::new(),
                }
            ),
            Some(tenant) => format!(
                "isolates tenant {}: gives what waits of it, so that nobody stands behind it, until all of that is handled",
                TenantId::from_token(tenant).map_or_else(|| tenant.to_owned(), String::from)
            ),
        },
        rule: if work_queue {
            "its filters meet those of no other consumer (10100); explicit acknowledgement (10098), from the first event (10101)"
        } else {
            "its filters do not overlap (10138); explicit acknowledgement, no limit on deliveries, so that nothing ends without a word"
        },
        cost: format!(
            "1 consumer of 1,000 that a stream takes by default (10026); up to {} events in flight{}",
            c.max_ack_pending,
            match filter.map(Filter::subjects_say_all) {
                Some(true) => NONE_PASSED_OVER,
                Some(false) => PASSED_OVER,
                None => "",
            }
        ),
    }
}

/// What is read for what is delivered. Only the log could tell how many events match.
const PASSED_OVER: &str = "; at least 1 event read for each that is delivered, and at most all on these subjects: the rest is acknowledged, and an instance's status counts it as `left_out`";

/// The same where the pattern says no more than subjects tell.
const NONE_PASSED_OVER: &str = "; 1 event read for each that is delivered: all on these subjects match the pattern";

/// The line of the server's configuration with which other clients publish to shards.
fn mapping(policy: &Policy, topology: &Topology) -> Option<Part> {
    let open = |s: &StreamSpec| s.partition.clone().filter(|p| !p.is_retired() && !p.is_mirror());
    let (generation, of, template) = topology.streams.values().filter_map(open).find_map(|p| match p.slot {
        Slot::Shard { of, .. } => Some((p.generation, of, p.template)),
        Slot::Whole | Slot::Tenant(_) => None,
    })?;
    let all = template.all();
    let own = all.replacen('*', "{{wildcard(1)}}", 1);
    let parts = policy.names().parts_prefix();
    Some(Part {
        kind: "mapping",
        name: format!("\"{all}\": \"{parts}{generation}.{{{{partition({of},1)}}}}.{own}\""),
        why: "for the server's `mappings`, if other clients than Fanout publish to this bus: without it, their JetStream publishes are refused, since no stream listens, and their core publishes are heard by whoever subscribed and not stored. It changes with each change of the topology".to_owned(),
        rule: "the server hashes a token with the function that Fanout uses (FNV-1a), so an event falls to the shard of its tenant",
        cost: "nothing for publishes through Fanout".to_owned(),
    })
}

fn total(policy: &Policy, topology: &Topology, load: Load) -> Part {
    let bytes: u64 = topology
        .streams
        .values()
        .filter(|s| s.partition.as_ref().is_some_and(|p| !p.is_retired()))
        .map(|s| s.max_bytes)
        .sum();
    let wanted = wanted(policy.retention.max_age, load);
    let all = crate::cost::needs(topology);
    Part {
        kind: "total",
        name: format!("bus {}", policy.bus),
        why: format!("topology {}", policy.shape),
        rule: "1,000 streams publish at a third of the rate of one, and 5,000 take five seconds to start (nats-server 2.15, measured)",
        cost: format!(
            "{} streams, {} consumers; {} of events on each of {} servers, of at most {}; with all that comes of them at most {}",
            topology.streams.len() + topology.buckets.len(),
            topology.consumers.len(),
            show_bytes(wanted.min(bytes)),
            policy.retention.replicas,
            show_bytes(bytes),
            show_bytes(all.disk + all.memory)
        ),
    }
}

/// Bytes that a bus would hold if only age bounded it.
fn wanted(age: Duration, load: Load) -> u64 {
    load.events_per_second
        .saturating_mul(age.as_secs())
        .saturating_mul(load.event_bytes + STORED_WITH_A_MESSAGE)
}

fn log_cost(policy: &Policy, s: &StreamSpec, parts: u64, load: Load) -> String {
    let each = load.event_bytes + STORED_WITH_A_MESSAGE;
    let wanted = wanted(s.max_age, load) / parts.max(1);
    let limit = if s.max_bytes == 0 { u64::MAX } else { s.max_bytes };
    let place = match s.storage {
        Storage::File => "disk",
        Storage::Memory => "memory",
    };
    let share = match parts {
        0 | 1 => String::new(),
        n => format!("a {n}th of "),
    };
    let mut cost = format!(
        "1 stream; {} of {place} on each of {} at {share}{} events/s of {}",
        show_bytes(wanted.min(limit)),
        s.replicas,
        load.events_per_second,
        show_bytes(load.event_bytes)
    );
    if wanted > limit {
        let seconds = limit.saturating_mul(parts.max(1)) / (load.events_per_second.max(1) * each);
        cost.push_str(&format!(
            "; `retention.max-bytes` is reached after {}, long before `retention.max-age`: raise it to {}",
            show_duration(Duration::from_secs(seconds)),
            show_bytes(self::wanted(policy.retention.max_age, load))
        ));
    }
    cost
}

/// Bytes of an entry of the journal, counted generously: an entry of 200 bytes and its part of a message.
const ENTRY_BYTES: u64 = 250;

fn journal_cost(policy: &Policy, s: &StreamSpec, load: Load) -> String {
    let at_most = show_bytes(s.max_bytes);
    if policy.journal.deliveries != Journaled::All {
        return format!(
            "1 stream; about {ENTRY_BYTES} bytes for each delivery that did not end well, at most {at_most}"
        );
    }
    let wanted = load
        .events_per_second
        .saturating_mul(s.max_age.as_secs())
        .saturating_mul(ENTRY_BYTES);
    let mut cost = format!(
        "1 stream; about {ENTRY_BYTES} bytes for each delivery: {} for each subscription at {} events/s, at most {at_most}",
        show_bytes(wanted.min(s.max_bytes)),
        load.events_per_second
    );
    if wanted > s.max_bytes {
        let seconds = s.max_bytes / load.events_per_second.saturating_mul(ENTRY_BYTES).max(1);
        cost.push_str(&format!(
            "; `journal.max-bytes` is reached after {} with one subscription, before `journal.max-age`",
            show_duration(Duration::from_secs(seconds))
        ));
    }
    cost
}

/// Bytes in the largest unit that leaves a whole part.
pub fn show_bytes(bytes: u64) -> String {
    for (unit, name) in [
        (1 << 40, "TiB"),
        (1 << 30, "GiB"),
        (1 << 20, "MiB"),
        (1u64 << 10, "KiB"),
    ] {
        if bytes >= unit {
            return format!("{:.1} {name}", bytes as f64 / unit as f64);
        }
    }
    format!("{bytes} B")
}
