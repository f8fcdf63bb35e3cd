//! The names that Fanout derives from a bus's name: streams, buckets, and the subjects of what it keeps beside the log.

use serde::{Serialize, Serializer};

use crate::envelope::EventKey;
use crate::journal::Slot;
use crate::{
    BusName, Incarnation, LogPosition, PlaceName, Position, Round, SubscriptionId, SubscriptionName, TenantId,
};

/// The names that Fanout gives to what it makes for a bus. `fanout_` and `fanout.` mark them as its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusNames {
    bus: BusName,
    /// The bus in subjects. Places that are joined share one space of subjects, and each has its own below it: no two streams
    /// store one message, and no place's instances receive what is another's.
    token: String,
}

impl BusNames {
    /// The names of a bus.
    pub fn new(bus: BusName) -> Self {
        let token = bus.to_string();
        Self { bus, token }
    }

    /// The names of a bus at one of its places. `@` is in no bus's name.
    pub(crate) fn at(bus: BusName, place: &PlaceName) -> Self {
        let token = format!("{bus}@{place}");
        Self { bus, token }
    }

    /// The stream that holds the bus's events.
    pub fn log(&self) -> String {
        format!("fanout_{}_log", self.bus)
    }

    /// The stream that holds one partition of the bus's events.
    pub fn partition(&self, number: u32) -> String {
        match number {
            0 => self.log(),
            n => format!("{}_{n}", self.log()),
        }
    }

    /// The partition whose stream this is.
    pub fn partition_of(&self, stream: &str) -> Option<u32> {
        let number = match stream.strip_prefix(&self.log())? {
            "" => 0,
            rest => rest.strip_prefix('_')?.parse().ok()?,
        };
        // `_0`, `_01` and `_+1` are names that Fanout does not give.
        (self.partition(number) == stream).then_some(number)
    }

    /// Before everything that is published for a part of the log on a subject of its own.
    pub fn parts_prefix(&self) -> String {
        format!("fanout.part.{}.", self.token)
    }

    /// What a retired partition's stream is bound to: it must be bound to something, and nothing is stored there.
    pub fn retired(&self, partition: u32) -> String {
        format!("fanout.retired.{}.{partition}", self.token)
    }

    /// The stream of dead letters.
    pub fn dead_letters(&self) -> String {
        format!("fanout_{}_dead", self.bus)
    }

    /// The stream of scheduled events.
    pub fn scheduled_stream(&self) -> String {
        format!("fanout_{}_scheduled", self.bus)
    }

    /// Every scheduled event's subject.
    pub fn scheduled_subjects(&self) -> String {
        format!("fanout.scheduled.{}.>", self.token)
    }

    /// A scheduled event's subject: one for each tenant, source and id.
    pub fn scheduled(&self, tenant: &TenantId, key: &EventKey) -> String {
        format!("fanout.scheduled.{}.{}.{key}", self.token, tenant.token())
    }

    /// Every subject of a tenant's scheduled events.
    pub fn scheduled_of(&self, tenant: &TenantId) -> String {
        format!("fanout.scheduled.{}.{}.>", self.token, tenant.token())
    }

    /// The stream that says of scheduled events whether they are published or cancelled.
    pub fn marks(&self) -> String {
        format!("fanout_{}_marks", self.bus)
    }

    /// Every mark's subject.
    pub fn mark_subjects(&self) -> String {
        format!("fanout.mark.{}.>", self.token)
    }

    /// Where the mark says whether a scheduled event is published or cancelled.
    pub fn mark(&self, tenant: &TenantId, key: &EventKey) -> String {
        format!("fanout.mark.{}.{}.{key}", self.token, tenant.token())
    }

    /// The subject of a scheduled event's mark.
    pub fn mark_beside(&self, scheduled: &str) -> String {
        let event = scheduled.strip_prefix(&format!("fanout.scheduled.{}.", self.token));
        format!("fanout.mark.{}.{}", self.token, event.unwrap_or(scheduled))
    }

    /// The stream in which refused events wait for their next attempt.
    pub fn retries(&self) -> String {
        format!("fanout_{}_retries", self.bus)
    }

    /// Every subject of an event that waits for its next attempt.
    pub fn retry_subjects(&self) -> String {
        format!("fanout.retry.{}.>", self.token)
    }

    /// Where an event of one round of a subscription waits: one place for a position.
    pub fn retry(&self, subscription: &SubscriptionName, round: Round, at: impl Into<LogPosition>) -> String {
        format!("fanout.retry.{}.{subscription}.{round}.{}", self.token, at.into())
    }

    /// Everything that waits for subscriptions of one name; for one round of them, if one is given.
    pub fn retry_filter(&self, subscription: &SubscriptionName, round: Option<Round>) -> String {
        match round {
            Some(round) => format!("fanout.retry.{}.{subscription}.{round}.>", self.token),
            None => format!("fanout.retry.{}.{subscription}.>", self.token),
        }
    }

