//! What became of one event at one subscription, judged by what the store tells of both.
//!
//! Deliberately absent: who settled an event and when. The store keeps how far everything is settled, not each settlement.

use serde::Serialize;

use crate::subscription::{Need, Progress, Registered, Start};
use crate::{Attributes, EventType, PlaceName, Position, TenantId, Timestamp};

/// What became of an event at a subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Fate {
    /// The subscription is given what is published at its own place, and the event was published at another.
    OtherPlace,
    /// Its filter does not ask for events of this tenant.
    OtherTenant,
    /// Its filter does not ask for events of this type.
    OtherType,
    /// Its event pattern leaves it out.
    LeftOut,
    /// It was published before the subscription began.
    BeforeItsStart,
    /// It was published after the subscription's end.
    AfterItsEnd,
    /// A queue subscription: at most once, and nothing is kept of it.
    NotKept,
    /// It is to be delivered.
    Pending,
    /// It was delivered: in flight, or settled before an event that was published earlier. The store does not tell which.
    Delivered,
    /// It was refused, and waits for its next attempt.
    WaitingForRetry,
    /// It is a dead letter.
    DeadLettered {
        /// The number of the letter.
        letter: u64,
    },
    /// It left the subscription: acknowledged, or a dead letter that was redriven or discarded since.
    Settled,
    /// The subscription was handed over to another place, which knows what became of the event.
    AtAnotherPlace {
        /// That place.
        place: PlaceName,
    },
    /// The subscription's consumer is not there, or the store does not answer for it.
    Unknown,
}

impl Fate {
    /// The state, as tables and JSON name it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::OtherPlace => "other-place",
            Self::OtherTenant => "other-tenant",
            Self::OtherType => "other-type",
            Self::LeftOut => "left-out",
            Self::BeforeItsStart => "before-its-start",
            Self::AfterItsEnd => "after-its-end",
            Self::NotKept => "not-kept",
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::WaitingForRetry => "waiting-for-retry",
            Self::DeadLettered { .. } => "dead-lettered",
            Self::Settled => "settled",
            Self::AtAnotherPlace { .. } => "at-another-place",
            Self::Unknown => "unknown",
        }
    }
}

/// An event as the log holds it.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Where it stands.
    pub position: Position,
    /// The other place where it was published; `None` for an event of this place.
    pub mirrored_from: Option<&'a PlaceName>,
    /// When it was stored, nanoseconds since the Unix epoch.
    pub published_at: Timestamp,
    /// Its tenant.
    pub tenant: &'a TenantId,
    /// Its type.
    pub event_type: &'a EventType,
    /// All of it; `None` of what is no event.
    pub event: Option<(&'a Attributes, &'a [u8])>,
}

/// What the store tells of an event at a subscription.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// The consumer that gives the event: up to which offset everything is settled, and the last that it delivered.
    pub consumer: Option<(u64, u64)>,
    /// The event waits for a retry.
    pub waits_for_retry: bool,
    /// The number of its dead letter.
    pub letter: Option<u64>,
    /// The store keeps how far the subscription has come. A queue subscription has that where the policy delivers at least
    /// once.
    pub keeps_a_place: bool,
}

