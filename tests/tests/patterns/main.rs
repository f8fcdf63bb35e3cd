//! Event patterns in subscriptions: what matches is delivered, what does not is not, by every way there is; and a pattern
//! that is not legal is refused wherever one may be given.

mod changed;
mod deliveries;
mod files;
mod heavy;
mod isolation;
mod queue_fetched;
mod refused;
mod tails;

use fanout_tests::types::{DeliveryOptions, Event, Filter, Reach};
use fanout_tests::{Component, event, every_event};

/// Large amounts, in a type of which there are other events, too.
const LARGE: &str = r#"{ "type": ["invoice.paid"], "data": { "amount": [{ "numeric": [">=", 90] }] } }"#;

/// An event whose payload says an amount.
fn of_amount(tenant: &str, id: &str, amount: usize) -> Event {
    Event {
        data: format!(r#"{{"id": "{id}", "amount": {amount}}}"#).into(),
        ..event(tenant, "invoice.paid", id)
    }
}

/// Publishes numbered events of two tenants, of which each tenth has a large amount, and others that look like them. Returns
/// the ids of those that [`LARGE`] matches, in their order.
async fn publish(ingress: &Component, numbers: std::ops::Range<usize>) -> Vec<String> {
    let mut large = Vec::new();
    for i in numbers {
        for tenant in ["acme", "globex"] {
            let id = format!("{tenant}-{i:03}");
            let amount = if i % 10 == 3 { 90 + i } else { i % 90 };
            ingress.publish(of_amount(tenant, &id, amount)).await.unwrap();
            if amount >= 90 {
                large.push(id);
            }
        }
        if i % 10 == 3 {
            for unlike in [
                // Of another type, no JSON, an amount that is a text, and none.
                Event {
                    event_type: "invoice.voided".into(),
                    ..of_amount("acme", &format!("voided-{i:03}"), 1_000)
                },
                Event {
                    data: "amount: 1000".into(),
                    ..event("acme", "invoice.paid", &format!("plain-{i:03}"))
                },
                Event {
                    data: r#"{"amount": "1000"}"#.into(),
                    ..event("acme", "invoice.paid", &format!("text-{i:03}"))
                },
                event("acme", "invoice.paid", &format!("none-{i:03}")),
            ] {
                ingress.publish(unlike).await.unwrap();
            }
        }
    }
    large
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn with_pattern(reach: Reach, pattern: &str) -> DeliveryOptions {
    DeliveryOptions {
        filter: Filter {
            tenants: vec![],
            event_types: vec![],
            pattern: Some(pattern.to_owned()),
        },
        reach,
        ..every_event()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_matches_is_delivered_and_nothing_else() {
    deliveries::by_every_way(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_order_too() {
    deliveries::by_every_way(&[("ordering", "tenant")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_log_of_partitions_too() {
    deliveries::by_every_way(&[("topology", "sharded(3)"), ("queue.delivery", "at-least-once")]).await;
}