    /// The subscription for which the event of this subject waits.
    pub fn retry_subscription_of(&self, subject: &str) -> Option<SubscriptionName> {
        let rest = subject.strip_prefix(&format!("fanout.retry.{}.", self.token))?;
        rest.split('.').next()?.parse().ok()
    }

    /// The round and position that the subject of an event that waits ends with.
    pub fn retry_of(&self, subject: &str) -> Option<(Round, LogPosition)> {
        let rest = subject.strip_prefix(&format!("fanout.retry.{}.", self.token))?;
        let mut tokens = rest.split('.').skip(1);
        let round = tokens.next()?.parse().ok()?;
        let at = LogPosition::from_tokens(tokens.next()?, tokens.next()?)?;
        tokens.next().is_none().then_some((round, at))
    }

    /// The stream in which deliveries are written down.
    pub fn journal(&self) -> String {
        format!("fanout_{}_journal", self.bus)
    }

    /// Everything in it.
    pub fn journal_subjects(&self) -> String {
        format!("fanout.journal.{}.>", self.token)
    }

    /// Where the deliveries of a slot's events are written down.
    pub fn journal_slot(&self, slot: Slot) -> String {
        format!("fanout.journal.{}.{}.{}", self.token, slot.partition, slot.number)
    }

    /// Where it is said that some were not.
    pub fn journal_missing(&self) -> String {
        format!("fanout.journal.{}.missing", self.token)
    }

    /// The stream that counts the bytes stored for each tenant.
    pub fn usage(&self) -> String {
        format!("fanout_{}_usage", self.bus)
    }

    /// Every counter.
    pub fn usage_subjects(&self) -> String {
        format!("fanout.usage.{}.>", self.token)
    }

    /// A tenant's counters.
    pub fn usage_of(&self, tenant: &TenantId) -> String {
        format!("fanout.usage.{}.{}.*", self.token, tenant.token())
    }

    /// A tenant's counter of one stretch of time.
    pub fn usage_in(&self, tenant: &TenantId, stretch: &str) -> String {
        format!("fanout.usage.{}.{}.{stretch}", self.token, tenant.token())
    }

    /// Where instances of the provider tell each other that they are there.
    pub fn instances(&self) -> String {
        format!("fanout.instances.{}", self.token)
    }

    /// Below which the instance of this id serves the other instances.
    pub fn instance(&self, id: &str) -> String {
        format!("fanout.instance.{}.{id}", self.token)
    }

    /// The bucket that remembers subscriptions.
    pub fn registry(&self) -> String {
        format!("fanout_{}_registry", self.bus)
    }

    /// The bucket that remembers failed attempts, with their reasons.
    pub fn attempts(&self) -> String {
        format!("fanout_{}_attempts", self.bus)
    }

    /// The bucket that says which instance owns what.
    pub fn leases(&self) -> String {
        format!("fanout_{}_leases", self.bus)
    }

    /// Under which each stored event is announced, once, to queue subscriptions: this, then the event's own subject.
    pub fn live_prefix(&self) -> String {
        format!("fanout.live.{}.", self.token)
    }

    /// Every dead letter's subject.
    pub fn dead_letter_subjects(&self) -> String {
        format!("fanout.dead.{}.>", self.token)
    }

    /// Where the stream of dead letters can be asked something without anybody being told: that of a letter that there can't be.
    pub fn dead_letter_question(&self) -> String {
        format!("fanout.dead.{}.%", self.token)
    }

    /// One dead letter's subject: there is exactly one for a subscription and position. Its incarnation comes last, so that
    /// one filter finds the letters of all that have had a name.
    pub fn dead_letter(&self, of: &SubscriptionId, tenant: &TenantId, at: impl Into<LogPosition>) -> String {
        let SubscriptionId { name, incarnation } = of;
        let said = match incarnation.is_unsaid() {
            true => String::new(),
            false => format!(".{incarnation}"),
        };
        format!(
            "fanout.dead.{}.{name}.{}.{}{said}",
            self.token,
            tenant.token(),
            at.into()
        )
    }

    /// Asks for one dead letter to be given to its subscription again. It lies beside the dead letters; `=` is in no
    /// subscription's name.
    pub fn redrive(&self, of: &SubscriptionId, tenant: &TenantId, at: impl Into<LogPosition>) -> String {
        format!(
            "fanout.dead.{}.{of}=redrive.{}.{}",
            self.token,
            tenant.token(),
            at.into()
        )
    }

    /// Every such request for one subscription.
    pub fn redrive_filter(&self, of: &SubscriptionId) -> String {
        format!("fanout.dead.{}.{of}=redrive.>", self.token)
    }

