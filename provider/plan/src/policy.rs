//! The operator's policy for one bus, read from settings with every problem at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::authority::Callers;
use crate::declared::{self, Declared};
use crate::in_force::InForce;
use crate::limits::Limits;
use crate::listen::Listening;
use crate::quota::{Quota, Quotas};
use crate::setting::{self, Reader, Settings};
use crate::{
    BusName, BusNames, Code, JetStreamApi, Problem, RetrySchedule, SubjectTemplate, SubscriptionName, TenantId,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);

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
    /// So many streams, each with the tenants whose hash falls to it.
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

/// How much of what is no event of the log is kept. Each has a bound: an account may want one of every stream
/// (10113), and a bound that is met is better than a disk that is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Of dead letters.
    pub dead_letters: u64,
    /// How many dead letters; 0 for no limit.
    pub dead_letter_events: u64,
    /// Of events that are not due yet.
    pub scheduled: u64,
    /// How many events that are not due yet.
    pub scheduled_events: u64,
    /// Of what is known of events that were due, or were cancelled.
    pub marks: u64,
    /// Of remembered subscriptions.
    pub registry: u64,
    /// Of failed attempts of events that are not settled yet, and of who owns what.
    pub attempts: u64,
    /// Of counters of stored bytes.
    pub counters: u64,
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
    /// How long an event is kept.
    pub max_age: Duration,
    /// How many bytes of events are kept.
    pub max_bytes: u64,
    /// Copies of everything stored, 1 to 5.
    pub replicas: u8,
    /// Where it is stored.
    pub storage: Storage,
    /// What happens when it is full.
    pub when_full: WhenFull,
    /// Whether events are compressed on disk.
    pub compressed: bool,
    /// How long before a durable subscription's oldest event expires its operator is warned.
    pub warn_before: Duration,
    /// What a receipt proves.
    pub durability: Durability,
    /// How long ids are remembered.
    pub dedupe: Dedupe,
    /// For how long a repeated id is recognised by [`Dedupe::Window`].
    pub dedupe_window: Duration,
    /// The order of deliveries.
    pub ordering: Ordering,
    /// What queue subscriptions promise.
    pub queue_delivery: QueueDelivery,
    /// The most bytes of an event's payload and attributes together.
    pub max_event_bytes: u64,
    /// When a refused delivery is tried again, and how often.
    pub retry: RetrySchedule,
    /// How many bytes of refused events wait for their next attempt in a store of their own.
    pub retry_max_bytes: u64,
    /// How long dead letters are kept.
    pub dead_letter_max_age: Duration,
    /// How much is kept besides events.
    pub sizes: Sizes,
    /// Which JetStream holds the bus.
    pub jetstream: JetStreamApi,
    /// How long a handler may take.
    pub delivery_deadline: Duration,
    /// After how long the store gives an event that nobody settled to another instance.
    pub ack_wait: Duration,
    /// Deliveries in a batch, unless the subscription says otherwise.
    pub batch_size: u32,
    /// Invocations at once, unless the subscription says otherwise.
    pub concurrency: u32,
    /// How long a publish waits for the store.
    pub publish_deadline: Duration,
    /// Who may do what, beyond the lattice.
    pub callers: Callers,
    /// Publishes of one instance that wait for the store at once.
    pub publish_max_in_flight: u32,
    /// Settings whose change may lose stored events.
    pub allow_loss: Vec<String>,
    /// The bounds of stores that the policy names: any other may be changed by hand.
    pub named_bounds: Vec<&'static str>,
    /// Subscriptions that the policy declares.
    pub subscriptions: BTreeMap<SubscriptionName, Declared>,
}

/// The bounds of stores that hold no log.
const BOUNDS: [&str; 7] = [
    "dead-letters.max-bytes",
    "dead-letters.max-events",
    "scheduled.max-bytes",
    "scheduled.max-events",
    "scheduled.marks-max-bytes",
    "quota.counters-max-bytes",
    "retry.max-bytes",
];

/// The most that may be counted anywhere.
const MAX_COUNT: u64 = 1_000_000_000;

/// Of a store that all tenants share, a tenant may have this part, unless its quota says otherwise.
const SHARE: u64 = 4;

/// Invocations at once of a subscription that says nothing of it.
pub const DEFAULT_CONCURRENCY: u32 = 16;

/// The default of `retry.max-bytes` is an eighth of the log, and at most this.
const MAX_DEFAULT_RETRY_BYTES: u64 = 256 << 20;

/// The bounds of `delivery.batch-size` and `delivery.concurrency`.
pub const MAX_IN_FLIGHT: u64 = 1_000;

