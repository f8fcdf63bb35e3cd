//! What a component needs, and what the bus remembers of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::authority;
use crate::by_partition::ByPartition;
use crate::handed::Handed;
use crate::isolation::Rejoined;
use crate::named_position;
use crate::partition::{Layout, Partition};
use crate::place::Scope;
use crate::policy::{Ordering, QueueDelivery};
use crate::withheld::Withheld;
use crate::{
    Code, Filter, Incarnation, Policy, Position, Problem, SubscriptionId, SubscriptionName, TenantId, Timestamp,
};

/// Events of an ordered subscription that its owner may hold: what waits behind a retry is held, not nak'ed, so
/// this is how much one key can have waiting before others feel it. A place takes a few hundred bytes, here and on the
/// server; payloads beyond a bound of their own are let go and read again.
pub const ORDERED_WINDOW: u32 = 10_000;

/// Where a backfill begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// With the oldest retained event.
    First,
    /// With the first event stored at or after this time, nanoseconds since the Unix epoch.
    Time(Timestamp),
    /// With this position.
    Position(Position),
}

impl fmt::Display for Start {
    /// As [`crate::link::start`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First => f.write_str("first"),
            Self::Time(at) => at.fmt(f),
            Self::Position(position) => write!(f, "{position}"),
        }
    }
}

/// Where a backfill ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// Before the first event stored at or after this time, nanoseconds since the Unix epoch.
    Time(Timestamp),
    /// After this position.
    Position(Position),
}

impl End {
    /// Whether an event lies beyond the end.
    pub fn is_before(&self, position: Position, published_at: Timestamp) -> bool {
        match self {
            Self::Time(t) => published_at >= *t,
            // Numbers grow with each change of the topology, so a greater one is later; partitions beside each other
            // are refused before this is asked.
            Self::Position(p) => position > *p,
        }
    }
}

/// What a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Fast, at most once.
    Queue,
    /// Everything from its making on, at least once.
    Durable,
    /// The retained log, then live.
    Backfill {
        /// Where it begins.
        start: Start,
        /// Where it ends, if it does.
        end: Option<End>,
    },
}

impl Need {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Durable => "durable",
            Self::Backfill { .. } => "backfill",
        }
    }
}

/// How deliveries reach a subscriber: which of its exports is called, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// `handler`, one delivery in an invocation.
    Handler,
    /// `batch-handler`, many.
    BatchHandler,
    /// None: it fetches them through `inbox`.
    Inbox,
}

/// Where a subscription was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MadeBy {
    /// In a link.
    Link,
    /// By a component's call.
    Call,
    /// In the policy, without a link yet.
    Policy,
}

/// A named need of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Unique on the bus.
    pub name: SubscriptionName,
    /// What it is for.
    pub need: Need,
    /// Which events.
    pub filter: Filter,
    /// Through which export.
    pub reach: Reach,
    /// Deliveries in an invocation; 1 for `handler`.
    pub batch_size: u32,
    /// Invocations at once.
    pub concurrency: u32,
    /// Whether the subscriber has a `backfill-handler` that is notified when it has caught up.
    pub tell_caught_up: bool,
    /// Whose events, on a bus that has places.
    #[serde(default, skip_serializing_if = "Scope::is_everywhere")]
    pub scope: Scope,
}

impl Subscription {
    /// Deliveries that may be unsettled at once, over all instances of the provider: two rounds, so that one can be
    /// fetched while the other is worked on.
    pub fn max_unsettled(&self) -> u32 {
        2 * self.concurrency * self.batch_size
    }

    /// Whether its events may lie in a partition.
    pub fn reads(&self, partition: &Partition) -> bool {
        partition.slot.touches(&self.filter) && !(self.is_of_its_place() && partition.is_mirror())
    }

    /// Whether it is given what is published at its own place alone, as every queue subscription is.
    pub fn is_of_its_place(&self) -> bool {
        self.scope == Scope::Here || self.need == Need::Queue
    }

