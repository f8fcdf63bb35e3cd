//! Refusals as the contract's error variants.

use std::fmt::Display;

use fanout_plan::quota::Quotas;
use fanout_plan::{Code, Problem, TenantId};
use fanout_wit::types::{self as wit, InboxError, PublishError, RefusalForNow, SettleError, SubscribeError};

use super::convert::problem;
use crate::bus::Refusal;
use crate::jetstream::{Full, Unstored};
use crate::quota::NotAdmitted;

/// A caller's own mistake, by its code.
pub(super) fn publish_refusal(p: Problem) -> PublishError {
    match p.code {
        Code::NotLinked
        | Code::UnknownCaller
        | Code::LinkRefused
        | Code::InterfaceNotLinked
        | Code::TenantNotPermitted
        | Code::EventTypeNotPermitted
        | Code::SourceNotPermitted => PublishError::NotPermitted(problem(p)),
        // What stands in the way is the bus's, and nothing about the event: a retry can help.
        Code::BusNotReady
        | Code::StoreUnavailable
        | Code::StoreRefused
        | Code::DurabilityNotKept
        | Code::ForeignTopology
        | Code::TopologyChanged
        | Code::OlderPolicy
        | Code::PolicyConflict
        | Code::PlaceRetired
        | Code::TooManyPartitions
        | Code::AccountLimit
        | Code::SubjectTaken
        | Code::JetStreamMissing => PublishError::Unavailable(problem(p)),
        _ => PublishError::InvalidEvent(problem(p)),
    }
}

/// The store's answer.
pub(super) fn unstored(tenant: &TenantId, id: &str, e: &Unstored) -> PublishError {
    let say = |code, advice: &str| {
        let why = std::error::Error::source(e)
            .map(|s| format!(" ({s})"))
            .unwrap_or_default();
        problem(Problem::new(
            code,
            format!("event {id:?} of tenant {tenant}: {e}{why}: {advice}"),
        ))
    };
    match e {
        Unstored::TooLarge { .. } => PublishError::TooLarge(say(
            Code::EventTooLarge,
            "send less, or raise the policy's `event.max-bytes`",
        )),
        Unstored::AttributesTooLarge { .. } => PublishError::TooLarge(say(
            Code::EventTooLarge,
            "send less in its attributes: what is large belongs in the payload",
        )),
        Unstored::Full { what, .. } => PublishError::StoreFull(say(
            Code::StoreFull,
            match what {
                Full::Log => "it was not stored; retry once events have expired, or raise `retention.max-bytes`",
                Full::Scheduled => {
                    "it was not kept; retry once some are published or cancelled, or raise `scheduled.max-bytes` or `scheduled.max-events`"
                }
                Full::Storage => {
                    "it was not stored; no bound of the bus is met: give the server or the account more, or see which other streams fill it"
                }
            },
        )),
        Unstored::NoPartition | Unstored::Unavailable(_) | Unstored::Overtaken => {
            PublishError::Unavailable(say(Code::StoreUnavailable, "it was not stored; try again"))
        }
        Unstored::Unreadable(_) => PublishError::Unavailable(say(Code::StoreUnavailable, "it was not kept; try again")),
        Unstored::Unknown(_) | Unstored::Unverified(_) | Unstored::Stopped => PublishError::OutcomeUnknown(say(
            Code::OutcomeUnknown,
            "it may be stored; publish it again with the same id",
        )),
    }
}

/// The problem of an error.
pub(super) fn publish_problem(e: &mut PublishError) -> &mut wit::Problem {
    match e {
        PublishError::InvalidEvent(p)
        | PublishError::NotPermitted(p)
        | PublishError::TooLarge(p)
        | PublishError::StoreFull(p)
        | PublishError::Unavailable(p)
        | PublishError::OutcomeUnknown(p) => p,
        PublishError::QuotaExceeded(refusal) => &mut refusal.problem,
    }
}

/// The problem of an error, borrowed.
pub(super) fn publish_error(e: &PublishError) -> &wit::Problem {
    match e {
        PublishError::InvalidEvent(p)
        | PublishError::NotPermitted(p)
        | PublishError::TooLarge(p)
        | PublishError::StoreFull(p)
        | PublishError::Unavailable(p)
        | PublishError::OutcomeUnknown(p) => p,
        PublishError::QuotaExceeded(refusal) => &refusal.problem,
    }
}

/// The same of a fetch.
pub(super) fn inbox_error(e: &InboxError) -> &wit::Problem {
    match e {
        InboxError::InvalidRequest(p)
        | InboxError::NotPermitted(p)
        | InboxError::UnknownSubscription(p)
        | InboxError::Unavailable(p) => p,
    }
}

/// The same of a settlement.
pub(super) fn settle_error(e: &SettleError) -> &wit::Problem {
    match e {
        SettleError::InvalidToken(p)
        | SettleError::LeaseExpired(p)
        | SettleError::NotPermitted(p)
        | SettleError::Unavailable(p) => p,
    }
}