impl Policy {
    /// Whether deliveries that were begun under this policy go on under another: what differs concerns who may do what, what
    /// is stored from now on, or `retry`, which whoever delivers takes over as it is.
    #[must_use]
    pub fn delivers_like(&self, other: &Self) -> bool {
        let mut same = self.clone();
        same.callers.clone_from(&other.callers);
        same.quotas.clone_from(&other.quotas);
        same.limits = other.limits;
        same.retry.clone_from(&other.retry);
        same.subscriptions.clone_from(&other.subscriptions);
        same.allow_loss.clone_from(&other.allow_loss);
        (same.batch_size, same.concurrency) = (other.batch_size, other.concurrency);
        same.publish_deadline = other.publish_deadline;
        same.publish_max_in_flight = other.publish_max_in_flight;
        (same.max_bytes, same.when_full, same.compressed) = (other.max_bytes, other.when_full, other.compressed);
        (same.dedupe, same.dedupe_window) = (other.dedupe, other.dedupe_window);
        (same.sizes, same.retry_max_bytes) = (other.sizes, other.retry_max_bytes);
        (same.warn_before, same.dead_letter_max_age) = (other.warn_before, other.dead_letter_max_age);
        same.in_force.clone_from(&other.in_force);
        same.named_bounds.clone_from(&other.named_bounds);
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
        let ms = |n| Duration::from_millis(n);
        let bus = r.required("bus", "name the bus, such as `payments`", setting::parsed);
        let subject = r.required(
            "subject",
            "write it like `payments.{tenant}.webhook.{event-type}`",
            setting::parsed,
        );
        let revision = r.or("revision", 0, setting::number(1, u32::MAX.into()));
        let shape = r.or("topology", Shape::Shared, shape);
        let tenants = r.or("tenants.allowed", Vec::new(), crate::link::tenants);
        let quotas = quotas(&mut r);
        let limits = Limits::read(&mut r);
        let max_age = r.or("retention.max-age", 7 * DAY, setting::duration(SECOND, 10 * YEAR));
        let max_bytes = r.or("retention.max-bytes", 1 << 30, setting::bytes(1 << 10, 1 << 50));
        let replicas = r.or("retention.replicas", 1, setting::number(1, 5));
        let storage = r.or(
            "retention.storage",
            Storage::File,
            setting::word(&[("file", Storage::File), ("memory", Storage::Memory)]),
        );
        let when_full = r.or(
            "retention.when-full",
            WhenFull::Refuse,
            setting::word(&[("refuse", WhenFull::Refuse), ("drop-oldest", WhenFull::DropOldest)]),
        );
        let compressed = r.or(
            "retention.compression",
            false,
            setting::word(&[("none", false), ("s2", true)]),
        );
        let warn_before = r.or(
            "retention.warn-before",
            max_age / 7,
            setting::duration(Duration::ZERO, 10 * YEAR),
        );
        let durability = r.or(
            "durability",
            Durability::Acknowledged,
            setting::word(&[
                ("acknowledged", Durability::Acknowledged),
                ("on-disk", Durability::OnDisk),
            ]),
        );
        let dedupe = r.or(
            "dedupe.scope",
            Dedupe::Window,
            setting::word(&[("window", Dedupe::Window), ("retained", Dedupe::Retained)]),
        );
        let ordering = r.or(
            "ordering",
            Ordering::None,
            setting::word(&[
                ("none", Ordering::None),
                ("tenant", Ordering::Tenant),
                ("key", Ordering::Key),
            ]),
        );
        let queue_delivery = r.or(
            "queue.delivery",
            QueueDelivery::AtMostOnce,
            setting::word(&[
                ("at-most-once", QueueDelivery::AtMostOnce),
                ("at-least-once", QueueDelivery::AtLeastOnce),
            ]),
        );
        // The server keeps every id of the window in memory, so the default is shorter than the retention.
        let dedupe_window = r.or("dedupe.window", 3600 * SECOND, setting::duration(ms(100), 7 * DAY));
        let allow_loss = r.or("change.allow-loss", Vec::new(), |s| {
            Ok(s.split(',').map(|item| item.trim().to_owned()).collect())
        });
        let max_event_bytes = r.or("event.max-bytes", 512 << 10, setting::bytes(1 << 10, 32 << 20));
        let delays = r.or(
            "retry.schedule",
            vec![SECOND, 5 * SECOND, 30 * SECOND, 120 * SECOND, 600 * SECOND],
            |s| {
                let parse = setting::duration(Duration::ZERO, DAY);
                s.split(',').map(|item| parse(item.trim())).collect()
            },
        );
        let attempts = r.or("retry.max-attempts", 6, setting::number(1, 1_000));
        // A share of the log, and never too little for some of the largest events.
        let retry_max_bytes = r.or(
            "retry.max-bytes",
            (max_bytes / 8).min(MAX_DEFAULT_RETRY_BYTES).max(16 * max_event_bytes),
            setting::bytes(1 << 10, 1 << 50),
        );
        let dead_letter_max_age = r.or("dead-letters.max-age", 30 * DAY, setting::duration(SECOND, 10 * YEAR));
        let sizes = sizes(&mut r);
        let jetstream = jetstream(&mut r);
        let delivery_deadline = r.or(
            "delivery.deadline",
            10 * SECOND,
            setting::duration(ms(50), 3600 * SECOND),
        );
        let ack_wait = r.or(
            "delivery.ack-wait",
            30 * SECOND,
            setting::duration(ms(100), 7200 * SECOND),
        );
        let batch_size = r.or("delivery.batch-size", 100, setting::number(1, MAX_IN_FLIGHT));
        let concurrency = r.or(
            "delivery.concurrency",
            DEFAULT_CONCURRENCY.into(),
            setting::number(1, MAX_IN_FLIGHT),
        );
        let publish_deadline = r.or("publish.deadline", 5 * SECOND, setting::duration(ms(50), 60 * SECOND));
        let publish_max_in_flight = r.or("publish.max-in-flight", 4_096, setting::number(1, 65_536));
        let subscriptions = declared::read(&mut r, shape);
        if warn_before >= max_age {
            r.refuse(
                Code::ConflictingSettings,
                format!(
                    "`retention.warn-before` ({}) must be shorter than `retention.max-age` ({}), or every event is warned of",
                    setting::show_duration(warn_before),
                    setting::show_duration(max_age)
                ),
            );
        }
        if shape == Shape::WorkQueue && queue_delivery == QueueDelivery::AtLeastOnce {
            r.refuse(
                Code::ConflictingSettings,
                "`queue.delivery` = `at-least-once` keeps events for each queue subscription, and `topology` = `work-queue` gives each event to one subscription (10100): use `need` = `durable` there, or another topology",
            );
        }
        if shape == Shape::WorkQueue && dedupe == Dedupe::Retained {
            r.refuse(
                Code::ConflictingSettings,
                "`dedupe.scope` = `retained` needs events that stay, and `topology` = `work-queue` lets them go when they are settled: use `dedupe.scope` = `window`, or another topology",
            );
        }
        if retry_max_bytes < max_event_bytes {
            r.refuse(
                Code::ConflictingSettings,
                format!(
                    "`retry.max-bytes` ({retry_max_bytes} bytes) must hold one event at least, and `event.max-bytes` is {max_event_bytes} bytes: raise the one or lower the other"
                ),
            );
        }
        if durability == Durability::OnDisk && storage == Storage::Memory {
            r.refuse(
                Code::ConflictingSettings,
                "`durability` = `on-disk` and `retention.storage` = `memory` contradict each other: store on `file`, or ask for `acknowledged`",
            );
        }
        if ack_wait <= delivery_deadline {
            r.refuse(
                Code::ConflictingSettings,
                format!(
                    "`delivery.ack-wait` ({}) must be longer than `delivery.deadline` ({}), or an event is given to a second instance while the first still works on it",
                    setting::show_duration(ack_wait),
                    setting::show_duration(delivery_deadline)
                ),
            );
        }
        if dedupe == Dedupe::Window && dedupe_window > max_age {
            r.refuse(
                Code::ConflictingSettings,
                format!(
                    "`dedupe.window` ({}) must not be longer than `retention.max-age` ({})",
                    setting::show_duration(dedupe_window),
                    setting::show_duration(max_age)
                ),
            );
        }
        let mut problems = r.finish();
        let callers = Callers::from_settings(owner, &callers).unwrap_or_else(|p| {
            problems.extend(p);
            Callers::default()
        });
        match (bus, subject) {
            (Some(bus), Some(subject)) if problems.is_empty() => Ok(Self {
                bus,
                in_force: InForce::of(revision, &rest),
                subject,
                shape,
                tenants: {
                    let mut sorted = tenants;
                    sorted.sort();
                    sorted.dedup();
                    sorted
                },
                quotas,
                limits,
                max_age,
                max_bytes,
                replicas: replicas as u8,
                storage,
                when_full,
                compressed,
                warn_before,
                durability,
                dedupe,
                dedupe_window,
                ordering,
                queue_delivery,
                max_event_bytes,
                retry: RetrySchedule::new(delays, attempts as u32),
                retry_max_bytes,
                dead_letter_max_age,
                sizes,
                named_bounds: BOUNDS.into_iter().filter(|b| settings.contains_key(*b)).collect(),
                jetstream,
                delivery_deadline,
                ack_wait,
                batch_size: batch_size as u32,
                concurrency: concurrency as u32,
                callers,
                publish_deadline,
                publish_max_in_flight: publish_max_in_flight as u32,
                allow_loss,
                subscriptions,
            }),
            _ => Err(problems),
        }
    }

