//! Whether an event is for a subscription, and if not, what stops it first.
//!
//! What a subscription asks for is judged as it is when an event comes: tenant, type, what its subscriber may have, pattern.
//! Deliberately absent: when it began and where it ends, and what became of an event (that is [`crate::fate`]).

use std::fmt;

use serde::Serialize;

use crate::pattern::{Mismatch, View};
use crate::subscription::Subscription;
use crate::{Attributes, Filter, PlaceName, Policy, authority};

/// What stops an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "at")]
pub enum Stop {
    /// The bus does not serve its tenant: it is not even published.
    Bus {
        /// What to look at.
        message: String,
    },
    /// The subscription is given what is published at its own place, and the event was published at another.
    Place {
        /// The place where it was published.
        published_at: PlaceName,
    },
    /// The subscription is not for its tenant.
    Tenant {
        /// The tenants that it is for.
        wanted: Vec<String>,
    },
    /// The subscription is not for its type.
    Type {
        /// The patterns of types that it is for.
        wanted: Vec<String>,
    },
    /// The policy does not let its subscriber have it.
    Grant {
        /// The setting that would have to allow it.
        message: String,
    },
    /// There is no such subscription: what the policy declares can't be had.
    Refused {
        /// Why.
        message: String,
    },
    /// The event pattern leaves it out.
    Pattern {
        /// The fields that stop it, one for each alternative.
        mismatches: Vec<Mismatch>,
    },
}

/// The most names that a line repeats.
const SHOWN: usize = 5;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let some = |names: &[String]| {
            let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            match names.len().saturating_sub(SHOWN) {
                0 => shown,
                more => format!("{shown} and {more} more"),
            }
        };
        match self {
            Self::Bus { message } | Self::Grant { message } | Self::Refused { message } => f.write_str(message),
            Self::Place { published_at } => write!(
                f,
                "it is given what is published at its own place, and the event was published at place {published_at}"
            ),
            Self::Tenant { wanted } => write!(f, "its tenants are {}", some(wanted)),
            Self::Type { wanted } => write!(f, "its event types are {}", some(wanted)),
            Self::Pattern { mismatches } => {
                let mismatches: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
                f.write_str(&mismatches.join("; or "))
            }
        }
    }
}

/// What stops an event on its way to a subscription; `None` if it is for it. `subscriber` is who is given the events, so far as
/// that is known; `mirrored_from` is the other place where the event was published, `None` for an event of this place.
pub fn why(
    policy: &Policy,
    subscription: &Subscription,
    subscriber: &str,
    mirrored_from: Option<&PlaceName>,
    event: &Attributes,
    data: &[u8],
) -> Option<Stop> {
    let (tenant, event_type) = (event.tenant(), event.event_type());
    if !policy.serves(tenant) {
        return Some(Stop::Bus {
            message: format!(
                "bus {} serves no tenant {tenant}: `tenants.allowed` names those that it serves",
                policy.bus
            ),
        });
    }
    if let Some(place) = mirrored_from.filter(|_| subscription.is_of_its_place()) {
        return Some(Stop::Place {
            published_at: place.clone(),
        });
    }
    let filter = &subscription.filter;
    if !filter.allows_tenant(tenant) {
        return Some(Stop::Tenant {
            wanted: filter.tenants.iter().map(ToString::to_string).collect(),
        });
    }
    if !filter.allows(tenant, event_type) {
        return Some(Stop::Type {
            wanted: filter.event_types.iter().map(ToString::to_string).collect(),
        });
    }
    // What a link grants, its manifest says; what a named caller may have, the policy.
    if let Some(caller) = policy.callers.by_id(subscriber)
        && let Some(setting) = forbids(&caller.subscribing.allows, event)
    {
        return Some(Stop::Grant {
            message: format!(
                "{} may not have it: {} does not allow it",
                authority::named(subscriber),
                authority::setting(subscriber, setting)
            ),
        });
    }
    let mismatches = filter.pattern()?.explain(View {
        event: event.raw(),
        data,
    })?;
    Some(Stop::Pattern { mismatches })
}

