//! Many deliveries into the store.

use component_support::{
    batch,
    delivery::{Delivery, Rejection},
    store::{Entry, KeyValue},
};

use crate::line::{self, Line};

/// Writes the lines of a batch. One result for each delivery, in order; one that is rejected already stays so.
pub fn handle<'a>(
    store: &impl KeyValue,
    deliveries: impl IntoIterator<Item = Result<Delivery<'a>, Rejection>>,
) -> Vec<Result<(), Rejection>> {
    let entry = |delivery: Result<Delivery<'_>, Rejection>| entry(&delivery?);
    batch::write(store, deliveries.into_iter().map(entry).collect())
}

fn entry(delivery: &Delivery<'_>) -> Result<Entry, Rejection> {
    let line = Line::of(delivery)?;
    let value = serde_json::to_vec(&line).map_err(|error| Rejection::DeadLetter(error.to_string()))?;
    Ok((line::key(delivery), value))
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    fn delivery<'a>(id: &'a str, data: &'a str) -> Delivery<'a> {
        Delivery {
            subscription: "invoicing",
            tenant: "acme",
            event_type: "invoice.paid",
            id,
            source: "/webhooks/stripe",
            time: None,
            published_at: 0,
            replayed: false,
            data: data.as_bytes(),
        }
    }

    const GOOD: &str = r#"{"data": {"object": {"id": "in_1", "currency": "eur", "amount_paid": 5}}}"#;
    const LATER: &str = r#"{"data": {"object": {"id": "in_1", "currency": "xts", "amount_paid": 5}}}"#;
    const NEVER: &str = r#"{"data": {"object": {"id": "in_1", "currency": "eur"}}}"#;

    #[test]
    fn each_delivery_is_answered_for_itself_and_in_order() {
        let store = MemoryStore::default();
        let deliveries = [("a", GOOD), ("b", LATER), ("c", GOOD), ("d", NEVER), ("e/1", GOOD)];
        let results = handle(&store, deliveries.map(|(id, data)| Ok(delivery(id, data))));
        assert_eq!(results[0], Ok(()));
        assert_eq!(results[1], Err(Rejection::Retry("no exchange rate for XTS".to_owned())));
        assert_eq!(results[2], Ok(()));
        assert!(matches!(&results[3], Err(Rejection::DeadLetter(_))));
        assert_eq!(results[4], Ok(()));
        assert_eq!(
            Vec::from_iter(store.dump().into_keys()),
            [
                "lines/acme/=2Fwebhooks=2Fstripe/a",
                "lines/acme/=2Fwebhooks=2Fstripe/c",
                "lines/acme/=2Fwebhooks=2Fstripe/e=2F1"
            ]
        );
    }

    #[test]
    fn two_sources_have_a_line_each_for_one_id() {
        let store = MemoryStore::default();
        let data = GOOD;
        let of_another_source = Delivery {
            source: "/webhooks/partners",
            ..delivery("a", data)
        };
        let results = handle(
            &store,
            [Ok(delivery("a", data)), Ok(of_another_source), Ok(delivery("a", data))],
        );
        assert_eq!(results, [Ok(()), Ok(()), Ok(())]);
        assert_eq!(store.dump().len(), 2);
    }

    #[test]
    fn what_was_rejected_before_is_not_written() {
        let store = MemoryStore::default();
        let rejected = || Rejection::DeadLetter("not proven".to_owned());
        let results = handle(&store, [Err(rejected()), Ok(delivery("b", GOOD))]);
        assert_eq!(results, [Err(rejected()), Ok(())]);
        assert_eq!(
            Vec::from_iter(store.dump().into_keys()),
            ["lines/acme/=2Fwebhooks=2Fstripe/b"]
        );
    }

    #[test]
    fn an_event_that_comes_again_is_one_line() {
        let store = MemoryStore::default();
        assert_eq!(
            handle(&store, [Ok(delivery("a", GOOD)), Ok(delivery("a", GOOD))]),
            [Ok(()), Ok(())]
        );
        let before = store.dump();
        assert_eq!(handle(&store, [Ok(delivery("a", GOOD))]), [Ok(())]);
        assert_eq!(store.dump(), before);
        assert_eq!(before.len(), 1);
    }
}