    /// Whether the store keeps a place of it, and so its events until they are handled.
    pub fn keeps_a_place(&self, policy: &Policy) -> bool {
        self.need != Need::Queue || (policy.queue_delivery == QueueDelivery::AtLeastOnce && self.reach != Reach::Inbox)
    }

    /// The same under a policy, which may ask for order: then an owner holds those that wait for their turn, too.
    pub fn max_unsettled_under(&self, policy: &Policy) -> u32 {
        match policy.ordering {
            Ordering::None => self.max_unsettled(),
            Ordering::Tenant | Ordering::Key => self.max_unsettled().max(ORDERED_WINDOW),
        }
    }
}

/// How far the subscriber of a backfill has been notified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It still replays, or needs no notification.
    Replaying,
    /// An instance is notifying it. Its mark: the time by its own clock, in nanoseconds since the Unix epoch, which says nothing to
    /// others but whether it is another than before.
    #[serde(rename = "telling")]
    Notifying(Timestamp),
    /// It has been notified.
    CaughtUp,
    /// It reached its end; nothing more is delivered.
    Finished,
}

/// Where a subscription was put back to, the last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewound {
    /// How often it was, this time included. Each time has a consumer of its own, so that what was under way before
    /// can't settle what comes again.
    pub generation: u32,
    /// Where it began again.
    pub to: Start,
}

/// A subscription as the bus remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// What was asked for.
    #[serde(flatten)]
    pub subscription: Subscription,
    /// Who is given the events.
    pub component: String,
    /// The link it was made through.
    pub link: String,
    /// How it was made.
    pub made_by: MadeBy,
    /// When, nanoseconds since the Unix epoch.
    pub made_at: Timestamp,
    /// Which of the subscriptions that have had its name.
    #[serde(default, skip_serializing_if = "Incarnation::is_unsaid")]
    pub incarnation: Incarnation,
    /// The name under which it was made, where it has another since: it was moved aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_as: Option<SubscriptionName>,
    /// Each partition's last offset when it was made: what is at or before it is replayed, what comes after is live.
    pub head: ByPartition,
    /// How many matching events each partition held when it began; known once its consumer there exists.
    #[serde(default)]
    pub replayed: ByPartition,
    /// What its consumers are known to have delivered when they had to be made again, up to this offset of each partition:
    /// what of it comes once more is replayed. Where a consumer begins does not depend on it.
    #[serde(default, skip_serializing_if = "ByPartition::is_empty")]
    pub delivered_before: ByPartition,
    /// How far it has come.
    pub progress: Progress,
    /// Nothing is delivered until it is resumed.
    #[serde(default)]
    pub paused: bool,
    /// It was put back to an earlier place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewound: Option<Rewound>,
    /// Tenants whose events a consumer of their own gives, in each partition from this offset on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub isolated: BTreeMap<TenantId, ByPartition>,
    /// Consumers of isolated tenants were taken back, so that one gives everything again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejoined: Option<Rejoined>,
    /// Why this place does not deliver it, if another does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withheld: Option<Withheld>,
    /// What was settled at the place that had it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed: Option<Box<Handed>>,
    /// How often it was handed from one place to another. Of one subscription at two places, that of the later stay stands.
    #[serde(default, skip_serializing_if = "is_first")]
    pub stay: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_first(stay: &u32) -> bool {
    *stay == 0
}

impl Registered {
    /// What everything of it is kept under besides its consumers: its dead letters, requests, attempts and retries.
    pub fn id(&self) -> SubscriptionId {
        SubscriptionId {
            name: self.made_as.as_ref().unwrap_or(&self.subscription.name).clone(),
            incarnation: self.incarnation,
        }
    }

    /// What is remembered of its events beside the store's own is kept under between one rewind and the next.
    pub fn round(&self) -> String {
        match self.rewound {
            None => self.id().to_string(),
            Some(rewound) => format!("{}={}", self.id(), rewound.generation),
        }
    }

    /// What its consumers are named by: its name as it is now, with its incarnation.
    pub(crate) fn consumers_id(&self) -> SubscriptionId {
        SubscriptionId {
            name: self.subscription.name.clone(),
            incarnation: self.incarnation,
        }
    }

