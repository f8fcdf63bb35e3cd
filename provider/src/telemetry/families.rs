//! The one table of metrics: `/metrics`, the NATS request, OTLP and docs/observability/metrics.md are made from it.
//!
//! Names are OpenTelemetry's, with its conventions for messaging where there is one, and below `fanout.` elsewhere; the
//! name that Prometheus sees follows from it as OpenTelemetry says. Labels are few by construction: subscriptions, codes,
//! transports, links, and tenants that the policy names.

use std::sync::atomic::Ordering::Relaxed;

use fanout_plan::status::{InstanceCounts, MirrorStatus, OutcomeState, SubscriptionStatus};
use fanout_transport::transport_counts;

use super::instruments::{Durations, INSTRUMENTS, Reconciled, StoreOperation};
use super::snapshot::Snapshot;

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    /// Only rises, until its process ends.
    Counter,
    Histogram,
}

/// A number of a family.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Whole(i64),
    Real(f64),
    Durations(Box<Durations>),
}

/// One number with the values of its family's labels.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) labels: Vec<String>,
    pub(crate) value: Value,
}

/// Where a family's numbers go.
pub(crate) type Samples = Vec<Sample>;

/// Numbers of one meaning.
pub(crate) struct Family {
    /// OpenTelemetry's name.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// As UCUM writes it; what is counted is in braces.
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
    /// OpenTelemetry's names of its attributes.
    pub(crate) labels: &'static [&'static str],
    samples: fn(&Snapshot, &mut Samples),
}

const BUS: &[&str] = &["bus"];
const SUBSCRIPTION: &[&str] = &["bus", "subscription"];
/// The place of the instance, and that whose partition is mirrored.
const MIRROR: &[&str] = &["bus", "place", "origin", "partition"];
const TRANSPORT: &[&str] = &["transport"];
/// Why the system is `fanout`: who publishes sees a bus, and neither its store nor that this is NATS.
const SYSTEM: &str = "fanout";

macro_rules! families {
    ($($name:literal $kind:ident $unit:literal $labels:expr, $help:literal, $samples:expr;)*) => {
        /// Every family, in the order in which they are shown.
        pub(crate) const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            help: $help,
            labels: $labels,
            samples: $samples,
        }),*];
    };
}

