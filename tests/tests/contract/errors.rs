//! Which variants of the contract's errors were met. A variant that is added to the contract does not compile here until
//! it is named, and then fails until it is met.

use fanout_tests::types::{InboxError, Problem, PublishError, SettleError, SubscribeError};
use std::collections::BTreeSet;

/// The names of the variants that were met, behind that of their type.
#[derive(Debug, Default)]
pub(crate) struct Met(BTreeSet<(&'static str, &'static str)>);

const EVERY: [(&str, &[&str]); 4] = [
    (
        "publish",
        &[
            "invalid-event",
            "not-permitted",
            "too-large",
            "quota-exceeded",
            "store-full",
            "unavailable",
            "outcome-unknown",
        ],
    ),
    (
        "subscribe",
        &[
            "invalid-request",
            "not-permitted",
            "conflict",
            "unknown-subscription",
            "unavailable",
            "outcome-unknown",
        ],
    ),
    (
        "inbox",
        &[
            "invalid-request",
            "not-permitted",
            "unknown-subscription",
            "unavailable",
        ],
    ),
    (
        "settle",
        &["invalid-token", "lease-expired", "not-permitted", "unavailable"],
    ),
];

impl Met {
    /// Notes a refusal, and gives its code.
    pub(crate) fn publish<T: std::fmt::Debug>(&mut self, refused: Result<T, PublishError>) -> String {
        let (variant, problem) = match refused.expect_err("it is refused") {
            PublishError::InvalidEvent(p) => ("invalid-event", p),
            PublishError::NotPermitted(p) => ("not-permitted", p),
            PublishError::TooLarge(p) => ("too-large", p),
            PublishError::QuotaExceeded(refusal) => {
                assert!(refusal.retry_after_ms > 0, "{refusal:?}");
                ("quota-exceeded", refusal.problem)
            }
            PublishError::StoreFull(p) => ("store-full", p),
            PublishError::Unavailable(p) => ("unavailable", p),
            PublishError::OutcomeUnknown(p) => ("outcome-unknown", p),
        };
        self.note("publish", variant, problem)
    }

    pub(crate) fn subscribe<T: std::fmt::Debug>(&mut self, refused: Result<T, SubscribeError>) -> String {
        let (variant, problem) = match refused.expect_err("it is refused") {
            SubscribeError::InvalidRequest(p) => ("invalid-request", p),
            SubscribeError::NotPermitted(p) => ("not-permitted", p),
            SubscribeError::Conflict(p) => ("conflict", p),
            SubscribeError::UnknownSubscription(p) => ("unknown-subscription", p),
            SubscribeError::Unavailable(p) => ("unavailable", p),
            SubscribeError::OutcomeUnknown(p) => ("outcome-unknown", p),
        };
        self.note("subscribe", variant, problem)
    }

    pub(crate) fn inbox<T: std::fmt::Debug>(&mut self, refused: Result<T, InboxError>) -> String {
        let (variant, problem) = match refused.expect_err("it is refused") {
            InboxError::InvalidRequest(p) => ("invalid-request", p),
            InboxError::NotPermitted(p) => ("not-permitted", p),
            InboxError::UnknownSubscription(p) => ("unknown-subscription", p),
            InboxError::Unavailable(p) => ("unavailable", p),
        };
        self.note("inbox", variant, problem)
    }

    pub(crate) fn settle<T: std::fmt::Debug>(&mut self, refused: Result<T, SettleError>) -> String {
        let (variant, problem) = match refused.expect_err("it is refused") {
            SettleError::InvalidToken(p) => ("invalid-token", p),
            SettleError::LeaseExpired(p) => ("lease-expired", p),
            SettleError::NotPermitted(p) => ("not-permitted", p),
            SettleError::Unavailable(p) => ("unavailable", p),
        };
        self.note("settle", variant, problem)
    }

    fn note(&mut self, of: &'static str, variant: &'static str, problem: Problem) -> String {
        assert!(!problem.code.is_empty() && !problem.message.is_empty(), "{problem:?}");
        self.0.insert((of, variant));
        format!("{variant}: {}", problem.code)
    }

    /// Every variant was met. A caller that is not on a lattice has no subscription that a handler is given, and so none
    /// that can't be fetched.
    pub(crate) fn is_every_variant(&self, on_a_lattice: bool) {
        for (of, variants) in EVERY {
            for variant in variants {
                if (of, *variant) == ("inbox", "invalid-request") && !on_a_lattice {
                    continue;
                }
                assert!(self.0.contains(&(of, variant)), "{of}-error `{variant}` was not met");
            }
        }
    }
}