    /// Every such request for one tenant's dead letters.
    pub fn redrive_filter_of(&self, of: &SubscriptionId, tenant: &TenantId) -> String {
        format!("fanout.dead.{}.{of}=redrive.{}.>", self.token, tenant.token())
    }

    /// A tenant's lease to have its dead letters redriven to a subscription that is fetched. There is one while it has
    /// requests.
    pub fn redrive_lease(&self, of: &SubscriptionId, tenant: &TenantId) -> String {
        format!("fanout.dead.{}.{of}=lease.{}", self.token, tenant.token())
    }

    /// Every redrive lease of one subscription.
    pub fn redrive_leases(&self, of: &SubscriptionId) -> String {
        format!("fanout.dead.{}.{of}=lease.*", self.token)
    }

    /// The owner tenant of the redrive lease with this subject.
    pub fn redrive_lease_of(&self, subject: &str) -> Option<TenantId> {
        let rest = subject.strip_prefix(&format!("fanout.dead.{}.", self.token))?;
        let (place, tenant) = rest.split_once('.')?;
        place.ends_with("=lease").then(|| TenantId::from_token(tenant))?
    }

    /// The dead letter that a subject is that of.
    pub fn letter_of(&self, subject: &str) -> Option<LetterId> {
        let (place, tenant, at, incarnation) = self.beside(subject)?;
        Some(LetterId {
            of: SubscriptionId {
                name: place.parse().ok()?,
                incarnation: incarnation.map_or(Some(Incarnation::default()), |i| i.parse().ok())?,
            },
            tenant,
            position: at.position,
            log: at.log,
        })
    }

    /// The dead letter that a request with this subject asks for.
    pub fn redrive_of(&self, subject: &str) -> Option<LetterId> {
        let (place, tenant, at, more) = self.beside(subject)?;
        let (of, what) = SubscriptionId::split(place)?;
        (what == Some("redrive") && more.is_none()).then_some(LetterId {
            of,
            tenant,
            position: at.position,
            log: at.log,
        })
    }

    /// The tokens of what lies among the dead letters: place, tenant, position, and one more if there is one.
    fn beside<'a>(&self, subject: &'a str) -> Option<(&'a str, TenantId, LogPosition, Option<&'a str>)> {
        let rest = subject.strip_prefix(&format!("fanout.dead.{}.", self.token))?;
        let mut tokens = rest.split('.');
        let place = tokens.next()?;
        let tenant = TenantId::from_token(tokens.next()?)?;
        let at = LogPosition::from_tokens(tokens.next()?, tokens.next()?)?;
        let more = tokens.next();
        tokens.next().is_none().then_some((place, tenant, at, more))
    }

    /// The dead letters of all subscriptions that have had one name, or of any, and of one tenant or all.
    pub fn dead_letter_filter(&self, name: Option<&SubscriptionName>, tenant: Option<&TenantId>) -> String {
        let name = name.map_or("*", SubscriptionName::as_str);
        let tenant = tenant.map_or("*".into(), TenantId::token);
        format!("fanout.dead.{}.{name}.{tenant}.>", self.token)
    }
}

/// Which dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LetterId {
    /// The subscription that would not handle it.
    #[serde(flatten)]
    pub of: SubscriptionId,
    /// Whose event it holds.
    pub tenant: TenantId,
    /// Where that stood in the log; written as `partition/offset`.
    #[serde(serialize_with = "as_text")]
    pub position: Position,
    /// In which of the logs that have stood there.
    #[serde(skip_serializing_if = "Incarnation::is_unsaid")]
    pub log: Incarnation,
}

impl LetterId {
    /// Where the event stood, and in which log.
    pub fn at(&self) -> LogPosition {
        LogPosition {
            position: self.position,
            log: self.log,
        }
    }
}

