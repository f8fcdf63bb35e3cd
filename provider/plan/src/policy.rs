//! The operator's policy for one bus, read from settings with every problem at once.

use std::time::Duration;

use crate::setting::{self, Reader, Settings};
use crate::{BusName, BusNames, Code, Problem, RetrySchedule, SubjectTemplate};

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

/// How a bus keeps and delivers events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The bus.
    pub bus: BusName,
    /// Where its events travel.
    pub subject: SubjectTemplate,
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
    /// For how long a repeated id is recognised.
    pub dedupe_window: Duration,
    /// The most bytes of an event's payload and attributes together.
    pub max_event_bytes: u64,
    /// When a refused delivery is tried again, and how often.
    pub retry: RetrySchedule,
    /// How long dead letters are kept.
    pub dead_letter_max_age: Duration,
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
}

/// Invocations at once of a subscription that says nothing of it.
pub const DEFAULT_CONCURRENCY: u32 = 16;

/// The bounds of `delivery.batch-size` and `delivery.concurrency`.
pub const MAX_IN_FLIGHT: u64 = 1_000;

impl Policy {
    /// Reads a policy. `owner` names the settings in messages.
    ///
    /// # Errors
    /// Every problem of every setting.
    pub fn from_settings(owner: &str, settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut r = Reader::new(owner, settings);
        let ms = |n| Duration::from_millis(n);
        let bus = r.required("bus", "name the bus, such as `payments`", setting::parsed);
        let subject = r.required(
            "subject",
            "write it like `payments.{tenant}.webhook.{event-type}`",
            setting::parsed,
        );
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
        // The server keeps every id of the window in memory, so the default is shorter than the retention.
        let dedupe_window = r.or("dedupe.window", 3600 * SECOND, setting::duration(ms(100), 7 * DAY));
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
        let dead_letter_max_age = r.or("dead-letters.max-age", 30 * DAY, setting::duration(SECOND, 10 * YEAR));
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
        if dedupe_window > max_age {
            r.refuse(
                Code::ConflictingSettings,
                format!(
                    "`dedupe.window` ({}) must not be longer than `retention.max-age` ({})",
                    setting::show_duration(dedupe_window),
                    setting::show_duration(max_age)
                ),
            );
        }
        let problems = r.finish();
        match (bus, subject) {
            (Some(bus), Some(subject)) if problems.is_empty() => Ok(Self {
                bus,
                subject,
                max_age,
                max_bytes,
                replicas: replicas as u8,
                storage,
                when_full,
                dedupe_window,
                max_event_bytes,
                retry: RetrySchedule::new(delays, attempts as u32),
                dead_letter_max_age,
                delivery_deadline,
                ack_wait,
                batch_size: batch_size as u32,
                concurrency: concurrency as u32,
                publish_deadline,
            }),
            _ => Err(problems),
        }
    }

    /// The names of what the bus is made of.
    pub fn names(&self) -> BusNames {
        BusNames::new(self.bus.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn settings(pairs: &[(&str, &str)]) -> Settings {
        let mut all: Settings = [
            ("bus", "payments"),
            ("subject", "payments.{tenant}.webhook.{event-type}"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        all.extend(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        all
    }

    #[test]
    fn two_settings_are_enough() {
        let policy = Policy::from_settings("policy", &settings(&[])).unwrap();
        assert_eq!(policy.max_age, 7 * DAY);
        assert_eq!(policy.when_full, WhenFull::Refuse);
        assert_eq!(policy.names().log(), "fanout_payments_log");
    }

    #[test]
    fn all_problems_come_at_once() {
        let bad = settings(&[
            ("bus", "pay.ments"),
            ("retention.max-age", "soon"),
            ("retention.replicas", "9"),
            ("delivery.deadline", "30s"),
            ("retention.max-agee", "7d"),
        ]);
        let problems = Policy::from_settings("policy of provider bus", &bad).unwrap_err();
        let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
        expect_test::expect![[r#"
            policy of provider bus: setting `bus`: bus "pay.ments" is not a legal name: use 1 to 32 characters out of A-Z a-z 0-9 _ - [invalid-setting]
            policy of provider bus: setting `retention.max-age`: "soon" is not a duration from 1s to 3660d: write a number and one of ms, s, m, h, d [invalid-setting]
            policy of provider bus: setting `retention.replicas`: "9" is not a whole number from 1 to 5 [invalid-setting]
            policy of provider bus: `delivery.ack-wait` (30s) must be longer than `delivery.deadline` (30s), or an event is given to a second instance while the first still works on it [conflicting-settings]
            policy of provider bus: setting "retention.max-agee" is not known; known are: bus, subject, retention.max-age, retention.max-bytes, retention.replicas, retention.storage, retention.when-full, dedupe.window, event.max-bytes, retry.schedule, retry.max-attempts, dead-letters.max-age, delivery.deadline, delivery.ack-wait, delivery.batch-size, delivery.concurrency, publish.deadline [unknown-setting]
        "#]]
        .assert_eq(&text);
    }
}