    /// Whether both are planned alike: what one has reached beyond the other concerns only who reads it.
    #[must_use]
    pub fn is_planned_like(&self, other: &Self) -> bool {
        let as_far = Self {
            replayed: other.replayed.clone(),
            progress: other.progress,
            ..self.clone()
        };
        as_far == *other && (self.progress == Progress::Finished) == (other.progress == Progress::Finished)
    }

    /// Whether an event was stored before the time that it begins at. A consumer that is made before that time begins at once
    /// (nats-server 2.15.1).
    pub fn begins_after(&self, stored_at: Timestamp) -> bool {
        matches!(self.needs_now(), Need::Backfill { start: Start::Time(begin), .. } if stored_at < begin)
    }

    /// What its consumer must give it: what was asked for, from where it was put back to.
    pub fn needs_now(&self) -> Need {
        match (self.subscription.need, self.rewound) {
            (Need::Durable, Some(rewound)) => Need::Backfill {
                start: rewound.to,
                end: None,
            },
            (Need::Backfill { end, .. }, Some(rewound)) => Need::Backfill { start: rewound.to, end },
            (need, _) => need,
        }
    }

    /// Puts it back, with all that follows: the log's `heads` of now divide what comes again from what is new.
    ///
    /// # Errors
    /// For a subscription that keeps no place, and a position that means nothing on a bus of this `layout`, or lies beyond
    /// the log.
    pub fn rewind(&self, to: Start, heads: &ByPartition, layout: &Layout) -> Result<Self, Problem> {
        let name = &self.subscription.name;
        if self.subscription.need == Need::Queue {
            return Err(Problem::new(
                Code::NothingToRewind,
                format!(
                    "subscription {name} is a queue subscription, which keeps no place in the log: use a backfill subscription"
                ),
            ));
        }
        if let Start::Position(p) = to {
            named_position::is_of_the_log(&self.subscription, layout, p)?;
        }
        if let Start::Position(p) = to
            && p.offset > heads.of(p.partition) + 1
        {
            return Err(Problem::new(
                Code::UnknownPosition,
                format!(
                    "subscription {name}: position {p} lies beyond the log's last offset, {}: choose one at or before that, or a time",
                    heads.of(p.partition)
                ),
            ));
        }
        Ok(Self {
            head: heads.clone(),
            replayed: ByPartition::default(),
            delivered_before: ByPartition::default(),
            progress: Progress::Replaying,
            isolated: BTreeMap::new(),
            rejoined: None,
            handed: None,
            rewound: Some(Rewound {
                generation: self.rewound.map_or(0, |r| r.generation) + 1,
                to,
            }),
            ..self.clone()
        })
    }

    /// Whether the operator's declaration takes the name away from it: it was made by a call, and belongs to another or
    /// means something else. Nobody can hold a name against the operator.
    pub fn yields_to(&self, asked: &Subscription, component: &str, made_by: MadeBy) -> bool {
        self.made_by == MadeBy::Call
            && made_by != MadeBy::Call
            && (self.component != component || self.subscription.need != asked.need)
    }

    /// The same under a name of its caller's: it goes on where everything before has been handled.
    pub(crate) fn moved_aside(&self, handled_to: ByPartition) -> Self {
        let mut next = self.rejoin(handled_to);
        next.made_as = Some(self.id().name);
        next.subscription.name = self.subscription.name.of_caller(&self.component);
        next
    }

    /// Begins anew in a log that was lost and is made again: its offsets begin anew too, and no old one says anything of
    /// the new events.
    pub(crate) fn begin_anew(&mut self) {
        self.handed = None;
        let (start, end) = match self.needs_now() {
            Need::Backfill { start, end } => (Some(start), end),
            Need::Queue | Need::Durable => (None, None),
        };
        if matches!(end, Some(End::Position(_))) {
            // What it asked for is gone, and what is new lies beyond its end.
            self.progress = Progress::Finished;
        } else if matches!(start, Some(Start::Position(_))) || self.rejoined.is_some() || !self.isolated.is_empty() {
            self.rewound = Some(Rewound {
                generation: self.generation() + 1,
                to: Start::First,
            });
            (self.rejoined, self.isolated) = (None, BTreeMap::new());
            self.replayed = ByPartition::default();
        }
    }

