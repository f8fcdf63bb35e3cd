//! Refusals as the contract's error variants.

use fanout_plan::{Code, Problem, TenantId};

use super::convert::problem;
use crate::bus::Refusal;
use crate::jetstream::{Full, StoreError, Unstored};
use crate::quota::NotAdmitted;
use fanout_wit::types::{PublishError, RefusalForNow, SubscribeError};

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

/// What an error says.
pub(super) fn message(e: &PublishError) -> &str {
    match e {
        PublishError::InvalidEvent(p)
        | PublishError::NotPermitted(p)
        | PublishError::TooLarge(p)
        | PublishError::StoreFull(p)
        | PublishError::Unavailable(p)
        | PublishError::OutcomeUnknown(p) => &p.message,
        PublishError::QuotaExceeded(refusal) => &refusal.problem.message,
    }
}

/// The problem of an error.
pub(super) fn said(e: &mut PublishError) -> &mut fanout_wit::types::Problem {
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

/// A quota's answer.
pub(super) fn not_admitted(tenant: &TenantId, id: &str, e: &NotAdmitted) -> PublishError {
    let say = |code, advice: &str| {
        problem(Problem::new(
            code,
            format!("event {id:?} of tenant {tenant}: {e}: {advice}"),
        ))
    };
    match e {
        NotAdmitted::Rate { retry_after, .. } | NotAdmitted::Bytes { retry_after, .. } => {
            // Rounded up: a retry after it can succeed.
            let retry_after_ms = u64::try_from(retry_after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            PublishError::QuotaExceeded(RefusalForNow {
                problem: say(
                    Code::QuotaExceeded,
                    &format!(
                        "it was not stored; publish it again after {retry_after_ms} ms, or raise the tenant's quota"
                    ),
                ),
                retry_after_ms,
            })
        }
        NotAdmitted::Scheduled { .. } => PublishError::QuotaExceeded(RefusalForNow {
            problem: say(
                Code::QuotaExceeded,
                "it was not kept; ask again when some of them are published or cancelled, or raise the tenant's `quota.scheduled-events` or `quota.scheduled-max-bytes`",
            ),
            retry_after_ms: 1_000,
        }),
        NotAdmitted::TooLarge { .. } => PublishError::TooLarge(say(
            Code::QuotaExceeded,
            "send less, or raise the tenant's `quota.max-bytes`",
        )),
        NotAdmitted::Unknown(source) => PublishError::Unavailable(problem(Problem::new(
            Code::StoreUnavailable,
            format!("event {id:?} of tenant {tenant}: {e} ({source}): it was not stored; try again"),
        ))),
    }
}

/// Why it is not known whether an event was cancelled.
pub(super) fn not_cancelled(tenant: &TenantId, id: &str, e: &StoreError) -> PublishError {
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