families! {
    "fanout.version" Gauge "" &["version"],
        "1 for the version of this instance",
        |_, out| push(out, &[env!("CARGO_PKG_VERSION")], 1);
    "messaging.client.operation.duration" Histogram "s"
        &["messaging.system", "messaging.destination.name", "messaging.operation.name", "messaging.operation.type"],
        "How long calls that publish take, from the call to its answer",
        |s, out| durations(out, &[SYSTEM, s.bus(), "publish", "send"], INSTRUMENTS.publish.read());
    "messaging.process.duration" Histogram "s"
        &["messaging.system", "messaging.destination.name", "messaging.consumer.group.name"],
        "How long a subscription's handler takes for one call, of one event or a batch",
        |s, out| for (name, here) in &s.here {
            durations(out, &[SYSTEM, s.bus(), name.as_str()], here.process.clone());
        };
    "fanout.events.accepted" Counter "{event}" BUS,
        "Events that this instance stored, repeats not counted",
        |s, out| push(out, &[s.bus()], INSTRUMENTS.accepted.load(Relaxed));
    "fanout.events.repeated" Counter "{event}" BUS,
        "Publishes of an event that was stored already",
        |s, out| push(out, &[s.bus()], INSTRUMENTS.repeated.load(Relaxed));
    "fanout.events.scheduled" Counter "{event}" BUS,
        "Events that this instance took to publish them later",
        |s, out| push(out, &[s.bus()], INSTRUMENTS.scheduled.load(Relaxed));
    "fanout.events.refused" Counter "{event}" &["bus", "code"],
        "Events that this instance did not take, by the code that their publisher was given",
        |s, out| for (code, refused) in INSTRUMENTS.refused.read() {
            push(out, &[s.bus(), code], refused);
        };
    "fanout.deliveries" Counter "{delivery}" &["bus", "subscription", "outcome"],
        "Deliveries of this instance: `handled`, `refused` (for now or for good), `unreachable` (nobody had it), `missed` (of a queue subscription, which tries once)",
        deliveries;
    "fanout.left_out" Counter "{event}" SUBSCRIPTION,
        "Events that this instance read and the event pattern left out",
        |s, out| each(s, out, |sub| sub.this_instance.as_ref()?.left_out);
    "fanout.dead_lettered" Counter "{event}" SUBSCRIPTION,
        "Events that this instance dead-lettered",
        |s, out| each(s, out, |sub| sub.this_instance.as_ref()?.dead_lettered);
    "fanout.pending" Gauge "{event}" SUBSCRIPTION,
        "Events stored and not yet delivered",
        |s, out| each(s, out, |sub| sub.pending);
    "fanout.in_flight" Gauge "{event}" SUBSCRIPTION,
        "Events delivered and not yet settled",
        |s, out| each(s, out, |sub| sub.in_flight);
    "fanout.redelivered" Gauge "{event}" SUBSCRIPTION,
        "Events in flight that were delivered before",
        |s, out| each(s, out, |sub| sub.redelivered);
    "fanout.waiting_for_retry" Gauge "{event}" SUBSCRIPTION,
        "Refused events that wait for their next attempt, or are at it",
        |s, out| each(s, out, |sub| sub.waiting_for_retry);
    "fanout.dead_letters" Gauge "{event}" SUBSCRIPTION,
        "Dead letters",
        |s, out| each(s, out, |sub| sub.dead_letters);
    "fanout.lost_events" Counter "{event}" SUBSCRIPTION,
        "Events seen to expire before they were handled",
        |s, out| each(s, out, |sub| sub.lost_events);
    "fanout.oldest.age" Gauge "s" SUBSCRIPTION,
        "Seconds since the oldest unhandled event was stored",
        oldest_age;
    "fanout.oldest.expires" Gauge "s" SUBSCRIPTION,
        "Seconds until the oldest unhandled event expires",
        |s, out| for sub in &s.status.subscriptions {
            if let Some(at) = sub.expires_at {
                push_signed(out, &[s.bus(), sub.name.as_str()], at.seconds_after(s.at));
            }
        };
    "fanout.attended" Gauge "" SUBSCRIPTION,
        "1 where somebody is there to take deliveries, 0 where nobody is",
        |s, out| each(s, out, |sub| sub.attended.map(u64::from));
    "fanout.subscription.state" Gauge "" &["bus", "subscription", "state"],
        "1 for the state that a subscription is in",
        |s, out| for sub in &s.status.subscriptions {
            push(out, &[s.bus(), sub.name.as_str(), sub.state.as_str()], 1);
        };
    "fanout.link.applied" Gauge "" &["bus", "component", "link", "role"],
        "1 for a link that is in force, 0 for one that was refused",
        |s, out| for link in &s.status.links {
            let applied = u64::from(link.outcome.state == OutcomeState::Applied);
            push(out, &[s.bus(), &link.component, &link.name, link.role.as_str()], applied);
        };
    "fanout.quota.used" Gauge "1" &["bus", "tenant"],
        "What part of its bytes a tenant has stored, of those that `telemetry.tenants` names and that published here in the last minute",
        |s, out| for (tenant, used) in &s.quotas {
            let labels = [s.bus(), tenant.as_str()].map(str::to_owned).to_vec();
            out.push(Sample { labels, value: Value::Real(*used) });
        };
    "fanout.mirror.lag.events" Gauge "{event}" MIRROR,
        "Events that a mirror of another place's partition knows of and does not have: while a link is cut, those of when it was cut",
        |s, out| mirrors(s, out, |mirror| mirror.lag);
    "fanout.mirror.lag" Gauge "s" MIRROR,
        "How long ago everything was stored that a mirror has, by the clocks of both places",
        |s, out| mirrors(s, out, |mirror| mirror.lag_seconds);
    "fanout.mirror.heard" Gauge "s" MIRROR,
        "Seconds since a mirror last heard of its place: when the link was last alive",
        |s, out| mirrors(s, out, |mirror| mirror.heard_seconds_ago);
    "fanout.place.left" Gauge "" &["bus", "place", "retired", "what"],
        "What is left at a place that is retired, as this place sees it: `subscriptions` that are at it, events `not-handled`, `scheduled` and `not-mirrored`, and places `unread`; where all are 0 it may be taken out of the policy",
        left_at_retired_places;
    "fanout.journal.entries" Counter "{entry}" &["bus", "outcome"],
        "Deliveries that this instance wrote into the journal: `written`, or `dropped` because they came faster than the store took them; only where the policy has a journal",
        |s, out| if let Some(journal) = &s.status.journal {
            for (outcome, entries) in [("written", journal.written), ("dropped", journal.dropped)] {
                push(out, &[s.bus(), outcome], entries);
            }
        };
    "fanout.tasks" Gauge "{task}" &[],
        "Tasks of this process that have not ended: what it serves, and what it does by itself",
        |_, out| if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            push(out, &[], runtime.metrics().num_alive_tasks() as u64);
        };
    "fanout.connections" Gauge "{connection}" TRANSPORT,
        "Connections to this instance's listeners",
        |_, out| for t in listeners() { push(out, &[t.transport], t.open); };
    "fanout.connections.accepted" Counter "{connection}" TRANSPORT,
        "Connections that were taken",
        |_, out| for t in listeners() { push(out, &[t.transport], t.accepted); };
    "fanout.connections.refused" Counter "{connection}" TRANSPORT,
        "Connections that were refused for want of a slot",
        |_, out| for t in listeners() { push(out, &[t.transport], t.refused); };
    "fanout.calls" Counter "{call}" &["transport", "outcome"],
        "Calls of the contract: `answered` (with a domain error too), `refused` (by the caller's rights, or too busy), `failed` (no answer); `nats` is the lattice",
        |_, out| for t in transport_counts() {
            for (outcome, calls) in [("answered", t.calls_answered), ("refused", t.calls_refused), ("failed", t.calls_failed)] {
                push(out, &[t.transport, outcome], calls);
            }
        };
    "fanout.calls.in_flight" Gauge "{call}" TRANSPORT,
        "Calls that run or wait for a permit",
        |_, out| for t in transport_counts() { push(out, &[t.transport], t.calls_in_flight); };
    "fanout.reconciles" Counter "{reconciliation}" &["bus", "outcome"],
        "How often the bus was brought to what is wanted: `done`, `incomplete` (something could not be had), `failed` (the store was away)",
        |s, out| for outcome in Reconciled::ALL {
            push(out, &[s.bus(), outcome.as_str()], INSTRUMENTS.read_reconciled(outcome));
        };
    "fanout.reconcile.duration" Histogram "s" BUS,
        "How long that takes",
        |s, out| durations(out, &[s.bus()], INSTRUMENTS.reconcile.read());
    "fanout.store.duration" Histogram "s" &["bus", "operation"],
        "Round trips to the store: `publish` (one event), `observe` (all that it holds of the bus), `apply` (one step of a plan)",
        |s, out| for operation in StoreOperation::ALL {
            durations(out, &[s.bus(), operation.as_str()], INSTRUMENTS.store(operation).read());
        };
}

