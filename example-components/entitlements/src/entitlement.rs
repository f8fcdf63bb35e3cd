//! What a customer is entitled to.

use component_support::{
    delivery::{Delivery, Rejection},
    key,
    store::{KeyValue, StoreError},
    stripe::StripeEvent,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What a customer is entitled to, as of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlement {
    /// The plan: the price's lookup key, or its id, or the id of the plan.
    pub plan: Option<String>,
    /// The subscription's status, as Stripe names it.
    pub status: String,
    /// Whether the customer may use the plan now.
    pub entitled: bool,
    /// The event that said so.
    pub event_id: String,
    /// When that event happened.
    pub time: Timestamp,
}

/// What an event did to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is what the cache says now.
    Written,
    /// The cache knows of a newer event.
    Outdated,
}

/// Brings the cache up to date with an event, unless it knows of a newer one.
///
/// Events of the same second are taken in the order in which they come: Stripe's `created` does not tell them apart.
pub fn apply(store: &impl KeyValue, delivery: &Delivery<'_>) -> Result<Outcome, Rejection> {
    let (customer, entitlement) = read_event(delivery)?;
    let outcome = write(store, delivery.tenant, &customer, &entitlement);
    outcome.map_err(|error| Rejection::Retry(error.to_string()))
}

/// What the cache says of a customer.
pub fn find(store: &impl KeyValue, tenant: &str, customer: &str) -> Result<Option<Entitlement>, StoreError> {
    let entry = store.get(&key::join(&[tenant, customer]))?;
    // What can't be read counts as absent: the customer's next event replaces it.
    Ok(entry.and_then(|value| serde_json::from_slice(&value).ok()))
}

fn write(
    store: &impl KeyValue,
    tenant: &str,
    customer: &str,
    entitlement: &Entitlement,
) -> Result<Outcome, StoreError> {
    if find(store, tenant, customer)?.is_some_and(|known| known.time > entitlement.time) {
        return Ok(Outcome::Outdated);
    }
    let value = serde_json::to_vec(entitlement).map_err(|error| StoreError::Failed(error.to_string()))?;
    store.set(&key::join(&[tenant, customer]), &value)?;
    Ok(Outcome::Written)
}

