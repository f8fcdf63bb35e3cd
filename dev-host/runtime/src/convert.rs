//! The contract's values as the component has them, and as wRPC carries them.

use fanout_client::{End, Position, Start};
use fanout_wit::types as wit;

use crate::bindings::calls::fanout::bus::types;

pub(crate) fn event(e: types::Event) -> wit::Event {
    wit::Event {
        tenant: e.tenant,
        event_type: e.event_type,
        id: e.id,
        source: e.source,
        subject: e.subject,
        time: e.time,
        data_content_type: e.data_content_type,
        data_schema: e.data_schema,
        extensions: e
            .extensions
            .into_iter()
            .map(|types::Attribute { name, value }| wit::Attribute { name, value })
            .collect(),
        ordering_key: e.ordering_key,
        data: e.data.into(),
    }
}

pub(crate) fn delivery(d: &wit::Delivery) -> types::Delivery {
    let e = &d.event;
    types::Delivery {
        subscription: d.subscription.clone(),
        event: types::Event {
            tenant: e.tenant.clone(),
            event_type: e.event_type.clone(),
            id: e.id.clone(),
            source: e.source.clone(),
            subject: e.subject.clone(),
            time: e.time,
            data_content_type: e.data_content_type.clone(),
            data_schema: e.data_schema.clone(),
            extensions: e
                .extensions
                .iter()
                .map(|a| types::Attribute {
                    name: a.name.clone(),
                    value: a.value.clone(),
                })
                .collect(),
            ordering_key: e.ordering_key.clone(),
            data: e.data.to_vec(),
        },
        position: position(&d.position),
        attempt: d.attempt,
        origin: match d.origin {
            wit::Origin::Replayed => types::Origin::Replayed,
            wit::Origin::Live => types::Origin::Live,
        },
        published_at: d.published_at,
    }
}

pub(crate) fn position(p: &wit::Position) -> types::Position {
    types::Position {
        partition: p.partition,
        offset: p.offset,
    }
}

fn to_position(p: types::Position) -> Position {
    Position {
        partition: p.partition,
        offset: p.offset,
    }
}

pub(crate) fn receipt(r: wit::Receipt) -> types::Receipt {
    types::Receipt {
        position: position(&r.position),
        duplicate: r.duplicate,
        durable_subscriptions: r.durable_subscriptions,
    }
}

pub(crate) fn scheduled(s: wit::Scheduled) -> types::Scheduled {
    types::Scheduled {
        due: s.due,
        duplicate: s.duplicate,
    }
}

pub(crate) fn cancellation(c: wit::Cancellation) -> types::Cancellation {
    match c {
        wit::Cancellation::Cancelled => types::Cancellation::Cancelled,
        wit::Cancellation::NotWaiting => types::Cancellation::NotWaiting,
    }
}

pub(crate) fn problem(p: wit::Problem) -> types::Problem {
    types::Problem {
        code: p.code,
        message: p.message,
    }
}

pub(crate) fn publish_error(e: wit::PublishError) -> types::PublishError {
    use types::PublishError as To;
    use wit::PublishError as From;
    match e {
        From::InvalidEvent(p) => To::InvalidEvent(problem(p)),
        From::NotPermitted(p) => To::NotPermitted(problem(p)),
        From::TooLarge(p) => To::TooLarge(problem(p)),
        From::QuotaExceeded(r) => To::QuotaExceeded(types::RefusalForNow {
            problem: problem(r.problem),
            retry_after_ms: r.retry_after_ms,
        }),
        From::StoreFull(p) => To::StoreFull(problem(p)),
        From::Unavailable(p) => To::Unavailable(problem(p)),
        From::OutcomeUnknown(p) => To::OutcomeUnknown(problem(p)),
    }
}

pub(crate) fn subscribe_error(e: wit::SubscribeError) -> types::SubscribeError {
    use types::SubscribeError as To;
    use wit::SubscribeError as From;
    match e {
        From::InvalidRequest(p) => To::InvalidRequest(problem(p)),
        From::NotPermitted(p) => To::NotPermitted(problem(p)),
        From::Conflict(p) => To::Conflict(problem(p)),
        From::UnknownSubscription(p) => To::UnknownSubscription(problem(p)),
        From::Unavailable(p) => To::Unavailable(problem(p)),
        From::OutcomeUnknown(p) => To::OutcomeUnknown(problem(p)),
    }
}

pub(crate) fn rejection(r: types::Rejection) -> wit::Rejection {
    match r {
        types::Rejection::Retry(reason) => wit::Rejection::Retry(reason),
        types::Rejection::RetryNow(reason) => wit::Rejection::RetryNow(reason),
        types::Rejection::RetryAfter(d) => wit::Rejection::RetryAfter(wit::RetryDelay {
            delay_ms: d.delay_ms,
            reason: d.reason,
        }),
        types::Rejection::DeadLetter(reason) => wit::Rejection::DeadLetter(reason),
    }
}

pub(crate) fn start(s: types::Start) -> Start {
    match s {
        types::Start::First => Start::First,
        types::Start::Time(t) => Start::Time(t),
        types::Start::Position(p) => Start::Position(to_position(p)),
    }
}

