//! The operator's policy for one bus, read from settings with every problem at once.

mod sections;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::authority::Callers;
use crate::declared::{self, Declared};
use crate::in_force::InForce;
use crate::limits::Limits;
use crate::listen::Listening;
use crate::loss::LossAllowed;
use crate::place::{Place, Places};
use crate::quota::Quotas;
use crate::setting::{self, Reader, Settings};
use crate::{BusName, BusNames, JetStreamApi, Problem, SubjectTemplate, SubscriptionName, TenantId};

pub(crate) use sections::MAX_COUNT;
pub use sections::{
    DEFAULT_CONCURRENCY, Deduplication, Delivery, Journal, MAX_IN_FLIGHT, Publishing, Retention, Retries, Sizes,
    Telemetry,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);
/// A call's parameters or result are 16 MiB at most: a fetch of the largest event, and of many small ones, fits.
const LARGEST_EVENT: u64 = 12 << 20;

const DURABILITIES: &[(&str, Durability)] = &[
    ("acknowledged", Durability::Acknowledged),
    ("on-disk", Durability::OnDisk),
];
const ORDERINGS: &[(&str, Ordering)] = &[
    ("none", Ordering::None),
    ("tenant", Ordering::Tenant),
    ("key", Ordering::Key),
];
const JOURNALED: &[(&str, Journaled)] = &[
    ("off", Journaled::Off),
    ("errors", Journaled::Errors),
    ("all", Journaled::All),
];
const QUEUE_DELIVERIES: &[(&str, QueueDelivery)] = &[
    ("at-most-once", QueueDelivery::AtMostOnce),
    ("at-least-once", QueueDelivery::AtLeastOnce),
];

/// Where the store keeps events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk; survives a restart of the store.
    File,
    /// In memory; a restart of the store forgets. For tests and caches.
    Memory,
}

/// What the log does when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuses new events, so that nothing accepted is lost.
    Refuse,
    /// Forgets the oldest events, pending ones too.
    DropOldest,
}

/// How the log is divided into streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One stream for all tenants.
    Shared,
    /// This number of streams, each with the tenants whose hash falls to it.
    Sharded(u32),
    /// A stream for each tenant.
    PerTenant,
    /// One stream whose events go once their one durable subscription has settled them.
    WorkQueue,
}

/// The most shards: beyond it, streams cost more than they divide.
pub const MAX_SHARDS: u64 = 64;

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Sharded(n) => write!(f, "sharded({n})"),
            Self::PerTenant => f.write_str("per-tenant"),
            Self::WorkQueue => f.write_str("work-queue"),
        }
    }
}

/// What a receipt proves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The server has the event; it writes it to disk within its own interval.
    Acknowledged,
    /// The event is on the server's disk.
    OnDisk,
}

/// For how long a repeated id is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dedupe {
    /// For `dedupe.window`.
    Window,
    /// For as long as the event is retained.
    Retained,
}

/// In which order deliveries of one subscription are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// In none: each as soon as it can be.
    None,
    /// One tenant's events one after another.
    Tenant,
    /// Events of one tenant with one ordering key one after another.
    Key,
}

/// What a queue subscription promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueDelivery {
    /// What nobody takes is gone.
    AtMostOnce,
    /// Kept until it is handled.
    AtLeastOnce,
}

/// Which deliveries are written into the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journaled {
    /// None.
    #[default]
    Off,
    /// Those that did not end well, and the one that ended well after them.
    Errors,
    /// Every one.
    All,
}

impl Journaled {
    /// Whether a delivery is written down that was handled at its first attempt, or one that was not. What was handled at last
    /// after it had been refused is a part of that error.
    #[must_use]
    pub const fn keeps(self, went_well_at_once: bool) -> bool {
        match self {
            Self::Off => false,
            Self::Errors => !went_well_at_once,
            Self::All => true,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Errors => "errors",
            Self::All => "all",
        }
    }
}

