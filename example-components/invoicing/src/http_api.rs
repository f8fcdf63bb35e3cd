//! What the component answers over HTTP.

use component_support::{
    answer::{self, Answer},
    path,
    store::KeyValue,
};
use http::{Method, StatusCode};

use crate::totals::Totals;

/// Answers a request.
pub fn answer(method: &Method, path: &str, store: &impl KeyValue) -> Answer {
    let segments = path::segments(path).unwrap_or_default();
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    let totals = match segments.as_slice() {
        ["invoices"] | ["invoices", _] if method != Method::GET => return answer::method_not_allowed(method, "GET"),
        ["invoices"] => Totals::read(store, None),
        ["invoices", tenant] => Totals::read(store, Some(tenant)),
        _ => return answer::not_found(path),
    };
    match totals {
        Ok(totals) => answer::json(StatusCode::OK, &totals),
        Err(error) => answer::store_unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use component_support::memory::MemoryStore;

    use super::*;

    #[test]
    fn paths_and_methods_are_answered() {
        let store = MemoryStore::default();
        let status = |method, path| answer(&method, path, &store).status().as_u16();
        assert_eq!(status(Method::GET, "/invoices"), 200);
        assert_eq!(status(Method::GET, "/invoices/acme"), 200);
        assert_eq!(status(Method::POST, "/invoices"), 405);
        for path in ["/", "/invoice", "/invoices/acme/b", "/%ff"] {
            assert_eq!(status(Method::GET, path), 404, "{path}");
        }
        store.fail();
        assert_eq!(status(Method::GET, "/invoices"), 503);
    }
}
