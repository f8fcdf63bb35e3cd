//! How often each event was handled.
//!
//! A queue subscription promises at most once. With the audit on, each handled event is counted in the store, so that
//! anyone can see that none was handled twice.

use std::collections::BTreeMap;

use component_support::{
    delivery::Delivery,
    key,
    store::{self, KeyValue, StoreError},
};
use serde::Serialize;

const HANDLED: &str = "handled";

/// What was handled, for each tenant.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Audit {
    tenants: BTreeMap<String, Count>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Count {
    /// Different events.
    events: u64,
    /// Those of them that were handled more than once.
    handled_twice: u64,
}

/// Counts one handling of an event.
pub fn record(store: &impl KeyValue, delivery: &Delivery<'_>) -> Result<(), StoreError> {
    let key = key::join(&[HANDLED, delivery.tenant, delivery.source, delivery.id]);
    store.increment(&key, 1).map(drop)
}

/// Reads all counts.
pub fn read(store: &impl KeyValue) -> Result<Audit, StoreError> {
    let mut tenants = BTreeMap::<String, Count>::new();
    for (key, value) in store::entries_under(store, &key::prefix(&[HANDLED]))? {
        let segments = key::split(&key).and_then(|segments| <[String; 4]>::try_from(segments).ok());
        let Some([_, tenant, _, _]) = segments else {
            continue;
        };
        let count = tenants.entry(tenant).or_default();
        count.events += 1;
        count.handled_twice += u64::from(times(store, &key, &value)? > 1);
    }
    Ok(Audit { tenants })
}

/// The stores that were seen keep a counter as decimal text; how is not part of `wasi:keyvalue`, but adding 0 always
/// gives the number.
fn times(store: &impl KeyValue, key: &str, value: &[u8]) -> Result<u64, StoreError> {
    match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
        Some(times) => Ok(times),
        None => store.increment(key, 0),
    }
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    #[test]
    fn handlings_are_counted_for_each_tenant() {
        let store = MemoryStore::with_page_size(2);
        store.set("acme/cus_1", b"{}").unwrap();
        store
            .set("handled/acme", b"a customer called acme of the tenant `handled`")
            .unwrap();
        for (tenant, source, id) in [
            ("acme", "s", "evt_1"),
            ("acme", "s", "evt_2"),
            ("acme", "s", "evt/2"),
            ("acme", "s", "evt_2"),
            ("acme", "other", "evt_1"),
            ("b", "s", "e"),
        ] {
            let delivery = Delivery {
                subscription: "entitlements",
                tenant,
                event_type: "customer.subscription.updated",
                id,
                source,
                time: None,
                published_at: 0,
                replayed: false,
                data: b"",
            };
            record(&store, &delivery).unwrap();
        }
        let audit = serde_json::to_string(&read(&store).unwrap()).unwrap();
        assert_eq!(
            audit,
            r#"{"tenants":{"acme":{"events":4,"handled_twice":1},"b":{"events":1,"handled_twice":0}}}"#
        );
    }

    #[test]
    fn a_counter_in_another_form_is_read_by_adding_nothing() {
        let store = MemoryStore::default();
        store.increment("k", 3).unwrap();
        assert_eq!(times(&store, "k", b"2"), Ok(2));
        assert_eq!(times(&store, "k", b"\x02\0\0\0\0\0\0\0"), Ok(3));
    }
}
