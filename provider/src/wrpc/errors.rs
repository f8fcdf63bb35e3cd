//! Refusals as the contract's error variants.

use fanout_plan::{Code, Problem, TenantId};

use super::bindings::fanout::bus::types::{PublishError, SubscribeError};
use super::convert::problem;
use crate::bus::Refusal;
use crate::jetstream::Unstored;

/// A caller's own mistake, by its code.
pub(super) fn publish_refusal(p: Problem) -> PublishError {
    match p.code {
        Code::NotLinked
        | Code::UnknownCaller
        | Code::LinkRefused
        | Code::InterfaceNotLinked
        | Code::TenantNotPermitted
        | Code::EventTypeNotPermitted => PublishError::NotPermitted(problem(p)),
        Code::BusNotReady | Code::StoreUnavailable => PublishError::Unavailable(problem(p)),
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
        Unstored::Full(_) => PublishError::StoreFull(say(
            Code::StoreFull,
            "it was not stored; retry once events have expired, or raise `retention.max-bytes`",
        )),
        Unstored::NoPartition | Unstored::Unavailable(_) => {
            PublishError::Unavailable(say(Code::StoreUnavailable, "it was not stored; try again"))
        }
        Unstored::Unknown(_) => PublishError::OutcomeUnknown(say(
            Code::OutcomeUnknown,
            "it may be stored; publish it again with the same id",
        )),
    }
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
