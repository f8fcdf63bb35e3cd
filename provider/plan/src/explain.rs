//! Why each part of a topology exists, which rule of the server it keeps to, and what it costs.

use crate::Policy;
use crate::policy::{Storage, WhenFull};
use crate::setting::show_duration;
use crate::topology::Topology;

/// Bytes that nats-server 2.15 stores with each message besides its payload: record, subject, headers of an event.
const STORED_WITH_A_MESSAGE: u64 = 350;

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
    /// `stream`, `bucket` or `consumer`.
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
    let streams = topology.streams.values().map(|s| {
        if s.name == names.log() {
            Part {
                kind: "stream",
                name: s.name.clone(),
                why: format!(
                    "holds every event on {} for {}, and {}",
                    s.subjects.join(", "),
                    show_duration(s.max_age),
                    match s.when_full {
                        WhenFull::Refuse => "refuses new ones when it is full",
                        WhenFull::DropOldest => "forgets the oldest when it is full, pending ones too",
                    }
                ),
                rule: "one stream holds a subject (10065); limits retention, so that any number of subscriptions and backfills read it (10100)",
                cost: log_cost(policy, load),
            }
        } else {
            Part {
                kind: "stream",
                name: s.name.clone(),
                why: format!("keeps what subscribers would not handle, whole and with reasons, for {}", show_duration(s.max_age)),
                rule: "one message for a subscription and position: its subject is expected to be new (10071)",
                cost: "1 stream; as many bytes as dead letters".to_owned(),
            }
        }
    });
    let buckets = topology.buckets.values().map(|b| Part {
        kind: "bucket",
        name: b.name.clone(),
        why: if b.name == names.registry() {
            "remembers subscriptions, and lets instances of the provider agree".to_owned()
        } else {
            "remembers failed attempts and their reasons until the event is settled".to_owned()
        },
        rule: "a write goes through only on the revision that was read (10071)",
        cost: "1 stream; a few hundred bytes for each entry".to_owned(),
    });
    let consumers = topology.consumers.values().map(|c| Part {
        kind: "consumer",
        name: c.name.clone(),
        why: format!("gives subscription {} its events on {}", c.name, c.filter_subjects.join(", ")),
        rule: "its filters do not overlap (10138); explicit acknowledgement, no limit on deliveries, so that nothing ends without a word",
        cost: format!("1 consumer of 1,000 that a stream takes by default (10026); up to {} events in flight", c.max_ack_pending),
    });
    streams.chain(buckets).chain(consumers).collect()
}

fn log_cost(policy: &Policy, load: Load) -> String {
    let each = load.event_bytes + STORED_WITH_A_MESSAGE;
    let wanted = load
        .events_per_second
        .saturating_mul(policy.max_age.as_secs())
        .saturating_mul(each);
    let copies = u64::from(policy.replicas);
    let kept = wanted.min(policy.max_bytes);
    let place = match policy.storage {
        Storage::File => "disk",
        Storage::Memory => "memory",
    };
    let mut cost = format!(
        "1 stream; {} of {place} on each of {copies} at {} events/s of {}",
        show_bytes(kept),
        load.events_per_second,
        show_bytes(load.event_bytes)
    );
    if wanted > policy.max_bytes {
        let seconds = policy.max_bytes / (load.events_per_second.max(1) * each);
        cost.push_str(&format!(
            "; `retention.max-bytes` is reached after {}, long before `retention.max-age`: raise it to {}",
            show_duration(std::time::Duration::from_secs(seconds)),
            show_bytes(wanted)
        ));
    }
    cost
}

fn show_bytes(bytes: u64) -> String {
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