/// A quota's answer.
pub(super) fn not_admitted(quotas: &Quotas, tenant: &TenantId, id: &str, e: &NotAdmitted) -> PublishError {
    let say = |code, advice: &str| {
        problem(Problem::new(
            code,
            format!("event {id:?} of tenant {tenant}: {e}: {advice}"),
        ))
    };
    match e {
        NotAdmitted::Rate { retry_after, .. } | NotAdmitted::Bytes { retry_after, .. } => {
            let setting = match e {
                NotAdmitted::Rate { .. } => "events-per-second",
                _ => "max-bytes",
            };
            // Rounded up: a retry after it can succeed.
            let retry_after_ms = u64::try_from(retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            PublishError::QuotaExceeded(RefusalForNow {
                problem: say(
                    Code::QuotaExceeded,
                    &format!(
                        "it was not stored; publish it again after {retry_after_ms} ms, or raise {}",
                        quotas.setting(tenant, setting)
                    ),
                ),
                retry_after_ms,
            })
        }
        NotAdmitted::Scheduled { .. } => PublishError::QuotaExceeded(RefusalForNow {
            problem: say(
                Code::QuotaExceeded,
                &format!(
                    "it was not kept; ask again when some of them are published or cancelled, or raise {} or {}",
                    quotas.setting(tenant, "scheduled-events"),
                    quotas.setting(tenant, "scheduled-max-bytes")
                ),
            ),
            retry_after_ms: 1_000,
        }),
        NotAdmitted::TooLarge { .. } => PublishError::TooLarge(say(
            Code::QuotaExceeded,
            &format!("send less, or raise {}", quotas.setting(tenant, "max-bytes")),
        )),
        NotAdmitted::Unknown(source) => PublishError::Unavailable(problem(Problem::new(
            Code::StoreUnavailable,
            format!("event {id:?} of tenant {tenant}: {e} ({source}): it was not stored; try again"),
        ))),
    }
}

/// Why it is not known whether an event was cancelled.
pub(super) fn not_cancelled(tenant: &TenantId, id: &str, e: &dyn Display) -> PublishError {
    PublishError::OutcomeUnknown(problem(Problem::new(
        Code::OutcomeUnknown,
        format!("event {id:?} of tenant {tenant} may be cancelled or not: {e}: cancel it again"),
    )))
}

pub(super) fn subscribe_refusal(p: Problem) -> SubscribeError {
    match p.code {
        Code::NotLinked
        | Code::UnknownCaller
        | Code::LinkRefused
        | Code::InterfaceNotLinked
        | Code::TenantNotPermitted
        | Code::EventTypeNotPermitted => SubscribeError::NotPermitted(problem(p)),
        Code::BusNotReady | Code::StoreUnavailable => SubscribeError::Unavailable(problem(p)),
        Code::UnknownSubscription => SubscribeError::UnknownSubscription(problem(p)),
        _ => SubscribeError::InvalidRequest(problem(p)),
    }
}

/// Why what is to be fetched could not be made.
pub(super) fn not_made(e: SubscribeError) -> InboxError {
    match e {
        SubscribeError::NotPermitted(p) => InboxError::NotPermitted(p),
        SubscribeError::UnknownSubscription(p) => InboxError::UnknownSubscription(p),
        SubscribeError::InvalidRequest(p) | SubscribeError::Conflict(p) => InboxError::InvalidRequest(p),
        SubscribeError::Unavailable(p) | SubscribeError::OutcomeUnknown(p) => InboxError::Unavailable(p),
    }
}

pub(super) fn inbox_refusal(p: Problem) -> InboxError {
    match p.code {
        Code::NotLinked
        | Code::LinkRefused
        | Code::InterfaceNotLinked
        | Code::TenantNotPermitted
        | Code::EventTypeNotPermitted
        | Code::UnknownCaller
        | Code::SubscriberUnlinked => InboxError::NotPermitted(problem(p)),
        Code::UnknownSubscription => InboxError::UnknownSubscription(problem(p)),
        Code::NotAnInbox | Code::AtAnotherPlace => InboxError::InvalidRequest(problem(p)),
        _ => InboxError::Unavailable(problem(p)),
    }
}

/// The problem of an error.
pub(super) fn settle_problem(e: &mut SettleError) -> &mut wit::Problem {
    match e {
        SettleError::InvalidToken(p)
        | SettleError::LeaseExpired(p)
        | SettleError::NotPermitted(p)
        | SettleError::Unavailable(p) => p,
    }
}

pub(super) fn settle_refusal(p: Problem) -> SettleError {
    if matches!(p.code, Code::SubscriptionEnded | Code::InvalidToken) {
        return SettleError::InvalidToken(problem(p));
    }
    match inbox_refusal(p) {
        InboxError::NotPermitted(p) => SettleError::NotPermitted(p),
        InboxError::UnknownSubscription(p) | InboxError::InvalidRequest(p) => SettleError::InvalidToken(p),
        InboxError::Unavailable(p) => SettleError::Unavailable(p),
    }
}

impl From<Refusal> for SubscribeError {
    fn from(r: Refusal) -> Self {
        match r {
            Refusal::Conflict(p) => Self::Conflict(problem(p)),
            Refusal::Invalid(p) => subscribe_refusal(p),
            // A change cut short is finished or undone by asking again, which is idempotent.
            Refusal::Unavailable(p) if p.code == Code::StoreUnavailable => Self::OutcomeUnknown(problem(p)),
            Refusal::Unavailable(p) => Self::Unavailable(problem(p)),
        }
    }
}