/// Judges. What is certain (a letter, a retry) goes before what follows from positions.
pub fn fate(registered: &Registered, event: Stored<'_>, evidence: Evidence) -> Fate {
    let subscription = &registered.subscription;
    if let Some(letter) = evidence.letter {
        return Fate::DeadLettered { letter };
    }
    if evidence.waits_for_retry {
        return Fate::WaitingForRetry;
    }
    if subscription.is_of_its_place() && event.mirrored_from.is_some() {
        return Fate::OtherPlace;
    }
    if !subscription.filter.allows_tenant(event.tenant) {
        return Fate::OtherTenant;
    }
    if !subscription.filter.allows(event.tenant, event.event_type) {
        return Fate::OtherType;
    }
    let may_match = subscription.filter.may_match(event.tenant, event.event_type);
    if !may_match
        || event
            .event
            .is_some_and(|(event, data)| !subscription.filter.matches(event, data))
    {
        return Fate::LeftOut;
    }
    if let Some(place) = registered.moved_to() {
        return Fate::AtAnotherPlace { place: place.clone() };
    }
    let offset = event.position.offset;
    match registered.needs_now() {
        Need::Queue if !evidence.keeps_a_place => return Fate::NotKept,
        Need::Queue | Need::Durable if offset <= registered.head.of(event.position.partition) => {
            return Fate::BeforeItsStart;
        }
        Need::Backfill { start, end } => {
            let is_before = match start {
                Start::First => false,
                Start::Time(t) => event.published_at < t,
                Start::Position(p) => event.position < p,
            };
            if is_before {
                return Fate::BeforeItsStart;
            }
            if end.is_some_and(|end| end.is_before(event.position, event.published_at)) {
                return Fate::AfterItsEnd;
            }
        }
        Need::Queue | Need::Durable => {}
    }
    match evidence.consumer {
        // It has no consumer any more.
        _ if registered.progress == Progress::Finished => Fate::Settled,
        None => Fate::Unknown,
        Some((settled_to, _)) if offset <= settled_to => Fate::Settled,
        Some((_, delivered_to)) if offset > delivered_to => Fate::Pending,
        Some(_) => Fate::Delivered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::by_partition::ByPartition;
    use crate::partition::Layout;
    use crate::place::Scope;
    use crate::subscription::End;
    use crate::withheld::Withheld;

    /// A subscription to `invoice.*` of tenant acme, made when the log's last offset was 10.
    fn registered(need: Need) -> Registered {
        let written = r#"{"name":"billing","need":"durable","filter":{"tenants":["acme"],"event_types":["invoice.*"]},
            "reach":"handler","batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default",
            "made_by":"link","made_at":1,"head":{"0":10},"replayed":{},"progress":"replaying"}"#;
        let mut registered: Registered = serde_json::from_str(written).expect("a registration");
        registered.subscription.need = need;
        registered
    }

    fn judged(registered: &Registered, offset: u64, evidence: Evidence) -> Fate {
        judged_of(registered, ("acme", "invoice.paid"), offset, evidence)
    }

    fn judged_of(registered: &Registered, (tenant, event_type): (&str, &str), offset: u64, evidence: Evidence) -> Fate {
        let event = Stored {
            position: Position::undivided(offset),
            mirrored_from: None,
            published_at: Timestamp::from_nanoseconds(i64::try_from(offset).expect("a time")),
            tenant: &tenant.parse().expect("a tenant"),
            event_type: &event_type.parse().expect("a type"),
            event: None,
        };
        fate(registered, event, evidence)
    }

    fn come_to(settled_to: u64, delivered_to: u64) -> Evidence {
        Evidence {
            consumer: Some((settled_to, delivered_to)),
            ..Evidence::default()
        }
    }

    #[test]
    fn positions_tell_what_was_delivered() {
        let durable = registered(Need::Durable);
        for (offset, expected) in [
            (10, Fate::BeforeItsStart),
            (11, Fate::Settled),
            (15, Fate::Settled),
            (16, Fate::Delivered),
            (20, Fate::Delivered),
            (21, Fate::Pending),
        ] {
            assert_eq!(judged(&durable, offset, come_to(15, 20)), expected, "offset {offset}");
        }
        assert_eq!(judged(&durable, 11, Evidence::default()), Fate::Unknown);
        let again = durable
            .rewind(Start::First, &ByPartition::from_iter([(0, 30)]), &Layout::default())
            .expect("it keeps a place");
        assert_eq!(
            judged(&again, 10, come_to(0, 9)),
            Fate::Pending,
            "a rewind brings what lay before its start"
        );
    }

    #[test]
    fn a_filter_and_an_end_keep_events_away() {
        let durable = registered(Need::Durable);
        let of = |event| judged_of(&durable, event, 12, come_to(20, 20));
        assert_eq!(of(("globex", "invoice.paid")), Fate::OtherTenant);
        assert_eq!(of(("acme", "customer.created")), Fate::OtherType);
        let backfill = |start, end| registered(Need::Backfill { start, end });
        let until_20 = Some(End::Time(Timestamp::from_nanoseconds(20)));
        assert_eq!(
            judged(&backfill(Start::First, until_20), 20, come_to(30, 30)),
            Fate::AfterItsEnd
        );
        assert_eq!(
            judged(
                &backfill(Start::Time(Timestamp::from_nanoseconds(13)), None),
                12,
                come_to(30, 30)
            ),
            Fate::BeforeItsStart
        );
        let queue = registered(Need::Queue);
        assert_eq!(judged(&queue, 12, Evidence::default()), Fate::NotKept);
        let keeps_a_place = true;
        let at_least_once = |offset| {
            judged(
                &queue,
                offset,
                Evidence {
                    keeps_a_place,
                    ..come_to(15, 20)
                },
            )
        };
        assert_eq!((at_least_once(12), at_least_once(21)), (Fate::Settled, Fate::Pending));
        let mut finished = backfill(Start::First, until_20);
        finished.progress = Progress::Finished;
        assert_eq!(judged(&finished, 12, Evidence::default()), Fate::Settled);
    }

    #[test]
    fn what_was_published_at_another_place_is_no_event_of_a_subscription_of_its_own_place() {
        let shop: PlaceName = "shop".parse().expect("a place");
        let of = |registered: &Registered, mirrored_from, evidence| {
            let stored = Stored {
                position: Position::new(100_000, 12),
                mirrored_from,
                published_at: Timestamp::from_nanoseconds(12),
                tenant: &"acme".parse().expect("a tenant"),
                event_type: &"invoice.paid".parse().expect("a type"),
                event: None,
            };
            fate(registered, stored, evidence)
        };
        let everywhere = registered(Need::Durable);
        let mut here = everywhere.clone();
        here.subscription.scope = Scope::Here;
        let queue = registered(Need::Queue);
        // It has no consumer there: what nobody keeps for it is not unknown.
        for (registered, expected) in [
            (&everywhere, Fate::Unknown),
            (&here, Fate::OtherPlace),
            (&queue, Fate::OtherPlace),
        ] {
            assert_eq!(of(registered, Some(&shop), Evidence::default()), expected);
        }
        assert_eq!(of(&here, None, come_to(15, 20)), Fate::Settled);
        assert_eq!(of(&everywhere, Some(&shop), come_to(15, 20)), Fate::Settled);
        let mut moved = everywhere;
        moved.withheld = Some(Withheld::MovedTo(shop.clone()));
        let elsewhere = Fate::AtAnotherPlace { place: shop.clone() };
        assert_eq!(of(&moved, None, Evidence::default()), elsewhere);
        let letter = Some(7);
        let left = Evidence {
            letter,
            ..Evidence::default()
        };
        assert_eq!(
            of(&moved, None, left),
            Fate::DeadLettered { letter: 7 },
            "its letters stay"
        );
    }

    #[test]
    fn a_pattern_leaves_out_what_was_not_delivered() {
        let mut durable = registered(Need::Durable);
        let pattern = r#"{"type": ["invoice.paid"], "data": {"amount": [{"numeric": [">", 5]}]}}"#;
        let filter = durable.subscription.filter.clone();
        durable.subscription.filter = filter
            .with_pattern(Some(pattern.parse().expect("a pattern")))
            .expect("it can match");
        let of = |event_type: &str, data: &str, evidence| {
            let attributes = Attributes::try_from(crate::RawEvent {
                tenant: "acme".into(),
                event_type: event_type.into(),
                id: "evt_1".into(),
                source: "/webhooks/stripe".into(),
                ..crate::RawEvent::default()
            })
            .expect("an event");
            let stored = Stored {
                position: Position::undivided(12),
                mirrored_from: None,
                published_at: Timestamp::from_nanoseconds(12),
                tenant: attributes.tenant(),
                event_type: attributes.event_type(),
                event: Some((&attributes, data.as_bytes())),
            };
            fate(&durable, stored, evidence)
        };
        let evidence = come_to(20, 20);
        assert_eq!(of("invoice.paid", r#"{"amount": 6}"#, evidence), Fate::Settled);
        assert_eq!(of("invoice.paid", r#"{"amount": 5}"#, evidence), Fate::LeftOut);
        assert_eq!(of("invoice.paid", "6", evidence), Fate::LeftOut);
        assert_eq!(of("invoice.voided", r#"{"amount": 6}"#, evidence), Fate::LeftOut);
        let letter = Some(7);
        let failed = of("invoice.paid", "6", Evidence { letter, ..evidence });
        assert_eq!(
            failed,
            Fate::DeadLettered { letter: 7 },
            "it matched an earlier pattern"
        );
    }

    #[test]
    fn a_letter_and_a_retry_are_certain() {
        let durable = registered(Need::Durable);
        let evidence = come_to(20, 20);
        let letter = Some(7);
        assert_eq!(
            judged(&durable, 12, Evidence { letter, ..evidence }),
            Fate::DeadLettered { letter: 7 }
        );
        let waits_for_retry = true;
        assert_eq!(
            judged(
                &durable,
                12,
                Evidence {
                    waits_for_retry,
                    ..evidence
                }
            ),
            Fate::WaitingForRetry
        );
    }
}