    /// How often it was put back to a place.
    pub fn generation(&self) -> u32 {
        self.rewound.map_or(0, |r| r.generation)
    }

    /// Whether an event was in the log when the subscription was made, or was delivered before its consumer had to be made
    /// again.
    pub fn was_there(&self, position: Position) -> bool {
        let Position { partition, offset } = position;
        offset <= self.head.of(partition).max(self.delivered_before.of(partition))
    }

    /// The same with what is asked for now.
    pub(crate) fn with_what_is_asked(&self, want: &crate::planner::Wanted) -> Self {
        let mut next = Self {
            subscription: Subscription {
                name: self.subscription.name.clone(),
                ..want.subscription.clone()
            },
            ..self.clone()
        };
        if want.made_by == MadeBy::Policy {
            // How its subscriber is called, a link has said or will say; one that can't be called fetches.
            if want.subscription.reach != Reach::Inbox {
                next.subscription.reach = self.subscription.reach;
            }
            next.subscription.tell_caught_up = self.subscription.tell_caught_up;
            if self.subscription.reach == Reach::Handler {
                next.subscription.batch_size = 1;
            }
            if self.made_by == MadeBy::Policy {
                next.component = want.component.clone();
            }
            if self.made_by == MadeBy::Call {
                next.made_by = MadeBy::Policy;
            }
        } else {
            next.component = want.component.clone();
            next.link = want.link.clone();
            next.made_by = want.made_by;
        }
        next
    }

