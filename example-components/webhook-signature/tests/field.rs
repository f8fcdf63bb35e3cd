//! Webhooks from the field: what people reported, with the values that matter. Each was once answered wrongly.
//!
//! The tests of `fanout webhook verify` read the same file, for the hints.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use webhook_signature::{Keys, Request, Scheme, verify};

/// A webhook, and what becomes of it.
#[derive(Deserialize)]
struct Case {
    name: String,
    why: String,
    scheme: String,
    /// As it stands in a file.
    secret: String,
    parameters: BTreeMap<String, String>,
    headers: Vec<(String, String)>,
    body: String,
    now: i64,
    verifies: bool,
    /// The id that is proven; nothing if it does not matter.
    id: Option<String>,
}

#[test]
fn what_came_in_the_field_is_answered_rightly() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("vectors/field.json")).unwrap();
    assert!(cases.len() > 9);
    for case in &cases {
        let scheme: Scheme = case.scheme.parse().unwrap();
        let parameters: Vec<_> = case.parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let keys = Keys::with_parameters(scheme, &case.secret, &parameters).unwrap();
        let headers: Vec<_> = case.headers.iter().map(|(k, v)| (k.as_str(), v.as_bytes())).collect();
        let request = Request::new(&headers, case.body.as_bytes());
        let tolerance = scheme.default_tolerance().unwrap_or(Duration::ZERO);
        let verified = verify(&keys, &request, case.now, tolerance);
        assert_eq!(
            verified.is_ok(),
            case.verifies,
            "{}: {verified:?}. {}",
            case.name,
            case.why
        );
        if let Some(id) = &case.id {
            assert_eq!(verified.unwrap().id, Some(id.as_str()), "{}", case.name);
        }
    }
}
