//! An independent check of a topology, wanted or found: what the server would refuse, what would reach nobody, what can
//! be lost.
//!
//! It judges what the planner made by the server's rules and by its own reading of subjects; it shares no decision with
//! it, so that one mistake is not made twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::explain::Load;
use crate::partition::{Keeps, Partition, Slot};
use crate::policy::{Storage, WhenFull};
use crate::subscription::{Need, Progress, Registered};
use crate::topology::{ConsumerSpec, ConsumerStart, StreamSpec, Topology};
use crate::{Policy, SubscriptionName, out_of_reach, show_duration};

/// How much a note weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The server refuses it, or events reach nobody.
    Fault,
    /// Events can be lost.
    Warning,
    /// Worth knowing.
    Advice,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
            Self::Advice => "advice",
        })
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Note {
    /// How much it weighs.
    pub severity: Severity,
    /// The stream, consumer, subscription or setting that it is about.
    pub about: String,
    /// What is so, and what to do.
    pub message: String,
}

/// Consumers that a stream takes by default (nats-server 2.15, error 10026).
const CONSUMERS_OF_A_STREAM: usize = 1_000;
/// Bytes of the server's memory that a remembered message id takes, counted generously.
const BYTES_OF_AN_ID: u64 = 256;
/// Memory for ids worth a note.
const MUCH_MEMORY: u64 = 256 << 20;

/// Checks a topology of a bus and the subscriptions that are remembered with it, under a load.
pub fn check(
    policy: &Policy,
    topology: &Topology,
    registry: &BTreeMap<SubscriptionName, Registered>,
    load: Load,
) -> Vec<Note> {
    let mut notes = Notes::default();
    subjects(&mut notes, topology);
    tenants(&mut notes, policy, topology);
    consumers(&mut notes, topology, registry);
    work_queues(&mut notes, topology);
    durability(&mut notes, policy, topology, registry);
    times_and_sizes(&mut notes, policy, load);
    reached(&mut notes, policy, registry);
    notes.0.sort();
    notes.0
}

#[derive(Default)]
struct Notes(Vec<Note>);

impl Notes {
    fn add(&mut self, severity: Severity, about: impl Into<String>, message: impl Into<String>) {
        self.0.push(Note {
            severity,
            about: about.into(),
            message: message.into(),
        });
    }
}

/// Subscriptions that are given what is stored already, and no more.
fn reached(notes: &mut Notes, policy: &Policy, registry: &BTreeMap<SubscriptionName, Registered>) {
    for (name, registered) in registry {
        let filter = &registered.subscription.filter;
        if let Err(problem) = out_of_reach::check(policy, name, filter, &registered.component) {
            notes.add(Severity::Warning, format!("subscription {name}"), problem.message);
        }
    }
}

/// Whether some subject passes both filters.
fn meet(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(x), Some(y)) if x == "*" || y == "*" || x == y => {}
            _ => return false,
        }
    }
}

fn first_meeting<'a>(a: &'a [String], b: &'a [String]) -> Option<(&'a str, &'a str)> {
    let of_a = a.iter().map(|f| (0, f.as_str()));
    let of_b = b.iter().map(|f| (1, f.as_str()));
    let (x, y) = meeting_of_two(&of_a.chain(of_b).collect::<Vec<_>>(), true)?;
    Some(if x.0 == 0 { (x.1, y.1) } else { (y.1, x.1) })
}

/// A filter, and its owner.
type Owned<'a> = (usize, &'a str);

/// Two filters that some subject passes both; of different owners, if so asked. Filters are sorted by their tokens, not
/// compared each with each.
fn meeting_of_two<'a>(filters: &[Owned<'a>], of_different: bool) -> Option<(Owned<'a>, Owned<'a>)> {
    let split = filters.iter().map(|f| (*f, f.1.split('.').collect::<Vec<_>>()));
    let split: Vec<_> = split.collect();
    let all: Vec<_> = (0..split.len()).collect();
    let (x, y) = meeting_at(&split, &all, 0, of_different)?;
    Some((split[x].0, split[y].0))
}

