//! What a bus needs of each of its servers under a load: disk, memory, file descriptors.
//!
//! Each figure has its formula beside it. Their constants were measured on nats-server 2.15.1 (linux, x86-64), one server and
//! three; a policy's bounds hold whatever the load.

use std::collections::BTreeSet;

use crate::Policy;
use crate::explain::{Load, STORED_WITH_A_MESSAGE, show_bytes};
use crate::policy::Storage;
use crate::setting::show_duration;
use crate::topology::{Side, StreamSpec, Topology};

/// A server of which nothing is stored yet: 14 to 18 MiB, and up to 10 MiB of the block that was written last.
const SERVER_BYTES: u64 = 28 << 20;
/// A message id that is remembered: 270 to 390 bytes, by its length.
const ID_BYTES: u64 = 390;
/// A subject in a stream: 455 bytes for one of 40.
const SUBJECT_BYTES: u64 = 460;
/// An event that is delivered and not settled.
const IN_FLIGHT_BYTES: u64 = 900;
/// A stream without copies, and what one with copies takes for agreeing on them.
const STREAM_BYTES: u64 = 9 << 10;
const REPLICATED_STREAM_BYTES: u64 = 160 << 10;
/// The same of a consumer.
const CONSUMER_BYTES: u64 = 3 << 10;
const REPLICATED_CONSUMER_BYTES: u64 = 125 << 10;
/// Files of a server without streams: its sockets, its log, its store's folders; 20 in a cluster of three.
const SERVER_FILES: u64 = 20;

/// What is expected of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How much is published.
    pub load: Load,
    /// Tenants that publish.
    pub tenants: u64,
    /// Event types of each.
    pub event_types: u64,
    /// Connections to one server: instances, and other clients.
    pub connections: u64,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// `disk`, `memory`, `files`, `streams` or `consumers`.
    pub of: &'static str,
    /// What takes it.
    pub what: String,
    /// How it was counted.
    pub formula: String,
    /// Bytes, or how many.
    pub amount: u64,
}

/// What a server needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Each part.
    pub figures: Vec<Figure>,
}

impl Size {
    /// The sum of one kind.
    pub fn total(&self, of: &str) -> u64 {
        let these = self.figures.iter().filter(|figure| figure.of == of);
        these.fold(0, |sum, figure| sum.saturating_add(figure.amount))
    }

    fn push(&mut self, of: &'static str, what: impl Into<String>, formula: String, amount: u64) {
        let (what, amount) = (what.into(), amount);
        self.figures.push(Figure {
            of,
            what,
            formula,
            amount,
        });
    }
}