fn push(out: &mut Samples, labels: &[&str], value: u64) {
    push_signed(out, labels, i64::try_from(value).unwrap_or(i64::MAX));
}

fn push_signed(out: &mut Samples, labels: &[&str], value: i64) {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    out.push(Sample {
        labels,
        value: Value::Whole(value),
    });
}

fn durations(out: &mut Samples, labels: &[&str], durations: Durations) {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    out.push(Sample {
        labels,
        value: Value::Durations(Box::new(durations)),
    });
}

/// What each mirror has of it, if it is known.
fn mirrors(snapshot: &Snapshot, out: &mut Samples, number: fn(&MirrorStatus) -> Option<u64>) {
    let Some(place) = &snapshot.status.place else { return };
    for mirror in place.mirrors.iter().flatten() {
        if let Some(number) = number(mirror) {
            let partition = mirror.partition.to_string();
            push(
                out,
                &[snapshot.bus(), place.name.as_str(), mirror.place.as_str(), &partition],
                number,
            );
        }
    }
}

/// What is left at each place that is retired. Of one that can't be read only that is known.
fn left_at_retired_places(snapshot: &Snapshot, out: &mut Samples) {
    let Some(place) = &snapshot.status.place else { return };
    for retired in &place.retiring {
        let is_read = !retired.unread.contains(&retired.place);
        let known = |number: u64| is_read.then_some(number);
        let left = [
            ("subscriptions", known(retired.subscriptions.len() as u64)),
            ("not-handled", known(retired.not_handled)),
            ("scheduled", known(retired.scheduled)),
            (
                "not-mirrored",
                known(retired.not_mirrored.values().sum::<u64>() + retired.kept_nowhere),
            ),
            ("unread", Some(retired.unread.len() as u64)),
        ];
        for (what, number) in left {
            if let Some(number) = number {
                let labels = [snapshot.bus(), place.name.as_str(), retired.place.as_str(), what];
                push(out, &labels, number);
            }
        }
    }
}

