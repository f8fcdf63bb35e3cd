//! The sections of a policy: each reads its own settings.

use std::time::Duration;

use super::{DAY, Dedupe, JOURNALED, Journaled, SECOND, Storage, WhenFull, YEAR};
use crate::setting::{self, Reader, show_duration};
use crate::{Code, Problem, RetrySchedule, TenantId};

/// Invocations at once of a subscription that says nothing of it.
pub const DEFAULT_CONCURRENCY: u32 = 16;

/// The bounds of `delivery.batch-size` and `delivery.concurrency`.
pub const MAX_IN_FLIGHT: u64 = 1_000;

/// The default of `retry.max-bytes` is an eighth of the log, and at most this.
const MAX_DEFAULT_RETRY_BYTES: u64 = 256 << 20;

/// The most that may be counted anywhere.
pub(crate) const MAX_COUNT: u64 = 1_000_000_000;

const MILLISECOND: Duration = Duration::from_millis(1);

/// `retention.…`: how the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long an event is kept.
    pub max_age: Duration,
    /// How many bytes of events are kept.
    pub max_bytes: u64,
    /// Copies of everything stored, 1 to 5: at this place, where the bus has places.
    pub replicas: u8,
    /// Where it is stored.
    pub storage: Storage,
    /// What happens when it is full.
    pub when_full: WhenFull,
    /// Whether events are compressed on disk.
    pub compressed: bool,
    /// How long before a durable subscription's oldest event expires its operator is warned.
    pub warn_before: Duration,
}

impl Retention {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let max_age = r.or("retention.max-age", 7 * DAY, setting::duration(SECOND, 10 * YEAR));
        let storages = &[("file", Storage::File), ("memory", Storage::Memory)];
        let when_full = &[("refuse", WhenFull::Refuse), ("drop-oldest", WhenFull::DropOldest)];
        let warn_before = setting::duration(Duration::ZERO, 10 * YEAR);
        let read = Self {
            max_age,
            max_bytes: r.or("retention.max-bytes", 1 << 30, setting::bytes(1 << 10, 1 << 50)),
            replicas: r.or("retention.replicas", 1, setting::number(1, 5)) as u8,
            storage: r.or("retention.storage", Storage::File, setting::word(storages)),
            when_full: r.or("retention.when-full", WhenFull::Refuse, setting::word(when_full)),
            compressed: r.or(
                "retention.compression",
                false,
                setting::word(&[("none", false), ("s2", true)]),
            ),
            warn_before: r.or("retention.warn-before", max_age / 7, warn_before),
        };
        if read.warn_before >= max_age {
            r.conflict(
format!(
                    "`retention.warn-before` ({}) must be shorter than `retention.max-age` ({}), or every event is warned of",
                    show_duration(read.warn_before),
                    show_duration(max_age)
                ),
            );
        }
        read
    }
}

/// `dedupe.…`: for how long a repeated id is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deduplication {
    /// Whether the window counts, or the retention.
    pub scope: Dedupe,
    /// For how long a repeated id is recognised by [`Dedupe::Window`].
    pub window: Duration,
}

impl Deduplication {
    pub(super) fn read(r: &mut Reader<'_>, max_age: Duration) -> Self {
        let scopes = &[("window", Dedupe::Window), ("retained", Dedupe::Retained)];
        let read = Self {
            scope: r.or("dedupe.scope", Dedupe::Window, setting::word(scopes)),
            // The server keeps every id of the window in memory, so the default is shorter than the retention.
            window: r.or(
                "dedupe.window",
                3600 * SECOND,
                setting::duration(100 * MILLISECOND, 7 * DAY),
            ),
        };
        if read.scope == Dedupe::Window && read.window > max_age {
            r.conflict(format!(
                "`dedupe.window` ({}) must not be longer than `retention.max-age` ({})",
                show_duration(read.window),
                show_duration(max_age)
            ));
        }
        read
    }
}

/// `retry.…`: what becomes of refused events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// When a refused delivery is tried again, and how often.
    pub schedule: RetrySchedule,
    /// How many bytes of refused events wait for their next attempt in a store of their own.
    pub max_bytes: u64,
}

