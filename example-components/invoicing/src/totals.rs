//! Lines and sums for each tenant.

use std::collections::BTreeMap;

use component_support::{
    key,
    store::{self, KeyValue, StoreError},
};
use serde::Serialize;

use crate::line::{LINES, Line};

/// Lines and sums for each tenant.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    tenants: BTreeMap<String, Total>,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Total {
    lines: u64,
    /// By currency, in its smallest unit. Wider than a line's amount, so that a sum does not overflow.
    amounts: BTreeMap<String, i128>,
}

impl Totals {
    /// Reads the lines of one tenant, or of all.
    pub fn read(store: &impl KeyValue, tenant: Option<&str>) -> Result<Self, StoreError> {
        let prefix = match tenant {
            Some(tenant) => key::prefix(&[LINES, tenant]),
            None => key::prefix(&[LINES]),
        };
        let mut totals = Self::default();
        for (key, value) in store::entries_under(store, &prefix)? {
            let tenant = key::split(&key).and_then(|segments| segments.into_iter().nth(1));
            let line = serde_json::from_slice::<Line>(&value);
            let (Some(tenant), Ok(line)) = (tenant, line) else {
                return Err(StoreError::Failed(format!("the entry {key} is no invoice line")));
            };
            totals.tenants.entry(tenant).or_default().add(&line);
        }
        Ok(totals)
    }
}

impl Total {
    fn add(&mut self, line: &Line) {
        self.lines += 1;
        *self.amounts.entry(line.currency.clone()).or_default() += i128::from(line.amount);
    }
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    fn store() -> MemoryStore {
        let store = MemoryStore::with_page_size(3);
        for (key, currency, amount) in [
            ("lines/acme/a", "eur", 5),
            ("lines/acme/b", "eur", i64::MAX),
            ("lines/acme/c", "usd", -3),
            ("lines/acme-2/d", "eur", 1),
            ("other/acme/e", "eur", 1),
        ] {
            let line = Line {
                invoice: "in_1".to_owned(),
                currency: currency.to_owned(),
                amount,
                customer: None,
                day: "2026-01-01".to_owned(),
            };
            store.set(key, &serde_json::to_vec(&line).unwrap()).unwrap();
        }
        store
    }

    fn text(tenant: Option<&str>) -> String {
        serde_json::to_string(&Totals::read(&store(), tenant).unwrap()).unwrap()
    }

    #[test]
    fn lines_are_counted_and_summed_for_each_tenant_and_currency() {
        assert_eq!(
            text(None),
            r#"{"tenants":{"acme":{"lines":3,"amounts":{"eur":9223372036854775812,"usd":-3}},"acme-2":{"lines":1,"amounts":{"eur":1}}}}"#
        );
    }

    #[test]
    fn one_tenant_does_not_see_another() {
        assert_eq!(
            text(Some("acme-2")),
            r#"{"tenants":{"acme-2":{"lines":1,"amounts":{"eur":1}}}}"#
        );
        assert_eq!(text(Some("ac")), r#"{"tenants":{}}"#);
        assert_eq!(text(Some("acme/a")), r#"{"tenants":{}}"#);
    }

    #[test]
    fn a_foreign_entry_is_named() {
        let store = store();
        store.set("lines/acme/f", b"{}").unwrap();
        let error = Totals::read(&store, None).unwrap_err().to_string();
        assert!(error.contains("lines/acme/f"), "{error}");
    }
}