/// What each subscription has of it, if it is known.
fn each(snapshot: &Snapshot, out: &mut Samples, number: fn(&SubscriptionStatus) -> Option<u64>) {
    for sub in &snapshot.status.subscriptions {
        if let Some(number) = number(sub) {
            push(out, &[snapshot.bus(), sub.name.as_str()], number);
        }
    }
}

fn deliveries(snapshot: &Snapshot, out: &mut Samples) {
    for sub in &snapshot.status.subscriptions {
        let Some(InstanceCounts {
            handled,
            refused,
            missed,
            ..
        }) = sub.this_instance
        else {
            continue;
        };
        let unreachable = snapshot.here.get(&sub.name).map(|here| here.unreachable);
        let by_outcome = [
            ("handled", Some(handled)),
            ("refused", Some(refused)),
            ("unreachable", unreachable),
            ("missed", missed),
        ];
        for (outcome, count) in by_outcome {
            if let Some(count) = count {
                push(out, &[snapshot.bus(), sub.name.as_str(), outcome], count);
            }
        }
    }
}

fn oldest_age(snapshot: &Snapshot, out: &mut Samples) {
    let Some(max_age) = snapshot.max_age else { return };
    let max_age = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
    for sub in &snapshot.status.subscriptions {
        if let Some(at) = sub.expires_at {
            let age = max_age.saturating_sub(at.seconds_after(snapshot.at));
            push_signed(out, &[snapshot.bus(), sub.name.as_str()], age.max(0));
        }
    }
}

/// The lattice is one connection, and none of a listener.
fn listeners() -> impl Iterator<Item = fanout_transport::TransportCounts> {
    transport_counts().filter(|t| t.transport != "nats")
}

impl Family {
    /// What there is of it now.
    pub(crate) fn samples(&self, snapshot: &Snapshot) -> Samples {
        let mut samples = Samples::new();
        (self.samples)(snapshot, &mut samples);
        samples
    }

    /// The unit's name as Prometheus has it at the end of a name.
    pub(crate) fn suffix(&self) -> Option<&'static str> {
        match (self.unit, self.kind) {
            ("s", _) => Some("seconds"),
            ("1", Kind::Gauge) => Some("ratio"),
            _ => None,
        }
    }

    /// The name that Prometheus knows the family by, without a counter's `_total`.
    pub(crate) fn prometheus_name(&self) -> String {
        let name = self.name.replace('.', "_");
        match self.suffix() {
            Some(unit) => format!("{name}_{unit}"),
            None => name,
        }
    }
}

/// A label's name as Prometheus has it.
pub(crate) fn prometheus_label(name: &str) -> String {
    name.replace('.', "_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The page of the documentation.
    fn page() -> String {
        let mut page = String::from(
            "# Metrics\n\n\
             Every metric of an instance, by the name that Prometheus sees; OTLP's name is the same with dots. This page is made from the table\n\
             in `provider/src/telemetry/families.rs`. [Observability](README.md) says how they are had, and what to watch them for.\n\n\
             What nobody knows at a moment is left out, never 0. What counts an instance's own work begins at 0 when its process does, and, of a\n\
             subscription, when its deliveries begin anew.\n\n\
             | metric | type | labels | meaning |\n|---|---|---|---|\n",
        );
        for family in FAMILIES {
            let total = if family.kind == Kind::Counter { "_total" } else { "" };
            let kind = format!("{:?}", family.kind).to_lowercase();
            let labels: Vec<_> = family
                .labels
                .iter()
                .map(|label| format!("`{}`", prometheus_label(label)))
                .collect();
            let name = family.prometheus_name();
            page += &format!(
                "| `{name}{total}` | {kind} | {} | {} |\n",
                labels.join(", "),
                family.help
            );
        }
        page
    }

    #[test]
    fn the_page_is_made_from_the_table() {
        expect_test::expect_file!["../../../docs/observability/metrics.md"].assert_eq(&page());
    }

    #[test]
    fn names_are_legal_and_no_family_s_samples_are_anothers() {
        let mut names = BTreeSet::new();
        for family in FAMILIES {
            let name = family.prometheus_name();
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(names.insert(name.clone()), "{name} is there twice");
            for suffix in ["_total", "_bucket", "_sum", "_count", "_created", "_info"] {
                assert!(!name.ends_with(suffix), "{name}: OpenMetrics gives {suffix} itself");
            }
            assert!(!family.help.ends_with('.') && family.labels.len() <= 4, "{name}");
        }
    }
}