/// The setting of a caller that does not allow an event.
fn forbids(allowed: &Filter, event: &Attributes) -> Option<&'static str> {
    if !allowed.allows_tenant(event.tenant()) {
        Some("subscribe.tenants")
    } else if !allowed.allows(event.tenant(), event.event_type()) {
        Some("subscribe.event-types")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::place::Scope;
    use crate::subscription::Need;
    use crate::{Settings, SubscriptionName};

    const POLICY: &str = r#"
bus = "payments"
subject = "payments.{tenant}.webhook.{event-type}"
tenants.allowed = ["acme", "globex"]

[callers.billing]
unix-uid = 1000
subscribe = { tenants = ["acme"] }

[subscriptions.large]
need = "durable"
component = "caller:billing"
event-types = ["invoice.*"]
pattern = '''{ "data": { "amount": [{ "numeric": [">=", 100] }], "currency": ["eur"] } }'''

[subscriptions.of-globex]
need = "durable"
tenants = ["globex"]
"#;

    fn stops(subscription: &str, tenant: &str, event_type: &str, data: &str) -> String {
        let settings: Settings = Document::parse(POLICY).unwrap().settings;
        let policy = Policy::from_settings("policy.toml", &settings).unwrap();
        let name: SubscriptionName = subscription.parse().unwrap();
        let declared = &policy.subscriptions[&name];
        let event = Attributes::try_from(crate::RawEvent {
            tenant: tenant.into(),
            event_type: event_type.into(),
            id: "evt_1".into(),
            source: "/webhooks/stripe".into(),
            ..crate::RawEvent::default()
        });
        let subscriber = declared.component.clone().unwrap_or_default();
        let subscription = declared.subscription(&name, &policy);
        why(
            &policy,
            &subscription,
            &subscriber,
            None,
            &event.unwrap(),
            data.as_bytes(),
        )
        .map_or_else(String::new, |stop| stop.to_string())
    }

    #[test]
    fn the_first_thing_that_stops_an_event_is_named() {
        let large = r#"{"amount": 100, "currency": "eur"}"#;
        assert_eq!(stops("large", "acme", "invoice.paid", large), "");
        for (subscription, tenant, event_type, data, says) in [
            (
                "large",
                "initech",
                "invoice.paid",
                large,
                "bus payments serves no tenant initech",
            ),
            ("of-globex", "acme", "invoice.paid", large, "its tenants are globex"),
            ("large", "acme", "charge.failed", large, "its event types are invoice.*"),
            (
                "large",
                "globex",
                "invoice.paid",
                large,
                "`callers.billing.subscribe.tenants` does not allow it",
            ),
            (
                "large",
                "acme",
                "invoice.paid",
                r#"{"amount": 99, "currency": "eur"}"#,
                "`/data/amount` is 99",
            ),
            (
                "large",
                "acme",
                "invoice.paid",
                r#"{"amount": 100}"#,
                "`/data/currency` is not there",
            ),
            ("large", "acme", "invoice.paid", "no JSON", "the payload is no JSON"),
        ] {
            let said = stops(subscription, tenant, event_type, data);
            assert!(said.contains(says), "{said:?} says not {says:?}");
        }
    }
    #[test]
    fn what_was_published_at_another_place_is_for_no_subscription_of_its_own_place() {
        let settings: Settings = Document::parse(POLICY).unwrap().settings;
        let policy = Policy::from_settings("policy.toml", &settings).unwrap();
        let name: SubscriptionName = "of-globex".parse().unwrap();
        let everywhere = policy.subscriptions[&name].subscription(&name, &policy);
        let here = Subscription {
            scope: Scope::Here,
            ..everywhere.clone()
        };
        let queue = Subscription {
            need: Need::Queue,
            ..everywhere.clone()
        };
        let event = Attributes::try_from(crate::RawEvent {
            tenant: "globex".into(),
            event_type: "invoice.paid".into(),
            id: "evt_1".into(),
            source: "/webhooks/stripe".into(),
            ..crate::RawEvent::default()
        })
        .unwrap();
        let shop: PlaceName = "shop".parse().unwrap();
        let stops = |subscription, place| why(&policy, subscription, "", place, &event, b"");
        for (subscription, is_of_its_place) in [(&everywhere, false), (&here, true), (&queue, true)] {
            assert_eq!(stops(subscription, None), None);
            let published_at = shop.clone();
            let expected = is_of_its_place.then_some(Stop::Place { published_at });
            assert_eq!(stops(subscription, Some(&shop)), expected);
        }
    }
}
