//! What the component answers over HTTP.

use component_support::{
    answer::{self, Answer},
    path,
    store::{KeyValue, StoreError},
};
use http::{Method, StatusCode};

use crate::{audit, entitlement};

/// Answers a request.
pub fn answer(method: &Method, path: &str, store: &impl KeyValue) -> Answer {
    let segments = path::segments(path).unwrap_or_default();
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    let answer = match segments.as_slice() {
        ["entitlements" | "audit", ..] if method != Method::GET => return answer::method_not_allowed(method, "GET"),
        ["entitlements", tenant, customer] => entitlement(store, tenant, customer),
        ["audit"] => audit::read(store).map(|audit| answer::json(StatusCode::OK, &audit)),
        _ => return answer::not_found(path),
    };
    answer.unwrap_or_else(|error| answer::store_unavailable(&error))
}

fn entitlement(store: &impl KeyValue, tenant: &str, customer: &str) -> Result<Answer, StoreError> {
    Ok(match entitlement::find(store, tenant, customer)? {
        Some(entitlement) => answer::json(StatusCode::OK, &entitlement),
        None => {
            let message = format!("no subscription of customer {customer} of tenant {tenant} was seen");
            answer::problem(StatusCode::NOT_FOUND, "unknown-customer", &message)
        }
    })
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    fn get(store: &MemoryStore, path: &str) -> (u16, String) {
        let answer = answer(&Method::GET, path, store);
        (answer.status().as_u16(), String::from_utf8(answer.into_body()).unwrap())
    }

    #[test]
    fn an_entitlement_is_answered_as_stored() {
        let store = MemoryStore::default();
        let value = r#"{"plan":null,"status":"active","entitled":true,"event_id":"e","time":"2026-01-01T00:00:00Z"}"#;
        store.set("acme/cus=2F1", value.as_bytes()).unwrap();
        assert_eq!(get(&store, "/entitlements/acme/cus%2F1"), (200, value.to_owned()));
        assert_eq!(get(&store, "/entitlements/acme/cus_2").0, 404);
        assert_eq!(get(&store, "/entitlements/other/cus%2F1").0, 404);
    }

    #[test]
    fn the_audit_is_answered() {
        assert_eq!(
            get(&MemoryStore::default(), "/audit"),
            (200, r#"{"tenants":{}}"#.to_owned())
        );
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let store = MemoryStore::default();
        for path in [
            "/",
            "/entitlements",
            "/entitlements/acme",
            "/entitlements/a/b/c",
            "/audit/x",
            "/%ff",
        ] {
            assert_eq!(get(&store, path).0, 404, "{path}");
        }
        assert_eq!(answer(&Method::POST, "/audit", &store).status(), 405);
        assert_eq!(answer(&Method::DELETE, "/entitlements/a/b", &store).status(), 405);
    }

    #[test]
    fn a_failing_store_is_unavailable() {
        let store = MemoryStore::default();
        store.fail();
        assert_eq!(get(&store, "/entitlements/acme/cus_1").0, 503);
        assert_eq!(get(&store, "/audit").0, 503);
    }
}