/// How a bus keeps and delivers events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The bus.
    pub bus: BusName,
    /// Which of the bus's policies it is.
    pub in_force: InForce,
    /// Where its events travel.
    pub subject: SubjectTemplate,
    /// How its log is divided.
    pub shape: Shape,
    /// The tenants that it serves, sorted; empty for all.
    pub tenants: Vec<TenantId>,
    /// What each tenant may use of it.
    pub quotas: Quotas,
    /// What one subscription and one caller may ask to have remembered.
    pub limits: Limits,
    /// How the log is kept.
    pub retention: Retention,
    /// What a receipt proves.
    pub durability: Durability,
    /// How long ids are remembered.
    pub dedupe: Deduplication,
    /// The order of deliveries.
    pub ordering: Ordering,
    /// What queue subscriptions promise.
    pub queue_delivery: QueueDelivery,
    /// The most bytes of an event's payload and attributes together.
    pub max_event_bytes: u64,
    /// What becomes of refused events.
    pub retries: Retries,
    /// How long dead letters are kept.
    pub dead_letter_max_age: Duration,
    /// How much is kept besides events.
    pub sizes: Sizes,
    /// Which JetStream holds the bus.
    pub jetstream: JetStreamApi,
    /// How subscribers are called.
    pub delivery: Delivery,
    /// How events are stored.
    pub publish: Publishing,
    /// What is written down of deliveries.
    pub journal: Journal,
    /// What metrics and traces show.
    pub telemetry: Telemetry,
    /// Who may do what, beyond the lattice.
    pub callers: Callers,
    /// Settings whose change may lose stored events.
    pub allow_loss: Vec<LossAllowed>,
    /// The bounds of stores that the policy names: any other may be changed by hand.
    pub named_bounds: Vec<&'static str>,
    /// Its places, and which of them this instance is at.
    pub places: Option<Places>,
    /// Subscriptions that the policy declares.
    pub subscriptions: BTreeMap<SubscriptionName, Declared>,
}

/// The bounds of stores that hold no log.
const BOUNDS: [&str; 8] = [
    "dead-letters.max-bytes",
    "dead-letters.max-events",
    "scheduled.max-bytes",
    "scheduled.max-events",
    "scheduled.marks-max-bytes",
    "quota.counters-max-bytes",
    "retry.max-bytes",
    "journal.max-bytes",
];

/// Of a store that all tenants share, a tenant may have this part, unless its quota says otherwise; of the others, a caller.
pub(crate) const SHARE: u64 = 4;

impl Policy {
    /// The setting that says how many copies there are of what is stored here.
    pub(crate) fn replicas_setting(&self) -> String {
        let places = self.places.as_ref();
        match places.filter(|places| places.own().is_some_and(|own| own.replicas.is_some())) {
            Some(places) => format!("places.{}.retention.replicas", places.here),
            None => "retention.replicas".to_owned(),
        }
    }

