//! The contract's values as a component of the lattice has them, and as they go to the bus. What `types` defines is
//! the same on both sides; each interface's own is not.

use fanout_forward::wit;
use fanout_forward::wit::SubscribeError;

use crate::wrpc::bindings::exports::fanout::bus::inbox::{CaughtUp, InboxError, SettleError, Verdict};
use crate::wrpc::bindings::exports::fanout::bus::publisher::{Cancellation, Scheduled};
use crate::wrpc::bindings::exports::fanout::bus::subscriber::{LostEvents, Start, State};

pub(super) fn scheduled(s: wit::Scheduled) -> Scheduled {
    Scheduled {
        due: s.due,
        duplicate: s.duplicate,
    }
}

pub(super) fn cancellation(c: wit::Cancellation) -> Cancellation {
    match c {
        wit::Cancellation::Cancelled => Cancellation::Cancelled,
        wit::Cancellation::NotWaiting => Cancellation::NotWaiting,
    }
}

pub(super) fn start(s: &Start) -> wit::Start {
    match s {
        Start::First => wit::Start::First,
        Start::Time(t) => wit::Start::Time(*t),
        Start::Position(p) => wit::Start::Position(wit::Position { ..*p }),
    }
}

pub(super) fn state(s: wit::State) -> State {
    match s {
        wit::State::Active => State::Active,
        wit::State::CatchingUp => State::CatchingUp,
        wit::State::Finished => State::Finished,
        wit::State::Paused => State::Paused,
        wit::State::Waiting(p) => State::Waiting(p),
    }
}

pub(super) fn lost(l: wit::LostEvents) -> LostEvents {
    LostEvents {
        first: l.first,
        last: l.last,
        count: l.count,
        exact: l.exact,
        at: l.at,
    }
}

pub(super) fn caught_up(c: wit::CaughtUp) -> CaughtUp {
    CaughtUp {
        replayed: c.replayed,
        finished: c.finished,
    }
}

pub(super) fn verdict(v: Verdict) -> wit::Verdict {
    match v {
        Verdict::Handled => wit::Verdict::Handled,
        Verdict::Rejected(r) => wit::Verdict::Rejected(r),
        Verdict::StillWorking => wit::Verdict::StillWorking,
        Verdict::Released => wit::Verdict::Released,
    }
}

pub(super) fn inbox_error(e: wit::InboxError) -> InboxError {
    match e {
        wit::InboxError::InvalidRequest(p) => InboxError::InvalidRequest(p),
        wit::InboxError::NotPermitted(p) => InboxError::NotPermitted(p),
        wit::InboxError::UnknownSubscription(p) => InboxError::UnknownSubscription(p),
        wit::InboxError::Unavailable(p) => InboxError::Unavailable(p),
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

pub(super) fn settle_error(e: wit::SettleError) -> SettleError {
    match e {
        wit::SettleError::InvalidToken(p) => SettleError::InvalidToken(p),
        wit::SettleError::HoldOver(p) => SettleError::HoldOver(p),
        wit::SettleError::NotPermitted(p) => SettleError::NotPermitted(p),
        wit::SettleError::Unavailable(p) => SettleError::Unavailable(p),
    }
}