/// What a topology needs of each server that has a copy of it.
pub fn size(policy: &Policy, topology: &Topology, workload: Workload) -> Size {
    let Workload {
        load,
        tenants,
        event_types,
        connections,
    } = workload;
    let mut size = Size::default();
    let rate = load.events_per_second;
    let each = load.event_bytes.saturating_add(STORED_WITH_A_MESSAGE);
    let age = policy.retention.max_age;
    let wanted = rate.saturating_mul(age.as_secs());
    let log_bound = bounded(topology.streams.values().filter_map(|s| {
        let open = s.partition.as_ref().is_some_and(|p| !p.is_retired());
        open.then_some(s.max_bytes)
    }));
    let held = wanted.min(log_bound / each.max(1));
    let of_log = match policy.retention.storage {
        Storage::File => "disk",
        Storage::Memory => "memory",
    };
    let bound = match log_bound {
        u64::MAX => String::new(),
        bound => format!(", at most {}", show_bytes(bound)),
    };
    size.push(
        of_log,
        "events",
        format!(
            "{rate}/s x {} x ({} + {STORED_WITH_A_MESSAGE}) bytes{bound}",
            show_duration(age),
            load.event_bytes
        ),
        held.saturating_mul(each),
    );
    let retired = topology
        .streams
        .values()
        .filter(|s| s.partition.as_ref().is_some_and(|p| p.is_retired()));
    let retired = retired.fold(0u64, |sum, s| {
        sum.saturating_add(match s.max_bytes {
            0 => wanted.saturating_mul(each),
            bound => bound,
        })
    });
    let until = format!("at most, until they expire: {}", show_duration(age));
    size.push(of_log, "logs of earlier topologies", until, retired);
    let beside = topology.streams.values().filter(|s| s.partition.is_none());
    let beside = beside.map(|s| (s.storage, s.max_bytes));
    let buckets = topology.buckets.values().map(|b| (b.storage, b.max_bytes));
    let (disk, memory) = beside
        .chain(buckets)
        .fold((0u64, 0u64), |(disk, memory), (storage, bytes)| match storage {
            Storage::File => (disk.saturating_add(bytes), memory),
            Storage::Memory => (disk, memory.saturating_add(bytes)),
        });
    let most = "at most, by their bounds in the policy".to_owned();
    size.push(
        "disk",
        "dead letters, retries, scheduled events, marks, registry",
        most.clone(),
        disk,
    );
    size.push("memory", "streams that are kept in memory", most, memory);

    let streams = (topology.streams.len() + topology.buckets.len()) as u64;
    let subscriptions: BTreeSet<_> = topology
        .consumers
        .values()
        .filter_map(|c| c.name.subscription())
        .collect();
    let is_scheduled = |s: &&StreamSpec| s.side == Some(Side::Scheduled);
    let scheduled = topology.streams.values().filter(is_scheduled).count() as u64;
    let (of_the_log, for_each) = (topology.consumers.len() as u64, subscriptions.len() as u64);
    // Each instance has one of the registry; the bus's first is counted.
    let consumers = of_the_log + 2 * for_each + scheduled + 1;
    let most = "of the log, dead letters, retries, schedule, registry".to_owned();
    size.push("streams", "streams and buckets", most, streams);
    size.push(
        "consumers",
        "consumers",
        format!(
            "{of_the_log} of the log + 2 of retries and redrives x {for_each} + {scheduled} of the schedule + 1 of the registry"
        ),
        consumers,
    );
    let is_replicated = policy.retention.replicas > 1;
    let (stream_bytes, consumer_bytes) = match is_replicated {
        true => (REPLICATED_STREAM_BYTES, REPLICATED_CONSUMER_BYTES),
        false => (STREAM_BYTES, CONSUMER_BYTES),
    };
    size.push("memory", "the server", "with nothing in it".to_owned(), SERVER_BYTES);
    let window = policy.dedupe.window;
    let ids = rate.saturating_mul(window.as_secs()).min(held);
    size.push(
        "memory",
        "message ids",
        format!(
            "{ids} of `dedupe.window` ({}) x {ID_BYTES} bytes",
            show_duration(window)
        ),
        ids.saturating_mul(ID_BYTES),
    );
    let subjects = tenants.saturating_mul(event_types).min(held);
    size.push(
        "memory",
        "subjects",
        format!("{tenants} tenants x {event_types} event types x {SUBJECT_BYTES} bytes"),
        subjects.saturating_mul(SUBJECT_BYTES),
    );
    let in_flight = topology
        .consumers
        .values()
        .fold(0u64, |sum, c| sum.saturating_add(u64::from(c.max_ack_pending)));
    let in_flight = in_flight.min(held);
    size.push(
        "memory",
        "events in flight",
        format!("{in_flight} at most x {IN_FLIGHT_BYTES} bytes"),
        in_flight.saturating_mul(IN_FLIGHT_BYTES),
    );
    size.push(
        "memory",
        "streams and consumers",
        format!(
            "{streams} x {} + {consumers} x {}",
            show_bytes(stream_bytes),
            show_bytes(consumer_bytes)
        ),
        streams * stream_bytes + consumers * consumer_bytes,
    );
    let (for_streams, for_consumers) = if is_replicated {
        (2 * streams, consumers)
    } else {
        (streams, 0)
    };
    size.push(
        "files",
        "open files",
        format!("{SERVER_FILES} + {for_streams} of {streams} streams + {for_consumers} of {consumers} consumers + {connections} connections"),
        SERVER_FILES + for_streams + for_consumers + connections,
    );
    size
}

/// The sum of bounds, where 0 is none.
fn bounded(bounds: impl Iterator<Item = u64>) -> u64 {
    bounds.fold(0, |sum, bound| match bound {
        0 => u64::MAX,
        bound => u64::saturating_add(sum, bound),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::planner::{self, Observed};

    fn sized(policy: &str, workload: Workload) -> Size {
        let document = Document::parse(policy).unwrap();
        let policy = Policy::from_settings("policy", &document.settings).unwrap();
        let topology = planner::desired(&policy, &Observed::default()).unwrap();
        size(&policy, &topology, workload)
    }

    fn workload(events_per_second: u64) -> Workload {
        Workload {
            load: Load {
                events_per_second,
                event_bytes: 1024,
            },
            tenants: 100,
            event_types: 10,
            connections: 5,
        }
    }

    const POLICY: &str = "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n";

    fn amount(size: &Size, what: &str) -> u64 {
        size.figures.iter().find(|figure| figure.what == what).unwrap().amount
    }

    #[test]
    fn what_is_held_is_bounded_by_age_and_by_bytes() {
        let free = format!("{POLICY}[retention]\nmax-age = \"1d\"\nmax-bytes = \"1TiB\"\n");
        let small = format!("{POLICY}[retention]\nmax-age = \"1d\"\nmax-bytes = \"1GiB\"\n");
        let day = 100 * 86_400 * (1024 + STORED_WITH_A_MESSAGE);
        assert_eq!(amount(&sized(&free, workload(100)), "events"), day);
        let bounded = amount(&sized(&small, workload(100)), "events");
        assert!(bounded <= 1 << 30 && bounded > (1 << 30) - 2_000, "{bounded}");
        // An hour's ids, and no more than there are events.
        assert_eq!(amount(&sized(&free, workload(100)), "message ids"), 360_000 * ID_BYTES);
        assert_eq!(amount(&sized(&free, workload(100)), "subjects"), 1_000 * SUBJECT_BYTES);
    }

    #[test]
    fn copies_cost_memory_and_files_for_each_stream_and_consumer() {
        let one = sized(POLICY, workload(1));
        let three = sized(&format!("{POLICY}[retention]\nreplicas = 3\n"), workload(1));
        assert!(three.total("files") > one.total("files"));
        assert!(three.total("memory") > one.total("memory"));
        assert_eq!(three.total("disk"), one.total("disk"), "each server has one copy");
    }
}