    /// For how long a repeated id is recognised.
    pub fn ids_remembered(&self) -> Duration {
        match self.dedupe {
            Dedupe::Window => self.dedupe_window,
            Dedupe::Retained => self.max_age,
        }
    }

    /// Whether the policy names a bound of a store.
    pub fn names_bound(&self, setting: &str) -> bool {
        self.named_bounds.contains(&setting)
    }

    /// What may be kept for a tenant until it is due: so many events, and so many bytes.
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
        self.allow_loss.iter().any(|s| s == setting)
    }

    /// The names of what the bus is made of.
    pub fn names(&self) -> BusNames {
        BusNames::new(self.bus.clone())
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

/// The defaults do not follow `retention.max-bytes`: who changes that changes one stream.
fn sizes(r: &mut Reader<'_>) -> Sizes {
    let (size, count) = (setting::bytes(64 << 10, 1 << 50), setting::number(1, MAX_COUNT));
    Sizes {
        dead_letters: r.or("dead-letters.max-bytes", 512 << 20, &size),
        dead_letter_events: r.or("dead-letters.max-events", 0, &count),
        scheduled: r.or("scheduled.max-bytes", 256 << 20, &size),
        scheduled_events: r.or("scheduled.max-events", 1_000_000, &count),
        marks: r.or("scheduled.marks-max-bytes", 16 << 20, &size),
        registry: r.or("registry.max-bytes", 64 << 20, &size),
        attempts: r.or("attempts.max-bytes", 128 << 20, &size),
        counters: r.or("quota.counters-max-bytes", 256 << 20, &size),
    }
}

fn jetstream(r: &mut Reader<'_>) -> JetStreamApi {
    let domain = r.optional("jetstream.domain", JetStreamApi::domain);
    let prefix = r.optional("jetstream.api-prefix", JetStreamApi::prefix);
    if domain.is_some() && prefix.is_some() {
        r.refuse(
            Code::ConflictingSettings,
            "`jetstream.domain` and `jetstream.api-prefix` both say which JetStream holds the bus: leave one out",
        );
    }
    domain.or(prefix).unwrap_or_default()
}

fn quotas(r: &mut Reader<'_>) -> Quotas {
    let (rate, size) = (setting::number(1, 10_000_000), setting::bytes(1 << 10, 1 << 50));
    let waiting = setting::number(1, MAX_COUNT);
    let default = Quota {
        events_per_second: r.optional("quota.events-per-second", &rate),
        max_bytes: r.optional("quota.max-bytes", &size),
        scheduled_events: r.optional("quota.scheduled-events", &waiting),
        scheduled_bytes: r.optional("quota.scheduled-max-bytes", &size),
    };
    let known = &[
        "quota.tenant.TENANT.events-per-second",
        "quota.tenant.TENANT.max-bytes",
        "quota.tenant.TENANT.scheduled-events",
        "quota.tenant.TENANT.scheduled-max-bytes",
    ];
    let mut tenants = BTreeMap::new();
    for (name, settings) in r.under("quota.tenant.", known) {
        let mut quota = Quota::default();
        for (rest, value) in &settings {
            let read = match rest.as_str() {
                "events-per-second" => rate(value).map(|n| quota.events_per_second = Some(n)),
                "max-bytes" => size(value).map(|n| quota.max_bytes = Some(n)),
                "scheduled-events" => waiting(value).map(|n| quota.scheduled_events = Some(n)),
                "scheduled-max-bytes" => size(value).map(|n| quota.scheduled_bytes = Some(n)),
                _ => Err(Problem::new(
                    Code::UnknownSetting,
                    "is not known; known are `events-per-second`, `max-bytes`, `scheduled-events` and `scheduled-max-bytes`",
                )),
            };
            if let Err(p) = read {
                r.refuse_under(&format!("quota.tenant.{name}.{rest}"), &p);
            }
        }
        match name.parse::<TenantId>() {
            Ok(tenant) => drop(tenants.insert(tenant, quota)),
            Err(p) => r.refuse_under(&format!("quota.tenant.{name}"), &p),
        }
    }
    Quotas { default, tenants }
}

#[cfg(test)]
mod tests;