fn read_event(delivery: &Delivery<'_>) -> Result<(String, Entitlement), Rejection> {
    let no_subscription = |what: &str| Rejection::DeadLetter(format!("no subscription: {what}"));
    let event = StripeEvent::parse(delivery.data).map_err(|error| no_subscription(&error.to_string()))?;
    let customer = event
        .text("/customer")
        .ok_or_else(|| no_subscription("data.object.customer is missing"))?;
    let status = event
        .text("/status")
        .ok_or_else(|| no_subscription("data.object.status is missing"))?;
    let plan = ["/items/data/0/price/lookup_key", "/items/data/0/price/id", "/plan/id"]
        .into_iter()
        .find_map(|pointer| event.text(pointer));
    let deleted = delivery.event_type.ends_with(".deleted");
    let entitlement = Entitlement {
        plan: plan.map(str::to_owned),
        status: status.to_owned(),
        entitled: matches!(status, "active" | "trialing") && !deleted,
        event_id: delivery.id.to_owned(),
        time: event.created().unwrap_or_else(|| delivery.happened_at()),
    };
    Ok((customer.to_owned(), entitlement))
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const CREATED: i64 = 1_767_225_600;

    fn subscription(status: &str, created: i64) -> Value {
        json!({"created": created, "data": {"object": {
            "customer": "cus_1",
            "status": status,
            "items": {"data": [{"price": {"id": "price_1", "lookup_key": "pro"}}]},
            "plan": {"id": "plan_1"},
        }}})
    }

    fn handle(store: &MemoryStore, kind: &str, id: &str, data: &Value) -> Result<Outcome, Rejection> {
        let event_type = format!("customer.subscription.{kind}");
        let data = data.to_string();
        let delivery = Delivery {
            subscription: "entitlements",
            tenant: "acme",
            event_type: &event_type,
            id,
            source: "/webhooks/stripe",
            time: None,
            published_at: 5_000_000_000,
            replayed: false,
            data: data.as_bytes(),
        };
        apply(store, &delivery)
    }

    fn now(store: &MemoryStore) -> Entitlement {
        find(store, "acme", "cus_1").unwrap().unwrap()
    }

    #[test]
    fn an_active_subscription_entitles() {
        let store = MemoryStore::default();
        assert_eq!(
            handle(&store, "created", "evt_1", &subscription("active", CREATED)),
            Ok(Outcome::Written)
        );
        assert_eq!(
            store.dump()["acme/cus_1"],
            r#"{"plan":"pro","status":"active","entitled":true,"event_id":"evt_1","time":"2026-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn only_an_active_or_trialing_subscription_that_is_not_deleted_entitles() {
        for (status, kind, entitled) in [
            ("active", "updated", true),
            ("trialing", "created", true),
            ("past_due", "updated", false),
            ("canceled", "deleted", false),
            ("active", "deleted", false),
        ] {
            let store = MemoryStore::default();
            handle(&store, kind, "evt_1", &subscription(status, CREATED)).unwrap();
            assert_eq!(now(&store).entitled, entitled, "{status} {kind}");
        }
    }

    #[test]
    fn the_plan_is_the_lookup_key_or_the_price_or_the_plan() {
        let mut data = subscription("active", CREATED);
        for (forget, plan) in [
            ("/items/data/0/price/lookup_key", Some("price_1")),
            ("/items/data/0/price/id", Some("plan_1")),
            ("/plan/id", None),
        ] {
            *data.pointer_mut(&format!("/data/object{forget}")).unwrap() = Value::Null;
            let store = MemoryStore::default();
            handle(&store, "updated", "evt_1", &data).unwrap();
            assert_eq!(now(&store).plan.as_deref(), plan);
        }
    }

    #[test]
    fn an_older_event_never_overwrites_a_newer_one() {
        let store = MemoryStore::default();
        handle(&store, "deleted", "evt_2", &subscription("canceled", CREATED + 1)).unwrap();
        let late = handle(&store, "created", "evt_1", &subscription("active", CREATED));
        assert_eq!(late, Ok(Outcome::Outdated));
        assert_eq!(now(&store).event_id, "evt_2");
        let same_second = handle(&store, "updated", "evt_3", &subscription("active", CREATED + 1));
        assert_eq!(same_second, Ok(Outcome::Written));
    }

    #[test]
    fn without_a_time_of_its_own_the_event_has_that_of_its_publication() {
        let store = MemoryStore::default();
        let mut data = subscription("active", CREATED);
        data["created"] = Value::Null;
        handle(&store, "updated", "evt_1", &data).unwrap();
        assert_eq!(now(&store).time.as_second(), 5);
    }

    #[test]
    fn what_is_no_subscription_is_dead_lettered_with_what_is_missing() {
        let reason = |data: &Value| match handle(&MemoryStore::default(), "updated", "evt_1", data) {
            Err(Rejection::DeadLetter(reason)) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            reason(&json!({})),
            "no subscription: the data has no object at data.object"
        );
        let mut data = subscription("active", CREATED);
        data["data"]["object"]["customer"] = Value::Null;
        assert_eq!(reason(&data), "no subscription: data.object.customer is missing");
        let data = subscription("", CREATED);
        assert_eq!(reason(&data), "no subscription: data.object.status is missing");
    }

    #[test]
    fn a_failing_store_asks_for_a_retry() {
        let store = MemoryStore::default();
        store.fail();
        let outcome = handle(&store, "updated", "evt_1", &subscription("active", CREATED));
        assert!(matches!(outcome, Err(Rejection::Retry(_))), "{outcome:?}");
    }

    proptest! {
        #[test]
        fn in_any_order_the_newest_event_stays(mut times in prop::collection::vec(0..1_000_i64, 1..20)) {
            let store = MemoryStore::default();
            for time in &times {
                handle(&store, "updated", "evt", &subscription("active", *time)).unwrap();
            }
            times.sort_unstable();
            prop_assert_eq!(now(&store).time.as_second(), times[times.len() - 1]);
        }
    }
}