impl Retries {
    /// `log_bytes` and `event_bytes`: what the log and one event may have.
    pub(super) fn read(r: &mut Reader<'_>, log_bytes: u64, event_bytes: u64) -> Self {
        let delays = vec![SECOND, 5 * SECOND, 30 * SECOND, 120 * SECOND, 600 * SECOND];
        let delays = r.or("retry.schedule", delays, |s| {
            let parse = setting::duration(Duration::ZERO, DAY);
            s.split(',').map(|item| parse(item.trim())).collect()
        });
        let attempts = r.or("retry.max-attempts", 6, setting::number(1, 1_000));
        // A share of the log, and never too little for some of the largest events.
        let share = (log_bytes / 8).min(MAX_DEFAULT_RETRY_BYTES).max(16 * event_bytes);
        let max_bytes = r.or("retry.max-bytes", share, setting::bytes(1 << 10, 1 << 50));
        if max_bytes < event_bytes {
            r.conflict(
format!(
                    "`retry.max-bytes` ({max_bytes} bytes) must hold one event at least, and `event.max-bytes` is {event_bytes} bytes: raise the one or lower the other"
                ),
            );
        }
        Self {
            schedule: RetrySchedule::new(delays, attempts as u32),
            max_bytes,
        }
    }
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

impl Sizes {
    /// The defaults do not follow `retention.max-bytes`: who changes that changes one stream.
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let (size, count) = (setting::bytes(64 << 10, 1 << 50), setting::number(1, MAX_COUNT));
        Self {
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
}

/// `delivery.…`: how subscribers are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// How long a handler may take.
    pub deadline: Duration,
    /// After how long the store delivers an event that nobody settled to another instance.
    pub ack_wait: Duration,
    /// Deliveries in a batch, unless the subscription says otherwise.
    pub batch_size: u32,
    /// Invocations at once, unless the subscription says otherwise.
    pub concurrency: u32,
}

impl Delivery {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let in_flight = setting::number(1, MAX_IN_FLIGHT);
        let deadline = setting::duration(50 * MILLISECOND, 3600 * SECOND);
        let ack_wait = setting::duration(100 * MILLISECOND, 7200 * SECOND);
        let read = Self {
            deadline: r.or("delivery.deadline", 10 * SECOND, deadline),
            ack_wait: r.or("delivery.ack-wait", 30 * SECOND, ack_wait),
            batch_size: r.or("delivery.batch-size", 100, &in_flight) as u32,
            concurrency: r.or("delivery.concurrency", DEFAULT_CONCURRENCY.into(), &in_flight) as u32,
        };
        if read.ack_wait <= read.deadline {
            r.conflict(
format!(
                    "`delivery.ack-wait` ({}) must be longer than `delivery.deadline` ({}), or an event is given to a second instance while the first still works on it",
                    show_duration(read.ack_wait),
                    show_duration(read.deadline)
                ),
            );
        }
        read
    }
}

/// `journal.…`: what is written down of deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Which.
    pub deliveries: Journaled,
    /// For how long.
    pub max_age: Duration,
    /// How many bytes; the oldest make way.
    pub max_bytes: u64,
}

impl Journal {
    /// An entry helps for as long as somebody may ask for its event: by default as long as the log has that.
    pub(super) fn read(r: &mut Reader<'_>, log_age: Duration) -> Self {
        Self {
            deliveries: r.or("journal.deliveries", Journaled::Off, setting::word(JOURNALED)),
            max_age: r.or("journal.max-age", log_age, setting::duration(SECOND, 10 * YEAR)),
            max_bytes: r.or("journal.max-bytes", 256 << 20, setting::bytes(64 << 10, 1 << 50)),
        }
    }
}

/// The most tenants that metrics and traces name: each is a series of numbers, for as long as anybody keeps them.
const MAX_SHOWN_TENANTS: usize = 100;

/// `telemetry.…`: what metrics and traces show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The tenants that they may name, sorted. No other's name leaves the bus by them.
    pub tenants: Vec<TenantId>,
}

impl Telemetry {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let mut tenants: Vec<TenantId> = r.or("telemetry.tenants", Vec::new(), |s| {
            let items = setting::items(s)?;
            if items.len() > MAX_SHOWN_TENANTS {
                return Err(Problem::new(
                    Code::InvalidSetting,
                    format!(
                        "names {} tenants: at most {MAX_SHOWN_TENANTS} may be, as each is a series of numbers",
                        items.len()
                    ),
                ));
            }
            items.iter().map(|item| item.text.parse()).collect()
        });
        tenants.sort();
        tenants.dedup();
        Self { tenants }
    }

    /// Whether metrics and traces may name a tenant.
    #[must_use]
    pub fn shows(&self, tenant: &TenantId) -> bool {
        self.tenants.binary_search(tenant).is_ok()
    }
}

/// `publish.…`: how events are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publishing {
    /// How long a publish waits for the store.
    pub deadline: Duration,
    /// Publishes of one instance that wait for the store at once.
    pub max_in_flight: u32,
}

impl Publishing {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let deadline = setting::duration(50 * MILLISECOND, 60 * SECOND);
        Self {
            deadline: r.or("publish.deadline", 5 * SECOND, deadline),
            max_in_flight: r.or("publish.max-in-flight", 4_096, setting::number(1, 65_536)) as u32,
        }
    }
}
