//! The page of each error's code, to which a problem's `type` leads: whoever has the problem need not find the documentation.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::problem::Refused;

macro_rules! pages {
    ($($code:literal,)*) => {
        /// Codes, and their pages.
        const PAGES: &[(&str, &str)] = &[
            $(($code, include_str!(concat!("../../../../docs/errors/", $code, ".md"))),)*
        ];
    };
}

pages! {
    "account-limit",
    "at-another-place",
    "backup-conflict",
    "backup-damaged",
    "body-too-large",
    "bus-migrating",
    "bus-moved",
    "bus-not-ready",
    "call-deadline",
    "call-failed",
    "clocks-differ",
    "conflicting-settings",
    "connection-lost",
    "copy-differs",
    "durability-not-kept",
    "durability-unverified",
    "empty-backfill",
    "event-too-large",
    "event-type-not-permitted",
    "foreign-topology",
    "immutable-setting",
    "interface-not-linked",
    "invalid-attribute",
    "invalid-credentials",
    "invalid-due-time",
    "invalid-endpoint",
    "invalid-event-type",
    "invalid-limit",
    "invalid-pattern",
    "invalid-request",
    "invalid-setting",
    "invalid-subscription",
    "invalid-tenant",
    "invalid-token",
    "jetstream-missing",
    "journal-incomplete",
    "lease-expired",
    "limit-exceeded",
    "link-refused",
    "listen-failed",
    "method-not-allowed",
    "missing-setting",
    "moving",
    "nobody-serves",
    "not-an-inbox",
    "not-at-an-edge",
    "not-callable",
    "not-drained",
    "not-found",
    "not-linked",
    "not-migratable",
    "not-redrivable",
    "nothing-to-rewind",
    "older-policy",
    "order-not-kept",
    "origin-not-allowed",
    "outcome-unknown",
    "pattern-matches-nothing",
    "peer-refused",
    "peer-unreachable",
    "place-conflict",
    "place-not-lost",
    "place-retired",
    "place-unreachable",
    "policy-conflict",
    "protocol-violation",
    "quota-exceeded",
    "registration-lost",
    "retention-gap",
    "retention-gap-near",
    "rejected",
    "retries-full",
    "server-leaving",
    "server-too-old",
    "slow-reader",
    "source-not-permitted",
    "still-in-flight",
    "store-full",
    "store-refused",
    "store-unavailable",
    "subject-taken",
    "subscriber-unlinked",
    "subscriber-unreachable",
    "subscription-conflict",
    "subscription-ended",
    "target-not-empty",
    "tenant-not-permitted",
    "too-busy",
    "too-many-events",
    "too-many-fetches",
    "too-many-look-ups",
    "too-many-partitions",
    "too-many-tails",
    "topology-changed",
    "unauthenticated-caller",
    "unauthenticated-listener",
    "unknown-caller",
    "unknown-dead-letter",
    "unknown-event",
    "unknown-place",
    "unknown-position",
    "unknown-setting",
    "unknown-subscription",
    "unreadable-subscription",
    "unsupported-media-type",
    "upstream-refused",
    "would-lose-events",
}

/// `GET /docs/errors/{code}`
pub(super) async fn page(code: Result<Path<String>, PathRejection>) -> Result<Response, Refused> {
    let code = code.map(|Path(code)| code).unwrap_or_default();
    let found = PAGES.iter().find(|(known, _)| *known == code);
    let (_, page) = found.ok_or_else(|| {
        Refused::not_found("no error has this code: take it from a problem's `code`, as it stands there")
    })?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], *page).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_page_is_there() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
        let files: BTreeSet<_> = files.map(|name| name.into_string().unwrap()).collect();
        let mut pages: BTreeSet<_> = PAGES.iter().map(|(code, _)| format!("{code}.md")).collect();
        pages.insert("README.md".to_owned());
        assert_eq!(pages, files);
    }
}