/// The same among `these`, which are alike or wild before token `depth`.
fn meeting_at(
    all: &[(Owned<'_>, Vec<&str>)],
    these: &[usize],
    depth: usize,
    of_different: bool,
) -> Option<(usize, usize)> {
    if these.len() < 2 {
        return None;
    }
    let owner = |i: usize| all[i].0.0;
    let two = |a: &[usize], b: &[usize]| -> Option<(usize, usize)> {
        if !of_different {
            let x = *a.first()?;
            return Some((x, *b.iter().find(|y| **y != x)?));
        }
        let one = *b.first()?;
        let another = b.iter().copied().find(|y| owner(*y) != owner(one));
        let of_other = |x: &usize| if owner(*x) == owner(one) { another } else { Some(one) };
        a.iter().find_map(|x| Some((*x, of_other(x)?)))
    };
    let (mut ended, mut rest, mut wild) = (Vec::new(), Vec::new(), Vec::new());
    let mut named: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for i in these {
        match all[*i].1.get(depth) {
            None => ended.push(*i),
            Some(&">") => rest.push(*i),
            Some(&"*") => wild.push(*i),
            Some(token) => named.entry(token).or_default().push(*i),
        }
    }
    let going_on: Vec<_> = rest
        .iter()
        .chain(&wild)
        .chain(named.values().flatten())
        .copied()
        .collect();
    if let Some(found) = two(&ended, &ended).or_else(|| two(&rest, &going_on)) {
        return Some(found);
    }
    if named.is_empty() {
        return meeting_at(all, &wild, depth + 1, of_different);
    }
    named.into_values().find_map(|mut alike| {
        alike.extend(&wild);
        meeting_at(all, &alike, depth + 1, of_different)
    })
}

/// Every two items once.
fn pairs<T>(items: &[T]) -> impl Iterator<Item = (&T, &T)> {
    items
        .iter()
        .enumerate()
        .flat_map(move |(i, a)| items[..i].iter().map(move |b| (b, a)))
}

fn subjects(notes: &mut Notes, topology: &Topology) {
    let streams: Vec<_> = topology.streams.values().collect();
    for (a, b) in pairs(&streams) {
        if let Some((x, y)) = first_meeting(&a.subjects, &b.subjects) {
            notes.add(
                Severity::Fault,
                &b.name,
                format!(
                    "its subject {y} meets {x} of stream {}: the server refuses the second (10065)",
                    a.name
                ),
            );
        }
    }
    for s in streams {
        let inside = s.announce_prefix.as_ref().map(|prefix| [format!("{prefix}>")]);
        if let Some((x, _)) = inside.as_ref().and_then(|i| first_meeting(&s.subjects, i)) {
            notes.add(
                Severity::Fault,
                &s.name,
                format!("it would store its own announcements on {x} (10053)"),
            );
        }
    }
}

/// Each tenant has one place for what is new, and no subject of one is a subject of another.
fn tenants(notes: &mut Notes, policy: &Policy, topology: &Topology) {
    let parts: Vec<&Partition> = topology.streams.values().filter_map(|s| s.partition.as_ref()).collect();
    let takes_events = |p: &&Partition| !p.is_retired() && !p.is_mirror();
    let open: Vec<&Partition> = parts.iter().copied().filter(takes_events).collect();
    let mut named: BTreeSet<_> = policy.tenants.iter().cloned().collect();
    named.extend(parts.iter().filter_map(|p| match &p.slot {
        Slot::Tenant(t) => Some(t.clone()),
        Slot::Whole | Slot::Shard { .. } => None,
    }));
    named.extend(["a", "b", "ab", "zz-9"].iter().filter_map(|t| t.parse().ok()));
    for tenant in &named {
        let mine: Vec<&Partition> = open.iter().copied().filter(|p| p.slot.holds(tenant)).collect();
        for (a, b) in pairs(&mine) {
            if a.generation == b.generation {
                notes.add(
                    Severity::Fault,
                    format!("partition {}", b.number),
                    format!(
                        "tenant {tenant} has a place in partition {} too: its events would be split",
                        a.number
                    ),
                );
            }
        }
    }
    let shards: BTreeMap<(u32, u32), BTreeSet<u32>> = open.iter().fold(BTreeMap::new(), |mut all, p| {
        if let Slot::Shard { index, of } = p.slot {
            all.entry((p.generation, of)).or_default().insert(index);
        }
        all
    });
    for ((_, of), there) in shards {
        if let Some(missing) = (0..of).find(|i| !there.contains(i)) {
            notes.add(
                Severity::Fault,
                format!("shard {missing} of {of}"),
                "it is not there: the tenants that fall to it can't publish; apply the policy again",
            );
        }
    }
    let any = crate::TypePattern::any();
    let templates: BTreeSet<_> = parts.iter().map(|p| p.template.to_string()).collect();
    for template in templates
        .iter()
        .filter_map(|t| t.parse::<crate::SubjectTemplate>().ok())
    {
        let named: Vec<_> = named.iter().take(64).collect();
        for (a, b) in pairs(&named) {
            let (x, y) = (template.filter(Some(a), &any), template.filter(Some(b), &any));
            if meet(&x, &y) {
                notes.add(
                    Severity::Fault,
                    template.to_string(),
                    format!("subjects of tenants {a} and {b} meet: {x} and {y}"),
                );
            }
        }
    }
}

fn consumers(notes: &mut Notes, topology: &Topology, registry: &BTreeMap<SubscriptionName, Registered>) {
    let stream = |number: u32| {
        topology
            .streams
            .values()
            .find(|s| s.partition.as_ref().is_some_and(|p| p.number == number))
    };
    let mut of_a_stream: BTreeMap<u32, usize> = BTreeMap::new();
    for c in topology.consumers.values() {
        let about = format!("consumer {} of partition {}", c.name, c.partition);
        *of_a_stream.entry(c.partition).or_default() += 1;
        match stream(c.partition).and_then(|s| s.partition.as_ref()) {
            None => notes.add(Severity::Fault, &about, "its stream is not there"),
            Some(p) => {
                let stored = [p.template.all()];
                for f in c.filter_subjects.iter().filter(|f| !meet(f, &stored[0])) {
                    notes.add(
                        Severity::Fault,
                        &about,
                        format!("nothing on {f} is stored in its stream"),
                    );
                }
            }
        }
        let filters: Vec<_> = c.filter_subjects.iter().map(|f| (0, f.as_str())).collect();
        if let Some(((_, x), (_, y))) = meeting_of_two(&filters, false) {
            notes.add(
                Severity::Fault,
                &about,
                format!("its filters {x} and {y} meet: the server refuses it (10138)"),
            );
        }
        if !registry.keys().any(|name| belongs_to(c, name)) {
            notes.add(
                Severity::Warning,
                &about,
                "no subscription is remembered for it: if it was ended, the next plan removes it, else it is left alone",
            );
        }
    }
    for (number, count) in of_a_stream {
        let about = stream(number).map_or_else(|| format!("partition {number}"), |s| s.name.clone());
        if count > CONSUMERS_OF_A_STREAM {
            notes.add(
                Severity::Fault,
                about,
                format!("{count} consumers: a stream takes {CONSUMERS_OF_A_STREAM} by default (10026); use one subscription with a filter for several, or `topology` = `sharded(n)`"),
            );
        } else if count * 5 > CONSUMERS_OF_A_STREAM * 4 {
            notes.add(
                Severity::Warning,
                about,
                format!("{count} consumers of the {CONSUMERS_OF_A_STREAM} that a stream takes by default (10026)"),
            );
        }
    }
    for (name, r) in registry {
        // What was handed over is read at another place.
        if r.progress == Progress::Finished || r.subscription.need == Need::Queue || r.has_moved() {
            continue;
        }
        for p in topology.streams.values().filter_map(|s| s.partition.as_ref()) {
            let reads = topology
                .consumers
                .values()
                .any(|c| c.partition == p.number && belongs_to(c, name));
            let past = p.is_retired() || matches!(r.subscription.need, Need::Backfill { .. });
            if !reads && !past && r.subscription.reads(p) {
                notes.add(
                    Severity::Fault,
                    format!("subscription {name}"),
                    format!("nothing reads partition {} for it: apply the policy again", p.number),
                );
            }
        }
    }
}

/// A consumer is named like its subscription, with a suffix once that was rewound.
fn belongs_to(c: &ConsumerSpec, name: &SubscriptionName) -> bool {
    c.name
        .strip_prefix(name.as_str())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

fn work_queues(notes: &mut Notes, topology: &Topology) {
    let is_queue = |s: &&StreamSpec| s.keeps() == Keeps::WorkQueue;
    for s in topology.streams.values().filter(is_queue) {
        let number = s.partition.as_ref().map(|p| p.number);
        let mine: Vec<_> = topology
            .consumers
            .values()
            .filter(|c| Some(c.partition) == number)
            .collect();
        for c in &mine {
            if c.start != ConsumerStart::First {
                notes.add(
                    Severity::Fault,
                    format!("consumer {} of {}", c.name, s.name),
                    "it does not begin with the first event: a work queue refuses it (10101)",
                );
            }
        }
        let filters = mine.iter().enumerate();
        let filters: Vec<_> = filters
            .flat_map(|(i, c)| c.filter_subjects.iter().map(move |f| (i, f.as_str())))
            .collect();
        if let Some(((a, x), (b, y))) = meeting_of_two(&filters, true) {
            notes.add(
                Severity::Fault,
                format!("consumer {} of {}", mine[b].name, s.name),
                format!(
                    "its filter {y} meets {x} of consumer {}: a work queue gives an event to one (10100)",
                    mine[a].name
                ),
            );
        }
        if mine.is_empty() && s.partition.as_ref().is_some_and(|p| !p.is_retired()) {
            notes.add(
                Severity::Advice,
                &s.name,
                "no durable subscription takes from this work queue: events stay until `retention.max-age`",
            );
        }
    }
}

fn durability(
    notes: &mut Notes,
    policy: &Policy,
    topology: &Topology,
    registry: &BTreeMap<SubscriptionName, Registered>,
) {
    let durable: Vec<_> = registry
        .values()
        .filter(|r| r.subscription.need == Need::Durable)
        .map(|r| r.subscription.name.to_string())
        .collect();
    for s in topology.streams.values().filter(|s| s.partition.is_some()) {
        if s.replicas == 1 && s.storage == Storage::File {
            notes.add(
                Severity::Advice,
                &s.name,
                "one copy: with its server's disk its events are gone; on a cluster of three or more set `retention.replicas` = 3",
            );
        }
        if durable.is_empty() {
            continue;
        }
        if s.storage == Storage::Memory {
            notes.add(
                Severity::Warning,
                &s.name,
                format!(
                    "durable subscriptions {} are kept in memory: a restart of the store forgets their events",
                    durable.join(", ")
                ),
            );
        }
        if s.when_full == WhenFull::DropOldest {
            notes.add(
                Severity::Warning,
                &s.name,
                format!("`retention.when-full` = `drop-oldest` drops what durable subscriptions {} have not handled: use `refuse`", durable.join(", ")),
            );
        }
    }
    if policy.delivery.ack_wait <= policy.delivery.deadline {
        notes.add(
            Severity::Fault,
            "delivery.ack-wait",
            "it is not longer than `delivery.deadline`: an event is given to a second instance while the first works on it",
        );
    }
}

fn times_and_sizes(notes: &mut Notes, policy: &Policy, load: Load) {
    let longest = policy.retries.schedule.longest();
    if longest >= policy.retention.max_age {
        notes.add(
            Severity::Warning,
            "retry.schedule",
            format!(
                "its attempts take {}, and events are kept for {}: an event can expire before it becomes a dead letter; shorten the schedule, or raise `retention.max-age`",
                show_duration(longest),
                show_duration(policy.retention.max_age)
            ),
        );
    }
    let ids = load.events_per_second.saturating_mul(policy.dedupe.window.as_secs());
    let memory = ids.saturating_mul(BYTES_OF_AN_ID);
    if memory > MUCH_MEMORY {
        notes.add(
            Severity::Advice,
            "dedupe.window",
            format!(
                "at {} events a second the server remembers {ids} ids, some {} MiB of memory: shorten it, if repeats come sooner",
                load.events_per_second,
                memory >> 20
            ),
        );
    }
}

#[cfg(test)]
mod tests;