    /// The first setting that needs nats-server 2.12, as a message names it.
    #[must_use]
    pub fn needs_nats_2_12(&self) -> Option<&'static str> {
        if self.durability == Durability::OnDisk {
            Some("`durability` = `on-disk`")
        } else if self.quotas.bounds_bytes() {
            Some("`quota.max-bytes`")
        } else if self.retention.replicas > 1 {
            // A cluster of 2.11 takes an id that it was asked for as one in process from then on (10158).
            Some("`retention.replicas` above 1")
        } else {
            None
        }
    }

    /// Whether deliveries that were begun under this policy go on under another: what differs concerns who may do what, what
    /// is stored from now on, or `retry`, which whoever delivers takes over as it is.
    #[must_use]
    pub fn delivers_like(&self, other: &Self) -> bool {
        let same = Self {
            in_force: other.in_force.clone(),
            quotas: other.quotas.clone(),
            limits: other.limits,
            retention: Retention {
                max_bytes: other.retention.max_bytes,
                when_full: other.retention.when_full,
                compressed: other.retention.compressed,
                warn_before: other.retention.warn_before,
                ..self.retention.clone()
            },
            dedupe: other.dedupe,
            retries: other.retries.clone(),
            dead_letter_max_age: other.dead_letter_max_age,
            sizes: other.sizes,
            delivery: Delivery {
                batch_size: other.delivery.batch_size,
                concurrency: other.delivery.concurrency,
                ..self.delivery
            },
            publish: other.publish,
            journal: other.journal,
            telemetry: other.telemetry.clone(),
            callers: other.callers.clone(),
            allow_loss: other.allow_loss.clone(),
            named_bounds: other.named_bounds.clone(),
            subscriptions: other.subscriptions.clone(),
            ..self.clone()
        };
        same == *other
    }

    /// Reads a policy. `owner` names the settings in messages.
    ///
    /// # Errors
    /// Every problem of every setting.
    pub fn from_settings(owner: &str, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let (callers, rest) = Callers::split(settings);
        // Where an instance listens is not the policy's business, and stands beside it.
        let (_, rest) = Listening::split(&rest);
        let mut r = Reader::new(owner, &rest);
        let bus = r.required("bus", "name the bus, such as `payments`", setting::parsed);
        let subject = r.required(
            "subject",
            "write it like `payments.{tenant}.webhook.{event-type}`",
            setting::parsed,
        );
        let revision = r.or("revision", 0, setting::number(1, u32::MAX.into()));
        let shape = r.or("topology", Shape::Shared, shape);
        let mut tenants = r.or("tenants.allowed", Vec::new(), crate::link::tenants);
        tenants.sort();
        tenants.dedup();
        let quotas = Quotas::read(&mut r);
        let limits = Limits::read(&mut r);
        let mut retention = Retention::read(&mut r);
        let durability = r.or("durability", Durability::Acknowledged, setting::word(DURABILITIES));
        let dedupe = Deduplication::read(&mut r, retention.max_age);
        let ordering = r.or("ordering", Ordering::None, setting::word(ORDERINGS));
        let queue_delivery = r.or(
            "queue.delivery",
            QueueDelivery::AtMostOnce,
            setting::word(QUEUE_DELIVERIES),
        );
        let allow_loss = r.or("change.allow-loss", Vec::new(), setting::list);
        let max_event_bytes = r.or("event.max-bytes", 512 << 10, setting::bytes(1 << 10, LARGEST_EVENT));
        let retries = Retries::read(&mut r, retention.max_bytes, max_event_bytes);
        let dead_letter_max_age = r.or("dead-letters.max-age", 30 * DAY, setting::duration(SECOND, 10 * YEAR));
        let sizes = Sizes::read(&mut r);
        let places = Places::read(&mut r);
        if let Some(replicas) = places.as_ref().and_then(Places::own).and_then(|own| own.replicas) {
            retention.replicas = replicas;
        }
        let jetstream = jetstream(&mut r, places.as_ref());
        let delivery = Delivery::read(&mut r);
        let publish = Publishing::read(&mut r);
        let journal = Journal::read(&mut r, retention.max_age);
        let telemetry = Telemetry::read(&mut r);
        let subscriptions = declared::read(&mut r, shape, places.as_ref());
        if shape == Shape::WorkQueue && places.is_some() {
            r.conflict(
"`topology` = `work-queue` lets an event go once it is settled at one place, and the others mirror it: use another topology for a bus that has places",
            );
        }
        if shape == Shape::WorkQueue && queue_delivery == QueueDelivery::AtLeastOnce {
            r.conflict(
"`queue.delivery` = `at-least-once` keeps events for each queue subscription, and `topology` = `work-queue` gives each event to one subscription (10100): use `need` = `durable` there, or another topology",
            );
        }
        if shape == Shape::WorkQueue && dedupe.scope == Dedupe::Retained {
            r.conflict(
"`dedupe.scope` = `retained` needs events that stay, and `topology` = `work-queue` lets them go when they are settled: use `dedupe.scope` = `window`, or another topology",
            );
        }
        if durability == Durability::OnDisk && retention.storage == Storage::Memory {
            r.conflict(
"`durability` = `on-disk` and `retention.storage` = `memory` contradict each other: store on `file`, or ask for `acknowledged`",
            );
        }
        let (callers, callers_problems) = match Callers::from_settings(owner, &callers) {
            Ok(callers) => (callers, Vec::new()),
            Err(problems) => (Callers::default(), problems),
        };
        let mut problems = r.finish();
        problems.extend(callers_problems);
        let (Some(bus), Some(subject), true) = (bus, subject, problems.is_empty()) else {
            return Err(problems);
        };
        Ok(Self {
            bus,
            in_force: InForce::of(revision, &rest),
            subject,
            shape,
            tenants,
            quotas,
            limits,
            retention,
            durability,
            dedupe,
            ordering,
            queue_delivery,
            max_event_bytes,
            retries,
            dead_letter_max_age,
            sizes,
            jetstream,
            delivery,
            publish,
            journal,
            telemetry,
            callers,
            allow_loss,
            places,
            named_bounds: BOUNDS.into_iter().filter(|b| settings.contains_key(*b)).collect(),
            subscriptions,
        })
    }

    /// For how long a repeated id is recognised.
    pub fn ids_remembered(&self) -> Duration {
        match self.dedupe.scope {
            Dedupe::Window => self.dedupe.window,
            Dedupe::Retained => self.retention.max_age,
        }
    }

    /// Whether the policy names a bound of a store.
    pub fn names_bound(&self, setting: &str) -> bool {
        self.named_bounds.contains(&setting)
    }

    /// What may be kept for a tenant until it is due: events, and bytes.
    pub fn scheduled_share(&self, tenant: &TenantId) -> (u64, u64) {
        let quota = self.quotas.of(tenant);
        let bytes = quota.scheduled_bytes.unwrap_or(self.sizes.scheduled / SHARE);
        (quota.scheduled(), bytes)
    }

    /// Whether the bus serves a tenant.
    pub fn serves(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.binary_search(tenant).is_ok()
    }

    /// Whether the operator has said that changing this setting may lose stored events.
    pub fn allows_loss(&self, setting: &str) -> bool {
        self.allow_loss.iter().any(|s| s.as_str() == setting)
    }

    /// The names of what the bus is made of.
    pub fn names(&self) -> BusNames {
        match &self.places {
            // What a bus had before it was a place stays under its subjects.
            Some(places) if places.own().is_some_and(|own| own.number > 0) => {
                BusNames::at(self.bus.clone(), &places.here)
            }
            _ => BusNames::new(self.bus.clone()),
        }
    }
}

