//! What an event adds to the reports.

use component_support::{
    batch,
    delivery::{Delivery, Rejection},
    key,
    store::{Entry, KeyValue},
    stripe::StripeEvent,
};
use serde::{Deserialize, Serialize};

/// What is kept of one event. Its subscription, day, tenant, type, source and id are in its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The currency in lower case, if the event is about money.
    pub currency: Option<String>,
    /// The amount in the currency's smallest unit, if the event is about money.
    pub amount: Option<i64>,
    /// Whether it came from history.
    pub origin: Origin,
}

/// Whether an event was in the log before its subscription asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was.
    Replayed,
    /// It was published after.
    Live,
}

/// The first segment of every fact's key.
pub(crate) const EVENTS: &str = "events";

/// Keeps the facts of a batch. One result for each delivery, in order.
pub fn handle(store: &impl KeyValue, deliveries: &[Delivery<'_>]) -> Vec<Result<(), Rejection>> {
    batch::write(store, deliveries.iter().map(entry).collect())
}

fn entry(delivery: &Delivery<'_>) -> Result<Entry, Rejection> {
    let value = serde_json::to_vec(&Fact::of(delivery)).map_err(|error| Rejection::DeadLetter(error.to_string()))?;
    let day = delivery.day();
    let key = key::join(&[
        EVENTS,
        delivery.subscription,
        &day,
        delivery.tenant,
        delivery.event_type,
        delivery.source,
        delivery.id,
    ]);
    Ok((key, value))
}

impl Fact {
    /// Reads an event. One that is not about money, or not even JSON, still counts.
    pub fn of(delivery: &Delivery<'_>) -> Self {
        let event = StripeEvent::parse(delivery.data).ok();
        let event = event.as_ref();
        let currency = event
            .and_then(|event| event.text("/currency"))
            .map(str::to_ascii_lowercase);
        let amount = event.and_then(|event| event.integer("/amount_paid").or_else(|| event.integer("/amount")));
        Self {
            currency,
            amount,
            origin: if delivery.replayed {
                Origin::Replayed
            } else {
                Origin::Live
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    fn delivery<'a>(id: &'a str, data: &'a str) -> Delivery<'a> {
        Delivery {
            subscription: "late",
            tenant: "acme",
            event_type: "invoice.paid",
            id,
            source: "/webhooks/stripe",
            time: Some(1_767_225_600_000_000_000),
            published_at: 0,
            replayed: true,
            data: data.as_bytes(),
        }
    }

    #[test]
    fn an_event_about_money_has_an_amount() {
        for (data, currency, amount) in [
            (
                r#"{"data": {"object": {"currency": "EUR", "amount_paid": 5, "amount": 7}}}"#,
                Some("eur"),
                Some(5),
            ),
            (
                r#"{"data": {"object": {"currency": "usd", "amount": 7}}}"#,
                Some("usd"),
                Some(7),
            ),
            (r#"{"data": {"object": {"customer": "cus_1"}}}"#, None, None),
            ("not json", None, None),
        ] {
            let fact = Fact::of(&delivery("e", data));
            assert_eq!((fact.currency.as_deref(), fact.amount), (currency, amount), "{data}");
        }
    }

    #[test]
    fn an_event_is_one_entry_however_often_it_comes() {
        let store = MemoryStore::default();
        let twice = [
            delivery("evt/1", "{}"),
            delivery("evt/1", "{}"),
            delivery("evt_2", "{}"),
        ];
        assert_eq!(handle(&store, &twice), [Ok(()), Ok(()), Ok(())]);
        assert_eq!(handle(&store, &twice[..1]), [Ok(())]);
        let of_another_source = Delivery {
            source: "/webhooks/partners",
            ..twice[0]
        };
        assert_eq!(handle(&store, &[of_another_source]), [Ok(())]);
        let entries = store.dump();
        assert_eq!(entries.len(), 3);
        assert_eq!(
            entries["events/late/2026-01-01/acme/invoice.paid/=2Fwebhooks=2Fstripe/evt=2F1"],
            r#"{"currency":null,"amount":null,"origin":"replayed"}"#
        );
    }

    #[test]
    fn a_failing_store_asks_for_a_retry() {
        let store = MemoryStore::default();
        store.fail();
        assert!(matches!(
            handle(&store, &[delivery("e", "{}")])[..],
            [Err(Rejection::Retry(_))]
        ));
    }
}