fn as_text<S: Serializer>(position: &Position, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SubjectTemplate, Timestamp, TypePattern};

    #[test]
    fn a_name_that_is_no_token_keeps_to_its_own_subjects() {
        let template: SubjectTemplate = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let names = BusNames::new("payments".parse().unwrap());
        let billing = ended("billing");
        for name in ["eu.acme", "*", ">", "a b", "é/ü", "acme.webhook.invoice", "%", "=lease"] {
            let tenant: TenantId = name.parse().unwrap();
            let subject = template.subject(&tenant, &"invoice.paid".parse().unwrap());
            assert_eq!(subject.split('.').count(), 5, "{subject}");
            assert_eq!(
                template.parse_subject(&subject).map(|(t, _)| t),
                Some(tenant.clone()),
                "{subject}"
            );
            assert_eq!(template.tenant_of(&subject), Some(tenant.clone()));
            let filter = template.filter(Some(&tenant), &TypePattern::any());
            assert_eq!(filter.split('.').count(), 4, "{filter}");
            let position = Position::undivided(7);
            let letter = names.dead_letter(&billing, &tenant, position);
            let id = LetterId {
                of: billing.clone(),
                tenant: tenant.clone(),
                position,
                log: Incarnation::default(),
            };
            assert_eq!(names.letter_of(&letter), Some(id));
            assert_eq!(names.redrive_lease_of(&letter), None);
            let lease = names.redrive_lease(&billing, &tenant);
            assert_eq!(names.redrive_lease_of(&lease), Some(tenant.clone()));
            let scheduled = names.scheduled(&tenant, &EventKey::new(&tenant, "/s", "id"));
            let token = scheduled.rsplit('.').nth(1).unwrap();
            assert_eq!(
                (scheduled.split('.').count(), TenantId::from_token(token)),
                (5, Some(tenant))
            );
        }
        for written_otherwise in [
            "payments.%61cme.webhook.a",
            "payments.acme.webhook.a%2Eb",
            "payments.acme.webhook.a/b",
        ] {
            assert_eq!(template.parse_subject(written_otherwise), None, "{written_otherwise}");
        }
    }

    #[test]
    fn a_partition_is_known_by_its_stream() {
        let names = BusNames::new("payments".parse().unwrap());
        for number in [0, 1, 42] {
            assert_eq!(names.partition_of(&names.partition(number)), Some(number));
        }
        for foreign in [
            "fanout_payments_log_0",
            "fanout_payments_log_01",
            "fanout_payments_dead",
            "x",
        ] {
            assert_eq!(names.partition_of(foreign), None, "{foreign}");
        }
    }

    /// A subscription of this name, from before there were incarnations.
    fn ended(name: &str) -> SubscriptionId {
        SubscriptionId {
            name: name.parse().unwrap(),
            incarnation: Incarnation::default(),
        }
    }

    #[test]
    fn a_letter_a_request_and_a_lease_are_three_things_of_one_subscription() {
        let names = BusNames::new("payments".parse().unwrap());
        let acme: TenantId = "acme".parse().unwrap();
        let position = Position::undivided(7);
        let made = |now| SubscriptionId {
            incarnation: Incarnation::new(Timestamp::from_nanoseconds(now)),
            ..ended("billing")
        };
        let mut all = std::collections::BTreeSet::new();
        for of in [ended("billing"), made(1), made(2)] {
            let id = LetterId {
                of: of.clone(),
                tenant: acme.clone(),
                position,
                log: Incarnation::default(),
            };
            let letter = names.dead_letter(&of, &acme, position);
            let request = names.redrive(&of, &acme, position);
            let lease = names.redrive_lease(&of, &acme);
            assert_eq!(names.letter_of(&letter), Some(id.clone()), "{letter}");
            assert_eq!(names.redrive_of(&request), Some(id), "{request}");
            assert_eq!(names.redrive_lease_of(&lease), Some(acme.clone()), "{lease}");
            for (other, subjects) in [
                ("letter", [&request, &lease]),
                ("request", [&letter, &lease]),
                ("lease", [&letter, &request]),
            ] {
                for subject in subjects {
                    let read = match other {
                        "letter" => names.letter_of(subject).is_some(),
                        "request" => names.redrive_of(subject).is_some(),
                        _ => names.redrive_lease_of(subject).is_some(),
                    };
                    assert!(!read, "{subject} is no {other}");
                }
            }
            all.extend([
                letter,
                request,
                lease,
                names.redrive_filter(&of),
                names.redrive_leases(&of),
            ]);
        }
        assert_eq!(all.len(), 15, "no two subscriptions share a subject: {all:?}");
        // As it was written before there were incarnations.
        let old = names.dead_letter(&ended("billing"), &acme, position);
        assert_eq!(old, "fanout.dead.payments.billing.acme.0.7");
    }

    #[test]
    fn a_retry_is_known_by_its_subject() {
        let names = BusNames::new("payments".parse().unwrap());
        let billing = "billing".parse().unwrap();
        let round = Round {
            made_at: Timestamp::from_nanoseconds(1_764_000_000_000_000_000),
            rewound: 2,
        };
        let position = Position::new(3, 41);
        let subject = names.retry(&billing, round, position);
        assert_eq!(subject, "fanout.retry.payments.billing.1764000000000000000-2.3.41");
        assert_eq!(names.retry_of(&subject), Some((round, position.into())));
        for foreign in [
            "fanout.retry.other.billing.1-0.0.1",
            "fanout.retry.payments.billing.1.0.1",
            "fanout.retry.payments.billing.1-0.0",
            "fanout.retry.payments.billing.1-0.0.1.2",
        ] {
            assert_eq!(names.retry_of(foreign), None, "{foreign}");
        }
    }
}