fn shape(s: &str) -> Result<Shape, Problem> {
    let word = setting::word(&[
        ("shared", Shape::Shared),
        ("per-tenant", Shape::PerTenant),
        ("work-queue", Shape::WorkQueue),
    ]);
    let shards = s.strip_prefix("sharded(").and_then(|s| s.strip_suffix(')'));
    match shards {
        Some(n) => Ok(Shape::Sharded(setting::number(2, MAX_SHARDS)(n.trim())? as u32)),
        None => word(s).map_err(|p| Problem {
            message: format!("{}, sharded(n)", p.message),
            ..p
        }),
    }
}

fn jetstream(r: &mut Reader<'_>, places: Option<&Places>) -> JetStreamApi {
    let domain = r.optional("jetstream.domain", JetStreamApi::domain);
    let prefix = r.optional("jetstream.api-prefix", JetStreamApi::prefix);
    if domain.is_some() && prefix.is_some() {
        r.conflict(
            "`jetstream.domain` and `jetstream.api-prefix` both say which JetStream holds the bus: leave one out",
        );
    }
    if places.is_some() && (domain.is_some() || prefix.is_some()) {
        r.conflict(
            "`jetstream.domain` and `jetstream.api-prefix` say which JetStream holds a bus in one place: on a bus that has places, write `places.NAME.jetstream.domain`",
        );
    }
    let own = places.and_then(Places::own).map(Place::api);
    own.or(domain).or(prefix).unwrap_or_default()
}

#[cfg(test)]
mod tests;