pub(crate) fn end(e: types::End) -> End {
    match e {
        types::End::Time(t) => End::Time(t),
        types::End::Position(p) => End::Position(to_position(p)),
    }
}

pub(crate) fn subscription(s: wit::Subscription) -> types::Subscription {
    types::Subscription {
        name: s.name,
        need: match s.need {
            wit::Need::Queue => types::Need::Queue,
            wit::Need::Durable => types::Need::Durable,
            wit::Need::Backfill(start) => types::Need::Backfill(match start {
                wit::Start::First => types::Start::First,
                wit::Start::Time(t) => types::Start::Time(t),
                wit::Start::Position(p) => types::Start::Position(position(&p)),
            }),
        },
        filter: types::Filter {
            tenants: s.filter.tenants,
            event_types: s.filter.event_types,
            pattern: s.filter.pattern,
        },
        made_by: match s.made_by {
            wit::SubscriptionOrigin::Link => types::SubscriptionOrigin::Link,
            wit::SubscriptionOrigin::Call => types::SubscriptionOrigin::Call,
        },
        state: match s.state {
            wit::SubscriptionState::Active => types::SubscriptionState::Active,
            wit::SubscriptionState::CatchingUp => types::SubscriptionState::CatchingUp,
            wit::SubscriptionState::Finished => types::SubscriptionState::Finished,
            wit::SubscriptionState::Paused => types::SubscriptionState::Paused,
            wit::SubscriptionState::Waiting(p) => types::SubscriptionState::Waiting(problem(p)),
        },
        pending: s.pending,
        in_flight: s.in_flight,
        redelivered: s.redelivered,
        waiting_for_retry: s.waiting_for_retry,
        expires_at: s.expires_at,
        lost: s.lost.into_iter().map(lost).collect(),
        batch_size: s.batch_size,
        incarnation: s.incarnation,
    }
}

fn lost(l: wit::LostEvents) -> types::LostEvents {
    types::LostEvents {
        first: position(&l.first),
        last: position(&l.last),
        count: l.count,
        exact: l.exact,
        at: l.at,
    }
}

pub(crate) fn link_status(l: wit::LinkStatus) -> types::LinkStatus {
    types::LinkStatus {
        name: l.name,
        subscription: l.subscription,
        state: match l.state {
            wit::LinkState::Applied => types::LinkState::Applied,
            wit::LinkState::Refused(ps) => types::LinkState::Refused(ps.into_iter().map(problem).collect()),
        },
    }
}

pub(crate) fn fetched(f: wit::FetchedDeliveries) -> types::FetchedDeliveries {
    types::FetchedDeliveries {
        deliveries: f
            .deliveries
            .into_iter()
            .map(|held| types::LeasedDelivery {
                delivery: delivery(&held.delivery),
                token: held.token.to_vec(),
                traceparent: held.traceparent,
            })
            .collect(),
        lease_ms: f.lease_ms,
        caught_up: f.caught_up.map(|c| types::CatchUp {
            replayed: c.replayed,
            finished: c.finished,
        }),
    }
}

pub(crate) fn inbox_error(e: wit::InboxError) -> types::InboxError {
    use types::InboxError as To;
    use wit::InboxError as From;
    match e {
        From::InvalidRequest(p) => To::InvalidRequest(problem(p)),
        From::NotPermitted(p) => To::NotPermitted(problem(p)),
        From::UnknownSubscription(p) => To::UnknownSubscription(problem(p)),
        From::Unavailable(p) => To::Unavailable(problem(p)),
    }
}

pub(crate) fn settlement(s: types::Settlement) -> wit::Settlement {
    wit::Settlement {
        token: s.token.into(),
        verdict: match s.verdict {
            types::Verdict::Handled => wit::Verdict::Handled,
            types::Verdict::Rejected(r) => wit::Verdict::Rejected(rejection(r)),
            types::Verdict::StillWorking => wit::Verdict::StillWorking,
            types::Verdict::Released => wit::Verdict::Released,
        },
    }
}

pub(crate) fn settled(
    answer: Result<wit::SettlementOutcome, wit::SettleError>,
) -> Result<types::SettlementOutcome, types::SettleError> {
    use types::SettleError as To;
    use wit::SettleError as From;
    match answer {
        Ok(wit::SettlementOutcome::Settled) => Ok(types::SettlementOutcome::Settled),
        Ok(wit::SettlementOutcome::Extended(token)) => Ok(types::SettlementOutcome::Extended(token.to_vec())),
        Err(From::InvalidToken(p)) => Err(To::InvalidToken(problem(p))),
        Err(From::LeaseExpired(p)) => Err(To::LeaseExpired(problem(p))),
        Err(From::NotPermitted(p)) => Err(To::NotPermitted(problem(p))),
        Err(From::Unavailable(p)) => Err(To::Unavailable(problem(p))),
    }
}

pub(crate) fn progress(p: &fanout_client::component::Progress, now: i64) -> types::BackfillProgress {
    types::BackfillProgress {
        subscription: p.subscription.clone(),
        reached: p.reached.as_ref().map(position),
        replayed: p.caught_up.replayed,
        at: now,
        finished: p.caught_up.finished,
    }
}
