//! The policy of a round's bus, and how an operator changes it while the round goes on.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use fanout_campaign_checker::history::{Durability, Ordering, Policy};

use crate::schedule::Kind;

/// A tenant with a quota, and what it may be.
pub(crate) const LIMITED: &str = "initech";
const RATES: [u64; 2] = [6, 12];
/// Longer than any round.
const DEDUPE: Duration = Duration::from_secs(2 * 3_600);
/// Within which time after the last fault healed the bus must work again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(30);

const SUBJECT: &str = "payments.{tenant}.webhook.{event-type}";
/// How the log is divided, and where events travel. Each change makes new streams; the old ones are read to their end.
const TOPOLOGIES: [(&str, &str); 5] = [
    ("shared", SUBJECT),
    ("sharded(2)", SUBJECT),
    ("per-tenant", SUBJECT),
    ("shared", "billing.{tenant}.{event-type}"),
    ("sharded(3)", SUBJECT),
];
/// How long and how much of it is kept.
const RETENTIONS: [(&str, &str); 3] = [("7d", "256MiB"), ("9d", "384MiB"), ("8d", "256MiB")];
/// Waits between attempts, and refusals that make a dead letter.
const RETRIES: [(&str, u32); 3] = [("50ms,200ms", 3), ("400ms", 4), ("20ms,50ms,100ms", 3)];

/// The policy, as this world has changed it.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    replicas: usize,
    pub(crate) durability: Durability,
    ordering: Ordering,
    rate: u64,
    topology: (&'static str, &'static str),
    retention: (&'static str, &'static str),
    retries: (&'static str, u32),
    /// Raised with each change.
    pub(crate) revision: u64,
}

impl Rules {
    /// Those of the beginning.
    pub(crate) fn new(replicas: usize, durability: Durability, ordering: Ordering) -> Self {
        Self {
            replicas,
            durability,
            ordering,
            rate: RATES[0],
            topology: TOPOLOGIES[0],
            retention: RETENTIONS[0],
            retries: RETRIES[0],
            revision: 1,
        }
    }

    /// The same but for what a kind of change changes, which is another then.
    pub(crate) fn change(&mut self, kind: Kind, target: usize) {
        self.revision += 1;
        match kind {
            Kind::ChangeTopology => self.topology = other(&TOPOLOGIES, self.topology, target),
            Kind::ChangeRetention => self.retention = other(&RETENTIONS, self.retention, target),
            Kind::ChangeRetries => self.retries = other(&RETRIES, self.retries, target),
            Kind::ChangeOrdering => {
                let all = [Ordering::None, Ordering::Key, Ordering::Tenant];
                self.ordering = other(&all, self.ordering, target);
            }
            _ => self.rate = other(&RATES, self.rate, target),
        }
    }

    fn ordering(&self) -> &'static str {
        match self.ordering {
            Ordering::None => "none",
            Ordering::Tenant => "tenant",
            Ordering::Key => "key",
        }
    }

    /// As a file.
    pub(crate) fn text(&self) -> String {
        let durability = match self.durability {
            Durability::Acknowledged => "acknowledged",
            Durability::OnDisk => "on-disk",
        };
        let ((topology, subject), (max_age, max_bytes), (schedule, attempts)) =
            (self.topology, self.retention, self.retries);
        format!(
            r#"bus = "payments"
subject = "{subject}"
topology = "{topology}"
ordering = "{ordering}"
durability = "{durability}"
revision = {revision}
dedupe.window = "{dedupe}s"
publish.deadline = "3s"
delivery.deadline = "1s"
delivery.ack-wait = "3s"

[retention]
replicas = {replicas}
max-age = "{max_age}"
max-bytes = "{max_bytes}"

[retry]
schedule = "{schedule}"
max-attempts = {attempts}

[quota.tenant.{LIMITED}]
events-per-second = {rate}

[callers.ingress]
certificate-cn = "ingress"
publish.tenants = "*"

[callers.billing]
certificate-cn = "billing"
subscribe.tenants = ["acme", "globex"]

[callers.audit]
certificate-cn = "audit"
subscribe.tenants = "*"

[callers.edge]
loopback = true
publish.tenants = "*"
subscribe.tenants = "*"
"#,
            ordering = self.ordering(),
            revision = self.revision,
            dedupe = DEDUPE.as_secs(),
            replicas = self.replicas,
            rate = self.rate,
        )
    }

    /// As far as a law depends on it.
    pub(crate) fn policy(&self) -> Result<Policy> {
        Ok(Policy {
            durability: self.durability,
            ordering: self.ordering,
            max_attempts: self.retries.1,
            dedupe: u64::try_from(DEDUPE.as_micros())?,
            quotas: [(LIMITED.to_owned(), self.rate)].into(),
            recovery: u64::try_from(RECOVERY.as_micros())?,
        })
    }
}

/// What a reader of a round looks for.
impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((topology, subject), (age, bytes), (schedule, attempts)) = (self.topology, self.retention, self.retries);
        let (revision, ordering, rate) = (self.revision, self.ordering(), self.rate);
        write!(
            f,
            "revision {revision}: {topology} on {subject}, order {ordering}, {age}, {bytes}, {attempts} attempts after {schedule}, {rate}/s"
        )
    }
}

/// One of a list that is not this one.
fn other<T: Copy + PartialEq>(all: &[T], this: T, target: usize) -> T {
    let others: Vec<_> = all.iter().filter(|one| **one != this).collect();
    *others[target % others.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_changes_its_part_and_is_no_other() {
        let before = Rules::new(1, Durability::Acknowledged, Ordering::Key);
        let mut texts = vec![before.text()];
        for kind in [
            Kind::ChangeTopology,
            Kind::ChangeRetention,
            Kind::ChangeRetries,
            Kind::ChangeOrdering,
            Kind::ChangeQuota,
        ] {
            for target in 0..6 {
                let mut changed = before.clone();
                changed.change(kind, target);
                assert_ne!(changed.text(), before.text(), "{kind:?}");
                // But for the revision, nothing of another part.
                changed.revision = before.revision;
                let lines = |rules: &Rules| rules.text().lines().map(str::to_owned).collect::<Vec<_>>();
                let differ = lines(&changed)
                    .iter()
                    .zip(lines(&before))
                    .filter(|(a, b)| **a != *b)
                    .count();
                assert!((1..=2).contains(&differ), "{kind:?}: {differ} lines");
                texts.push(changed.text());
            }
        }
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 1 + 4 + 2 + 2 + 2 + 1);
    }
}