    /// Whether a repeated request means the same subscription, so that it is kept as it is or changed in place.
    /// The need, the subscriber, where it begins and whose events it is given can't change under one name.
    ///
    /// # Errors
    /// Says who holds the name, and as what.
    pub fn can_become(&self, asked: &Subscription, component: &str, made_by: MadeBy) -> Result<(), Problem> {
        let mine = &self.subscription;
        let same_owner = self.component == component && self.made_by == made_by;
        // What the policy declared finds its subscriber when a link comes, and waits for it again when the link goes.
        let through_the_policy = match (self.made_by, made_by) {
            (MadeBy::Policy, MadeBy::Link | MadeBy::Policy) => self.component.is_empty() || self.component == component,
            (MadeBy::Link, MadeBy::Policy) => component.is_empty() || self.component == component,
            // What its subscriber called for before the operator declared it goes on.
            (MadeBy::Call, MadeBy::Link | MadeBy::Policy) => self.component == component,
            _ => false,
        };
        let same_scope = mine.need == Need::Queue || mine.scope == asked.scope;
        if (same_owner || through_the_policy) && mine.need == asked.need && same_scope {
            return Ok(());
        }
        if made_by == MadeBy::Call && self.component != component {
            // Whose it is, and what for, is not the caller's to know.
            return Err(Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {}: the name is taken: use another", asked.name.plain()),
            ));
        }
        let made = match self.made_by {
            MadeBy::Link => "declared in a link",
            MadeBy::Call => "made by a call",
            MadeBy::Policy => "declared in the policy",
        };
        let whose = match mine.scope {
            Scope::Here => ", given the events of its own place alone",
            Scope::Everywhere => "",
        };
        Err(Problem::new(
            Code::SubscriptionConflict,
            format!(
                "subscription {} is already a {} subscription of {}{whose}, {made}: use another name, or end that one first",
                mine.name,
                mine.need.as_str(),
                authority::named(&self.component)
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::{Binding, Partition};
    use crate::{ConsumerName, SubjectTemplate};

    /// A subscription, written as it was before any could be rewound.
    const OLD: &str = r#"{"name":"invoicing","need":"durable","filter":{"tenants":[],"event_types":["**"]},"reach":"handler",
            "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"link",
            "made_at":1,"head":{"0":7},"replayed":{},"progress":"replaying"}"#;

    fn of_scope(scope: Scope) -> Registered {
        let mut registered: Registered = serde_json::from_str(OLD).unwrap();
        registered.subscription.scope = scope;
        registered
    }

    #[test]
    fn whose_events_a_subscription_is_given_does_not_change_under_its_name() {
        for (has, asks) in [(Scope::Everywhere, Scope::Here), (Scope::Here, Scope::Everywhere)] {
            let (have, asked) = (of_scope(has), of_scope(asks).subscription);
            assert_eq!(have.can_become(&have.subscription, "c", MadeBy::Link), Ok(()));
            let refused = have.can_become(&asked, "c", MadeBy::Link).unwrap_err();
            assert_eq!(refused.code, Code::SubscriptionConflict);
            assert_eq!(
                refused.message.contains("its own place alone"),
                has == Scope::Here,
                "{refused:?}"
            );
        }
    }

    #[test]
    fn a_position_is_judged_by_the_partitions_that_are_read() {
        let template: SubjectTemplate = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let of_place = |number, place: &str, binding| Partition {
            number,
            binding,
            place: Some(place.parse().unwrap()),
            ..Partition::undivided(template.clone())
        };
        let mirror = of_place(0, "frankfurt", Binding::Mirror);
        let own = of_place(100_000, "shop", Binding::Plain);
        let layout = Layout {
            partitions: [(0, mirror), (100_000, own)].into(),
        };
        let heads = [(0, 9), (100_000, 9)].into_iter().collect::<ByPartition>();
        for (scope, partition, means_something) in [
            (Scope::Here, 100_000, true),
            (Scope::Here, 0, false),
            (Scope::Everywhere, 100_000, false),
            (Scope::Everywhere, 0, false),
        ] {
            let to = Start::Position(Position::new(partition, 3));
            let rewound = of_scope(scope).rewind(to, &heads, &layout);
            assert_eq!(rewound.is_ok(), means_something, "{scope:?} {partition}: {rewound:?}");
        }
    }

    #[test]
    fn what_was_remembered_before_subscriptions_could_be_rewound_is_still_read() {
        let heads = |head| [(0, head)].into_iter().collect::<ByPartition>();
        let registered: Registered = serde_json::from_str(OLD).unwrap();
        let template = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let layout = Layout {
            partitions: [(0, Partition::undivided(template))].into(),
        };
        assert_eq!((registered.paused, &*registered.consumer_name()), (false, "invoicing"));

        let again = registered
            .rewind(Start::First, &heads(41), &layout)
            .unwrap()
            .rewind(Start::First, &heads(42), &layout)
            .unwrap();
        assert_eq!(again.consumer_name(), "invoicing=2");
        assert!(again.incarnation.is_unsaid() && again.id().to_string() == "invoicing");
        assert_eq!(
            ConsumerName::from("invoicing=2").subscription(),
            Some("invoicing".parse().unwrap())
        );
        assert_eq!((again.head.of(0), again.progress), (42, Progress::Replaying));
        let at = |seconds: i64| Timestamp::from_nanoseconds(seconds * 1_000_000_000);
        let later = again.rewind(Start::Time(at(9)), &heads(42), &layout).unwrap();
        assert!(later.begins_after(at(8)) && !later.begins_after(at(9)));
        assert!(!again.begins_after(at(8)), "the first event has no time");
        // Beyond the log, and of a partition that the bus does not have.
        for nowhere in [Position::undivided(44), Position::new(3, 1)] {
            assert_eq!(
                again
                    .rewind(Start::Position(nowhere), &heads(42), &layout)
                    .unwrap_err()
                    .code,
                Code::UnknownPosition
            );
        }
        let queue = Registered {
            subscription: Subscription {
                need: Need::Queue,
                ..again.subscription
            },
            ..registered
        };
        assert_eq!(
            queue.rewind(Start::First, &heads(1), &layout).unwrap_err().code,
            Code::NothingToRewind
        );
    }
}
