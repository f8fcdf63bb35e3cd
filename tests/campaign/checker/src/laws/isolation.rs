//! Who is given what.

use crate::Facts;

/// A delivery is one of an event that somebody published, as it was meant: of a tenant and a type that the subscription
/// asked for, to the caller whose subscription it is, with the type, key and payload that were sent.
///
/// This holds for the log and for dead letters too: they have no event that nobody published, and none with another's
/// payload.
pub(super) fn isolation(facts: &Facts<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    for delivery in facts.deliveries.values() {
        let (name, id) = (delivery.subscription, &delivery.event.id);
        match facts.subscriptions.get(name) {
            None => broken.push(format!("{id} was given to {name}, which nobody asked for")),
            Some(made) => {
                if made.wanted.caller != delivery.caller {
                    broken.push(format!("{id} of {name} was given to {}", delivery.caller));
                }
                if !made.matches(delivery.event) {
                    broken.push(format!("{id} was given to {name}, whose filter does not match it"));
                }
            }
        }
    }
    let delivered = facts.deliveries.values().map(|d| ("delivered", d.event));
    let stored = facts.stored.values().flatten().map(|s| ("stored", s.event));
    let dead = facts.letters.iter().map(|l| ("dead-lettered", l.event));
    for (how, event) in delivered.chain(stored).chain(dead) {
        match facts.meant.get(&event.id) {
            None => broken.push(format!("{} was {how}, and nobody published it", event.id)),
            Some((_, meant)) if *meant != event => {
                broken.push(format!("{} was {how} otherwise than it was published", event.id));
            }
            Some(_) => {}
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Need;
    use crate::testing::{Told, broken, event};

    #[test]
    fn an_event_of_another_tenant_breaks_it() {
        let mut told = Told::durable();
        told.publish_event(&event("globex", "e1"), None);
        told.delivered_event("billing", "billing", &event("globex", "e1"));
        assert_eq!(
            broken(isolation, &told),
            ["e1 of globex/p was given to billing, whose filter does not match it"]
        );
    }

    #[test]
    fn so_does_another_caller_and_an_event_that_nobody_sent_and_one_with_anothers_payload() {
        let mut told = Told::durable();
        told.published("e1", 1);
        told.delivered_event("billing", "audit", &event("acme", "e1"));
        assert_eq!(broken(isolation, &told), ["e1 of acme/p of billing was given to audit"]);
        let mut told = Told::durable();
        told.delivered_event("billing", "billing", &event("acme", "e1"));
        assert_eq!(
            broken(isolation, &told),
            ["e1 of acme/p was delivered, and nobody published it"]
        );
        let mut told = Told::durable();
        told.published("e1", 1);
        let other = crate::history::Event {
            digest: 0,
            ..event("acme", "e1")
        };
        told.delivered_event("billing", "billing", &other);
        assert_eq!(
            broken(isolation, &told),
            ["e1 of acme/p was delivered otherwise than it was published"]
        );
    }

    #[test]
    fn one_without_a_receipt_may_come_and_all_tenants_are_all() {
        let mut told = Told::durable();
        told.subscribed_to("audit", Need::Durable, &[]);
        told.publish_event(&event("globex", "e1"), None);
        told.delivered_event("audit", "audit", &event("globex", "e1"));
        assert_eq!(broken(isolation, &told), [""; 0]);
    }
}
