//! What can be wrong with a policy, a link or an event: a stable code and a sentence that says what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal that a user can act on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable; programs match it. Each has a page in `docs/errors/`.
    pub code: Code,
    /// What happened, to which tenant, subscription or setting, and what to do.
    pub message: String,
    /// The setting that it is about, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
}

impl Problem {
    /// A problem with its sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            setting: None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Problem {}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The stable codes of every error a user can meet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The code as users see it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

codes! {
    /// A setting that the policy or link does not have.
    UnknownSetting = "unknown-setting",
    /// A required setting is absent.
    MissingSetting = "missing-setting",
    /// A setting's value does not parse or is out of range.
    InvalidSetting = "invalid-setting",
    /// Two settings contradict each other.
    ConflictingSettings = "conflicting-settings",
    /// The bus holds no such event.
    UnknownEvent = "unknown-event",
    /// A tenant's name breaks the rules for names.
    InvalidTenant = "invalid-tenant",
    /// An event type breaks the rules for event types.
    InvalidEventType = "invalid-event-type",
    /// A pattern of event types breaks its rules.
    InvalidPattern = "invalid-pattern",
    /// No event that is asked for and allowed can match an event pattern.
    PatternMatchesNothing = "pattern-matches-nothing",
    /// A subscription's name breaks the rules for names.
    InvalidSubscription = "invalid-subscription",
    /// Another attribute of an event breaks CloudEvents' rules or a limit.
    InvalidAttribute = "invalid-attribute",
    /// An event is larger than the bus takes.
    EventTooLarge = "event-too-large",
    /// More events in one call than the contract allows.
    TooManyEvents = "too-many-events",
    /// A request over HTTP that is not what its path takes.
    InvalidRequest = "invalid-request",
    /// A content type that nothing is read from.
    UnsupportedMediaType = "unsupported-media-type",
    /// There is nothing at this path.
    NotFound = "not-found",
    /// There is something at this path, and this method does nothing with it.
    MethodNotAllowed = "method-not-allowed",
    /// A page of an origin that the listener does not allow.
    OriginNotAllowed = "origin-not-allowed",
    /// More live tails of one caller, or of all, than may.
    TooManyTails = "too-many-tails",
    /// More events of one caller, or of all, are looked up at once than may be.
    TooManyLookUps = "too-many-look-ups",
    /// A live tail whose reader does not read.
    SlowReader = "slow-reader",
    /// More fetches of one caller, or of one subscription, that wait than may.
    TooManyFetches = "too-many-fetches",
    /// The caller has no link to this provider under that name.
    NotLinked = "not-linked",
    /// The caller's link was refused, so nothing may be done through it.
    LinkRefused = "link-refused",
    /// The caller's link does not allow this tenant.
    TenantNotPermitted = "tenant-not-permitted",
    /// The caller's link does not allow this event type.
    EventTypeNotPermitted = "event-type-not-permitted",
    /// The caller's link does not allow this source.
    SourceNotPermitted = "source-not-permitted",
    /// The caller's link does not include this interface.
    InterfaceNotLinked = "interface-not-linked",
    /// A tenant's quota is used up.
    QuotaExceeded = "quota-exceeded",
    /// The server does not write each event to its disk, which the policy promises.
    DurabilityNotKept = "durability-not-kept",
    /// It can't be found out whether the server writes each event to its disk.
    DurabilityUnverified = "durability-unverified",
    /// The server is older than a setting of the policy needs.
    ServerTooOld = "server-too-old",
    /// A time to publish at that is too far away.
    InvalidDueTime = "invalid-due-time",
    /// The log is full and its policy refuses new events.
    StoreFull = "store-full",
    /// The store can't be reached.
    StoreUnavailable = "store-unavailable",
    /// The store did not answer in time.
    OutcomeUnknown = "outcome-unknown",
    /// The bus has no policy in force.
    BusNotReady = "bus-not-ready",
    /// A subscription, or one more of them, would take more than the policy's `limits`.
    LimitExceeded = "limit-exceeded",
    /// The store refused what a subscription needs of it.
    StoreRefused = "store-refused",
    /// What the bus remembers of a subscription can't be read.
    UnreadableSubscription = "unreadable-subscription",
    /// The registry has lost a subscription whose consumer is still there.
    RegistrationLost = "registration-lost",
    /// The subscription's name is taken by another subscriber or another meaning.
    SubscriptionConflict = "subscription-conflict",
    /// The caller has no such subscription.
    UnknownSubscription = "unknown-subscription",
    /// What a token stands for was delivered by a subscription that has ended, and whose name another has now.
    SubscriptionEnded = "subscription-ended",
    /// A backfill's end lies before its start.
    EmptyBackfill = "empty-backfill",
    /// A position that the log has not reached or does not have.
    UnknownPosition = "unknown-position",
    /// A subscription that keeps no place can't be put back to one.
    NothingToRewind = "nothing-to-rewind",
    /// Events of a subscription were gone before it handled them.
    RetentionGap = "retention-gap",
    /// Events of a subscription will expire soon unless it handles them.
    RetentionGapNear = "retention-gap-near",
    /// Events that may be delivered behind later ones of their key: the last instance did not nak them in time.
    OrderNotKept = "order-not-kept",
    /// A subscriber refused an event.
    Rejected = "rejected",
    /// The store of retries has no room: refused events stay in flight.
    RetriesFull = "retries-full",
    /// The bus has no dead letter of this number.
    UnknownDeadLetter = "unknown-dead-letter",
    /// A dead letter can't be given to its subscription again.
    NotRedrivable = "not-redrivable",
    /// The subscriber can't be reached.
    SubscriberUnreachable = "subscriber-unreachable",
    /// The subscriber's link is gone; its events wait.
    SubscriberUnlinked = "subscriber-unlinked",
    /// The subscription's deliveries are not fetched: it has a handler.
    NotAnInbox = "not-an-inbox",
    /// Whoever calls is no caller that the policy names.
    UnknownCaller = "unknown-caller",
    /// A caller that nobody can call asked to be called.
    NotCallable = "not-callable",
    /// An edge does not do this; its bus does.
    NotAtAnEdge = "not-at-an-edge",
    /// The bus does not give an edge what its link declares.
    UpstreamRefused = "upstream-refused",
    /// A URL to listen on is none.
    InvalidEndpoint = "invalid-endpoint",
    /// The bus can't listen where it is told to.
    ListenFailed = "listen-failed",
    /// A settlement's token is none of the caller's.
    InvalidToken = "invalid-token",
    /// A settlement came after its delivery's lease had ended.
    LeaseExpired = "lease-expired",
    /// A change that the server forbids.
    ImmutableSetting = "immutable-setting",
    /// A change that would lose stored events.
    WouldLoseEvents = "would-lose-events",
    /// A place that the policy does not have.
    UnknownPlace = "unknown-place",
    /// What a store holds is another place's than it is to be.
    PlaceConflict = "place-conflict",
    /// The log of another place can't be read now.
    PlaceUnreachable = "place-unreachable",
    /// A place that takes nothing new.
    PlaceRetired = "place-retired",
    /// The clocks of two places' servers tell different times.
    ClocksDiffer = "clocks-differ",
    /// A place that is taken to be lost answers.
    PlaceNotLost = "place-not-lost",
    /// A subscription is at another place of its bus.
    AtAnotherPlace = "at-another-place",
    /// A subscription is being handed over to another place.
    Moving = "moving",
    /// A subscription is not handed over: events of it are still in flight.
    StillInFlight = "still-in-flight",
    /// Tenants would need more partitions than are sensible.
    TooManyPartitions = "too-many-partitions",
    /// The bus is under a policy of a greater revision.
    OlderPolicy = "older-policy",
    /// The bus is under another policy of the same revision.
    PolicyConflict = "policy-conflict",
    /// Another instance with another policy has changed the topology.
    TopologyChanged = "topology-changed",
    /// A stream of somebody else holds a subject of the bus.
    SubjectTaken = "subject-taken",
    /// Deliveries were not written into the journal: they came faster than the store took them.
    JournalIncomplete = "journal-incomplete",
    /// The bus's NATS account may not have what its policy asks for.
    AccountLimit = "account-limit",
    /// NATS answers, and no JetStream does.
    JetStreamMissing = "jetstream-missing",
    /// A backup is not whole, or not as it was written.
    BackupDamaged = "backup-damaged",
    /// What a backup would restore is of another bus, or something else stands in its place.
    BackupConflict = "backup-conflict",
    /// The bus is in another JetStream domain, or goes there.
    BusMoved = "bus-moved",
    /// The bus is being copied to this store.
    BusMigrating = "bus-migrating",
    /// A bus that can't be migrated as it is.
    NotMigratable = "not-migratable",
    /// What a bus is to be migrated to holds something of its name.
    TargetNotEmpty = "target-not-empty",
    /// What is in flight was not settled in time, and nothing was switched.
    NotDrained = "not-drained",
    /// A copy is not what it is a copy of.
    CopyDiffers = "copy-differs",
    /// What the server holds under the bus's names was not made by Fanout.
    ForeignTopology = "foreign-topology",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page() {
        let pages = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors");
        let index = std::fs::read_to_string(pages.join("README.md")).unwrap();
        for code in Code::ALL {
            let page = std::fs::read_to_string(pages.join(format!("{code}.md"))).unwrap_or_default();
            assert!(page.starts_with(&format!("# `{code}`")), "docs/errors/{code}.md");
            assert!(
                index.contains(&format!("({code}.md)")),
                "docs/errors/README.md names {code}"
            );
        }
    }
}
