//! What a step changes and costs, for whoever decides on it.

use crate::Policy;
use crate::explain::show_bytes;
use crate::planner::Observed;
use crate::policy::{Storage, WhenFull};
use crate::setting::show_duration;
use crate::step::{Step, listed};
use crate::topology::{Side, StreamSpec, Topology};

/// What comes of a step; `None` where nothing is worth a word.
pub fn cost(policy: &Policy, observed: &Observed, step: &Step) -> Option<String> {
    Some(match step {
        Step::CreateStream(s) => format!("1 stream; {}", at_most(s.max_bytes, s.storage, s.replicas)),
        Step::CreateBucket(b) => format!("1 stream; {}", at_most(b.max_bytes, b.storage, b.replicas)),
        Step::UpdateStream(s) => changes(observed.topology.streams.get(&s.name)?, s),
        Step::UpdateBucket(b) => match observed.topology.buckets.get(&b.name) {
            Some(have) if have.max_bytes != b.max_bytes => {
                format!(
                    "changed in place; bytes {} -> {}",
                    shown(have.max_bytes),
                    shown(b.max_bytes)
                )
            }
            _ => "changed in place".to_owned(),
        },
        Step::RetireStream(s) => {
            let log = s.partition.as_ref().and_then(|p| observed.logs.get(&p.number));
            let held = log.map_or_else(
                || "it is empty".to_owned(),
                |log| format!("its {} events ({}) are read on", log.messages, show_bytes(log.bytes)),
            );
            format!(
                "nothing is copied: {held} until they expire, at most {} from now, then it goes; publishes that find it gone are repeated on the new one; for `dedupe.window` ({}) an id is asked for in both, one request more for each publish",
                show_duration(s.max_age),
                show_duration(policy.dedupe.window)
            )
        }
        Step::BindStream(_) => "nothing is copied; other clients' publishes are taken again".to_owned(),
        Step::DeleteStream(name) => {
            let journal = |s: &&StreamSpec| s.side == Some(Side::Journal);
            match observed.topology.streams.get(name).filter(journal) {
                Some(_) => "1 stream less; what was written down of deliveries goes with it".to_owned(),
                None => "1 stream less".to_owned(),
            }
        }
        Step::CreateConsumer(c) => format!("1 consumer; at most {} events in flight", c.max_ack_pending),
        Step::UpdateConsumer(c) => {
            let have = observed.topology.consumers.get(&(c.partition, c.name.clone()))?;
            if have.filter_subjects == c.filter_subjects {
                return Some("changed in place".to_owned());
            }
            let added: Vec<_> = c
                .filter_subjects
                .iter()
                .filter(|f| !have.filter_subjects.contains(f))
                .cloned()
                .collect();
            let gone: Vec<_> = have
                .filter_subjects
                .iter()
                .filter(|f| !c.filter_subjects.contains(f))
                .cloned()
                .collect();
            let mut parts = Vec::new();
            if !added.is_empty() {
                parts.push(format!(
                    "{}: from its place in the log on; what lies before it comes only by a backfill or a rewind",
                    listed(&added)
                ));
            }
            if !gone.is_empty() {
                parts.push(format!("{}: what still waits there is not delivered", listed(&gone)));
            }
            parts.join("; ")
        }
        Step::DeleteConsumer { .. } => "1 consumer less".to_owned(),
        Step::Forget(_) => "what waits for it is let go".to_owned(),
        Step::Remember(_) => return None,
    })
}

fn at_most(bytes: u64, storage: Storage, replicas: u8) -> String {
    format!(
        "at most {} of {} on each of {replicas} servers",
        shown(bytes),
        place(storage)
    )
}

/// A size; 0 is none.
fn shown(bytes: u64) -> String {
    match bytes {
        0 => "any number".to_owned(),
        n => show_bytes(n),
    }
}

/// What a topology takes at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Streams, those of buckets included.
    pub streams: usize,
    /// Bytes on the disk of each server that has a copy.
    pub disk: u64,
    /// Bytes in its memory.
    pub memory: u64,
}

/// What a topology takes at most, for whoever gives an account its bounds.
pub fn needs(topology: &Topology) -> Needs {
    let streams = topology.streams.values().map(|s| (s.storage, s.max_bytes));
    let buckets = topology.buckets.values().map(|b| (b.storage, b.max_bytes));
    streams.chain(buckets).fold(Needs::default(), |sum, (storage, bytes)| {
        let (disk, memory) = match storage {
            Storage::File => (bytes, 0),
            Storage::Memory => (0, bytes),
        };
        Needs {
            streams: sum.streams + 1,
            disk: sum.disk.saturating_add(disk),
            memory: sum.memory.saturating_add(memory),
        }
    })
}

fn place(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "disk",
        Storage::Memory => "memory",
    }
}

/// The settings that differ, from what to what.
fn changes(have: &StreamSpec, want: &StreamSpec) -> String {
    let mut all = Vec::new();
    let mut changed = |what: &str, from: String, to: String| {
        if from != to {
            all.push(format!("{what} {from} -> {to}"));
        }
    };
    changed("age", show_duration(have.max_age), show_duration(want.max_age));
    changed("bytes", shown(have.max_bytes), shown(want.max_bytes));
    changed("copies", have.replicas.to_string(), want.replicas.to_string());
    changed(
        "dedupe window",
        show_duration(have.dedupe_window),
        show_duration(want.dedupe_window),
    );
    let full = |w: WhenFull| match w {
        WhenFull::Refuse => "refuse",
        WhenFull::DropOldest => "drop-oldest",
    };
    changed(
        "when full",
        full(have.when_full).to_owned(),
        full(want.when_full).to_owned(),
    );
    let compression = |c: bool| if c { "s2" } else { "none" };
    changed(
        "compression",
        compression(have.compressed).to_owned(),
        compression(want.compressed).to_owned(),
    );
    if all.is_empty() {
        all.push("its marks".to_owned());
    }
    all.join(", ")
}
