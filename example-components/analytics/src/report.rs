//! Counts and sums of a subscription's events.

use std::collections::BTreeMap;

use component_support::{
    key,
    store::{self, KeyValue, StoreError},
};
use serde::Serialize;

use crate::{
    caught_up::{self, CaughtUp},
    fact::{EVENTS, Fact, Origin},
};

/// What a subscription has seen.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    subscription: String,
    caught_up: Option<CaughtUp>,
    /// Events that came from history.
    replayed: u64,
    /// Events that came live.
    live: u64,
    /// By tenant, then type, then day.
    rows: Vec<Row>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    tenant: String,
    #[serde(rename = "type")]
    event_type: String,
    day: String,
    count: u64,
    /// By currency, in its smallest unit. Wider than an amount, so that a sum does not overflow.
    sums: BTreeMap<String, i128>,
}

impl Report {
    /// Counts a subscription's entries.
    pub fn read(store: &impl KeyValue, subscription: &str) -> Result<Self, StoreError> {
        let mut report = Self {
            subscription: subscription.to_owned(),
            caught_up: caught_up::find(store, subscription)?,
            replayed: 0,
            live: 0,
            rows: Vec::new(),
        };
        let mut rows = BTreeMap::<_, Row>::new();
        for (key, value) in store::entries_under(store, &key::prefix(&[EVENTS, subscription]))? {
            let place = key::split(&key).and_then(|segments| <[String; 7]>::try_from(segments).ok());
            let fact = serde_json::from_slice::<Fact>(&value);
            let (Some([_, _, day, tenant, event_type, _, _]), Ok(fact)) = (place, fact) else {
                return Err(StoreError::Failed(format!("the entry {key} is no event")));
            };
            match fact.origin {
                Origin::Replayed => report.replayed += 1,
                Origin::Live => report.live += 1,
            }
            let place = (tenant.clone(), event_type.clone(), day.clone());
            let row = rows.entry(place).or_insert_with(|| Row {
                tenant,
                event_type,
                day,
                count: 0,
                sums: BTreeMap::new(),
            });
            row.add(fact);
        }
        report.rows = rows.into_values().collect();
        Ok(report)
    }
}

impl Row {
    fn add(&mut self, fact: Fact) {
        self.count += 1;
        if let (Some(currency), Some(amount)) = (fact.currency, fact.amount) {
            *self.sums.entry(currency).or_default() += i128::from(amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;
    use jiff::Timestamp;

    use super::*;

    fn fact(currency: Option<&str>, amount: Option<i64>, origin: Origin) -> Vec<u8> {
        serde_json::to_vec(&Fact {
            currency: currency.map(str::to_owned),
            amount,
            origin,
        })
        .unwrap()
    }

    #[test]
    fn entries_are_counted_by_tenant_type_and_day() {
        let store = MemoryStore::with_page_size(2);
        let eur = |amount| fact(Some("eur"), Some(amount), Origin::Replayed);
        for (key, value) in [
            ("events/late/2026-01-01/b/invoice.paid/s/1", eur(5)),
            ("events/late/2026-01-01/a/invoice.paid/s/2", eur(i64::MAX)),
            ("events/late/2026-01-01/a/invoice.paid/s/3", eur(i64::MAX)),
            (
                "events/late/2026-01-01/a/invoice.paid/s/4",
                fact(Some("usd"), Some(-1), Origin::Live),
            ),
            ("events/late/2026-01-02/a/invoice.paid/s/5", eur(1)),
            (
                "events/late/2026-01-01/a/customer.created/s/6",
                fact(None, None, Origin::Live),
            ),
            ("events/later/2026-01-01/a/invoice.paid/s/7", eur(1)),
        ] {
            store.set(key, &value).unwrap();
        }
        let caught_up = CaughtUp {
            at: Timestamp::UNIX_EPOCH,
            replayed: 4,
            finished: true,
        };
        caught_up::record(&store, "late", &caught_up).unwrap();

        let report = serde_json::to_string(&Report::read(&store, "late").unwrap()).unwrap();
        let expected = concat!(
            r#"{"subscription":"late","caught_up":{"at":"1970-01-01T00:00:00Z","replayed":4,"finished":true},"#,
            r#""replayed":4,"live":2,"rows":["#,
            r#"{"tenant":"a","type":"customer.created","day":"2026-01-01","count":1,"sums":{}},"#,
            r#"{"tenant":"a","type":"invoice.paid","day":"2026-01-01","count":3,"sums":{"eur":18446744073709551614,"usd":-1}},"#,
            r#"{"tenant":"a","type":"invoice.paid","day":"2026-01-02","count":1,"sums":{"eur":1}},"#,
            r#"{"tenant":"b","type":"invoice.paid","day":"2026-01-01","count":1,"sums":{"eur":5}}]}"#,
        );
        assert_eq!(report, expected);
    }

    #[test]
    fn a_subscription_that_saw_nothing_has_an_empty_report() {
        let report = serde_json::to_string(&Report::read(&MemoryStore::default(), "x").unwrap()).unwrap();
        assert_eq!(
            report,
            r#"{"subscription":"x","caught_up":null,"replayed":0,"live":0,"rows":[]}"#
        );
    }

    #[test]
    fn a_foreign_entry_is_named() {
        let store = MemoryStore::default();
        store.set("events/late/stray", b"{}").unwrap();
        let error = Report::read(&store, "late").unwrap_err().to_string();
        assert!(error.contains("events/late/stray"), "{error}");
    }
}
