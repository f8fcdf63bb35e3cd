//! The contract's types, and how each is written.
//!
//! The records and variants themselves are generated from `wit/`. Here stands what the generator does not say in code: the
//! order of a record's fields and of a variant's cases. Leaving one out does not compile, and a test compares the bytes of
//! each with those of the bindings that the bus itself uses.

use crate::wire::{Decode, Encode, Malformed, Reader, encode_case};

#[allow(missing_docs, unsafe_code, clippy::all, reason = "generated from wit/")]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package fanout:component-support;
            world types {
                import fanout:bus/types@0.2.0;
            }
        ",
        path: "../../../wit",
        additional_derives: [PartialEq],
        generate_all,
        generate_unused_types: true,
    });
}

pub use bindings::fanout::bus::types;

fanout_attempts::meanings!(self::types);

use types::{
    Attribute, BackfillProgress, Cancellation, CatchUp, Delivery, DeliveryOptions, End, Event, FetchedDeliveries,
    Filter, InboxError, LeasedDelivery, LinkState, LinkStatus, LostEvents, Need, Origin, Position, Problem,
    PublishError, Reach, Receipt, RefusalForNow, Rejection, RetryDelay, Scheduled, Scope, SettleError, Settlement,
    SettlementOutcome, Start, SubscribeError, Subscription, SubscriptionOrigin, SubscriptionState, Verdict,
};

macro_rules! records {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.encode(out);)*
            }
        }

        impl Decode for $name {
            fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                // Fields are read in the order that they stand here in.
                Ok(Self { $($field: Decode::decode(from)?),* })
            }
        }
    )*};
}

macro_rules! variants {
    ($($name:ident { $($number:literal $case:ident $(($value:ident))?),* $(,)? })*) => {$(
        impl Encode for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$case $(($value))? => {
                        encode_case($number, out);
                        $($value.encode(out);)?
                    })*
                }
            }
        }

        impl Decode for $name {
            fn decode(from: &mut Reader<'_>) -> Result<Self, Malformed> {
                Ok(match from.case()? {
                    $($number => Self::$case $(({
                        let $value = Decode::decode(from)?;
                        $value
                    }))?,)*
                    _ => return Err(Malformed),
                })
            }
        }
    )*};
}

records! {
    Position { partition, offset }
    Attribute { name, value }
    Event {
        tenant, event_type, id, source, subject, time, data_content_type, data_schema, extensions, ordering_key, data,
    }
    Receipt { position, duplicate, durable_subscriptions }
    Delivery { subscription, event, position, attempt, origin, published_at }
    RetryDelay { delay_ms, reason }
    Problem { code, message }
    RefusalForNow { problem, retry_after_ms }
    Scheduled { due, duplicate }
    Filter { tenants, event_types, pattern }
    DeliveryOptions { filter, reach, batch_size, concurrency, scope }
    LostEvents { first, last, count, exact, at }
    Subscription {
        name, need, filter, made_by, state, pending, in_flight, redelivered, waiting_for_retry, expires_at, lost,
        batch_size, incarnation,
    }
    BackfillProgress { subscription, reached, replayed, at, finished }
    LeasedDelivery { delivery, token, traceparent }
    CatchUp { replayed, finished }
    FetchedDeliveries { deliveries, lease_ms, caught_up }
    Settlement { token, verdict }
    LinkStatus { name, subscription, state }
}

variants! {
    Origin { 0 Replayed, 1 Live }
    Rejection { 0 Retry(reason), 1 RetryNow(reason), 2 RetryAfter(delay), 3 DeadLetter(reason) }
    PublishError {
        0 InvalidEvent(problem), 1 NotPermitted(problem), 2 TooLarge(problem), 3 QuotaExceeded(refusal),
        4 StoreFull(problem), 5 Unavailable(problem), 6 OutcomeUnknown(problem),
    }
    SubscribeError {
        0 InvalidRequest(problem), 1 NotPermitted(problem), 2 Conflict(problem), 3 UnknownSubscription(problem),
        4 Unavailable(problem), 5 OutcomeUnknown(problem),
    }
    Cancellation { 0 Cancelled, 1 NotWaiting }
    Reach { 0 Handler, 1 BatchHandler, 2 Inbox }
    Scope { 0 Everywhere, 1 Here }
    Start { 0 First, 1 Time(time), 2 Position(position) }
    End { 0 Time(time), 1 Position(position) }
    Need { 0 Queue, 1 Durable, 2 Backfill(start) }
    SubscriptionOrigin { 0 Link, 1 Call }
    SubscriptionState { 0 Active, 1 CatchingUp, 2 Finished, 3 Paused, 4 Waiting(problem) }
    Verdict { 0 Handled, 1 Rejected(rejection), 2 StillWorking, 3 Released }
    SettlementOutcome { 0 Settled, 1 Extended(token) }
    InboxError { 0 InvalidRequest(problem), 1 NotPermitted(problem), 2 UnknownSubscription(problem), 3 Unavailable(problem) }
    SettleError { 0 InvalidToken(problem), 1 LeaseExpired(problem), 2 NotPermitted(problem), 3 Unavailable(problem) }
    LinkState { 0 Applied, 1 Refused(problems) }
}
