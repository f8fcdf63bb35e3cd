//! Each of the contract's types has the bytes that the bindings of the bus give it, and is read from them.

use std::fmt::Debug;

use fanout_component::contract::types as here;
use fanout_component::wire::{self, Decode, Encode};
use fanout_transport as transport;
use fanout_wit::types as there;

/// What is written here is what is written there, and comes back.
macro_rules! same {
    ($here:expr, $there:expr) => {{
        let (here, there) = ($here, $there);
        let written = wire::encode(&here);
        let bytes = transport::encode((there,)).expect("it is written there");
        assert_eq!(written, bytes.to_vec(), "{here:?}");
        comes_back(&here, &written);
    }};
}

fn comes_back<T: Encode + Decode + PartialEq + Debug>(value: &T, written: &[u8]) {
    assert_eq!(wire::decode::<T>(written).as_ref(), Ok(value));
    // What is cut short is no value, and no panic.
    for end in 0..written.len() {
        assert!(wire::decode::<T>(&written[..end]).is_err(), "{value:?} cut at {end}");
    }
}

macro_rules! positions {
    ($module:ident) => {
        $module::Position {
            partition: 3,
            offset: 1 << 40,
        }
    };
}

/// The same value in the words of either: what is generated has the same names.
macro_rules! event {
    ($module:ident) => {
        $module::Event {
            tenant: "acme".into(),
            event_type: "invoice.paid".into(),
            id: "evt_1".into(),
            source: "/billing/ä".into(),
            subject: Some("in_1".into()),
            time: Some(-1_760_000_000_123_456_789),
            data_content_type: Some("application/json".into()),
            data_schema: None,
            extensions: vec![$module::Attribute {
                name: "traceid".into(),
                value: "1".into(),
            }],
            ordering_key: Some("cus_1".into()),
            data: vec![0, 1, 255, 128].into(),
        }
    };
}

macro_rules! delivery {
    ($module:ident) => {
        $module::Delivery {
            subscription: "invoicing".into(),
            event: event!($module),
            position: positions!($module),
            attempt: 300,
            origin: $module::Origin::Live,
            published_at: 1_760_000_000_000_000_000,
        }
    };
}

macro_rules! problem {
    ($module:ident) => {
        $module::Problem {
            code: "unavailable".into(),
            message: "why, and what to do".into(),
        }
    };
}

macro_rules! filter {
    ($module:ident) => {
        $module::Filter {
            tenants: vec!["acme".into()],
            event_types: vec![],
            pattern: Some(r#"{"data":{"amount":[5]}}"#.into()),
        }
    };
}

macro_rules! subscription {
    ($module:ident, $state:ident $(($value:expr))?) => {
        $module::Subscription {
            name: "late".into(),
            need: $module::Need::Backfill($module::Start::Position(positions!($module))),
            filter: filter!($module),
            made_by: $module::SubscriptionOrigin::Call,
            state: $module::SubscriptionState::$state $(($value))?,
            pending: u64::MAX,
            in_flight: 1,
            redelivered: 0,
            waiting_for_retry: 127,
            expires_at: None,
            lost: vec![$module::LostEvents {
                first: positions!($module),
                last: positions!($module),
                count: 2,
                exact: true,
                at: -1,
            }],
            batch_size: 250,
            incarnation: "18c0ffee".into(),
        }
    };
}

#[test]
fn what_is_published() {
    same!(event!(here), event!(there));
    same!(
        here::Receipt {
            position: positions!(here),
            duplicate: true,
            durable_subscriptions: 129,
        },
        there::Receipt {
            position: positions!(there),
            duplicate: true,
            durable_subscriptions: 129,
        }
    );
    same!(
        here::Scheduled {
            due: 5,
            duplicate: false
        },
        there::Scheduled {
            due: 5,
            duplicate: false
        }
    );
    same!(here::Cancellation::NotWaiting, there::Cancellation::NotWaiting);
    for (here, there) in [
        (
            here::PublishError::InvalidEvent(problem!(here)),
            there::PublishError::InvalidEvent(problem!(there)),
        ),
        (
            here::PublishError::NotPermitted(problem!(here)),
            there::PublishError::NotPermitted(problem!(there)),
        ),
        (
            here::PublishError::TooLarge(problem!(here)),
            there::PublishError::TooLarge(problem!(there)),
        ),
        (
            here::PublishError::QuotaExceeded(here::RefusalForNow {
                problem: problem!(here),
                retry_after_ms: 1_500,
            }),
            there::PublishError::QuotaExceeded(there::RefusalForNow {
                problem: problem!(there),
                retry_after_ms: 1_500,
            }),
        ),
        (
            here::PublishError::StoreFull(problem!(here)),
            there::PublishError::StoreFull(problem!(there)),
        ),
        (
            here::PublishError::Unavailable(problem!(here)),
            there::PublishError::Unavailable(problem!(there)),
        ),
        (
            here::PublishError::OutcomeUnknown(problem!(here)),
            there::PublishError::OutcomeUnknown(problem!(there)),
        ),
    ] {
        same!(here, there);
    }
}

#[test]
fn what_is_subscribed_to() {
    same!(
        here::DeliveryOptions {
            filter: filter!(here),
            reach: here::Reach::Inbox,
            batch_size: Some(100),
            concurrency: None,
            scope: here::Scope::Here,
        },
        there::DeliveryOptions {
            filter: filter!(there),
            reach: there::Reach::Inbox,
            batch_size: Some(100),
            concurrency: None,
            scope: there::Scope::Here,
        }
    );
    same!(here::Scope::Everywhere, there::Scope::Everywhere);
    same!(here::Reach::Handler, there::Reach::Handler);
    same!(here::Reach::BatchHandler, there::Reach::BatchHandler);
    same!(here::Start::First, there::Start::First);
    same!(here::Start::Time(64), there::Start::Time(64));
    same!(here::End::Time(-65), there::End::Time(-65));
    same!(
        here::End::Position(positions!(here)),
        there::End::Position(positions!(there))
    );
    same!(here::Need::Queue, there::Need::Queue);
    same!(here::Need::Durable, there::Need::Durable);
    same!(subscription!(here, Active), subscription!(there, Active));
    same!(subscription!(here, CatchingUp), subscription!(there, CatchingUp));
    same!(subscription!(here, Finished), subscription!(there, Finished));
    same!(subscription!(here, Paused), subscription!(there, Paused));
    same!(
        subscription!(here, Waiting(problem!(here))),
        subscription!(there, Waiting(problem!(there)))
    );
    same!(here::SubscriptionOrigin::Link, there::SubscriptionOrigin::Link);
    for (here, there) in [
        (
            here::SubscribeError::InvalidRequest(problem!(here)),
            there::SubscribeError::InvalidRequest(problem!(there)),
        ),
        (
            here::SubscribeError::NotPermitted(problem!(here)),
            there::SubscribeError::NotPermitted(problem!(there)),
        ),
        (
            here::SubscribeError::Conflict(problem!(here)),
            there::SubscribeError::Conflict(problem!(there)),
        ),
        (
            here::SubscribeError::UnknownSubscription(problem!(here)),
            there::SubscribeError::UnknownSubscription(problem!(there)),
        ),
        (
            here::SubscribeError::Unavailable(problem!(here)),
            there::SubscribeError::Unavailable(problem!(there)),
        ),
        (
            here::SubscribeError::OutcomeUnknown(problem!(here)),
            there::SubscribeError::OutcomeUnknown(problem!(there)),
        ),
    ] {
        same!(here, there);
    }
    same!(
        here::LinkStatus {
            name: "default".into(),
            subscription: None,
            state: here::LinkState::Refused(vec![problem!(here)]),
        },
        there::LinkStatus {
            name: "default".into(),
            subscription: None,
            state: there::LinkState::Refused(vec![problem!(there)]),
        }
    );
    same!(here::LinkState::Applied, there::LinkState::Applied);
}

#[test]
fn what_is_delivered_and_settled() {
    same!(delivery!(here), delivery!(there));
    same!(here::Origin::Replayed, there::Origin::Replayed);
    same!(
        here::FetchedDeliveries {
            deliveries: vec![here::LeasedDelivery {
                delivery: delivery!(here),
                token: vec![9; 200],
                traceparent: Some("00-1".into()),
            }],
            lease_ms: 30_000,
            caught_up: Some(here::CatchUp {
                replayed: 4,
                finished: true,
            }),
        },
        there::FetchedDeliveries {
            deliveries: vec![there::LeasedDelivery {
                delivery: delivery!(there),
                token: vec![9; 200].into(),
                traceparent: Some("00-1".into()),
            }],
            lease_ms: 30_000,
            caught_up: Some(there::CatchUp {
                replayed: 4,
                finished: true,
            }),
        }
    );
    for (here, there) in [
        (here::Verdict::Handled, there::Verdict::Handled),
        (
            here::Verdict::Rejected(here::Rejection::Retry("a".into())),
            there::Verdict::Rejected(there::Rejection::Retry("a".into())),
        ),
        (
            here::Verdict::Rejected(here::Rejection::RetryNow("b".into())),
            there::Verdict::Rejected(there::Rejection::RetryNow("b".into())),
        ),
        (
            here::Verdict::Rejected(here::Rejection::RetryAfter(here::RetryDelay {
                delay_ms: 86_400_000,
                reason: "c".into(),
            })),
            there::Verdict::Rejected(there::Rejection::RetryAfter(there::RetryDelay {
                delay_ms: 86_400_000,
                reason: "c".into(),
            })),
        ),
        (
            here::Verdict::Rejected(here::Rejection::DeadLetter("d".into())),
            there::Verdict::Rejected(there::Rejection::DeadLetter("d".into())),
        ),
        (here::Verdict::StillWorking, there::Verdict::StillWorking),
        (here::Verdict::Released, there::Verdict::Released),
    ] {
        same!(
            here::Settlement {
                token: vec![1, 2],
                verdict: here,
            },
            there::Settlement {
                token: vec![1, 2].into(),
                verdict: there,
            }
        );
    }
    same!(here::SettlementOutcome::Settled, there::SettlementOutcome::Settled);
    same!(
        here::SettlementOutcome::Extended(vec![7]),
        there::SettlementOutcome::Extended(vec![7].into())
    );
    for (here, there) in [
        (
            here::SettleError::InvalidToken(problem!(here)),
            there::SettleError::InvalidToken(problem!(there)),
        ),
        (
            here::SettleError::LeaseExpired(problem!(here)),
            there::SettleError::LeaseExpired(problem!(there)),
        ),
        (
            here::SettleError::NotPermitted(problem!(here)),
            there::SettleError::NotPermitted(problem!(there)),
        ),
        (
            here::SettleError::Unavailable(problem!(here)),
            there::SettleError::Unavailable(problem!(there)),
        ),
    ] {
        same!(here, there);
    }
    for (here, there) in [
        (
            here::InboxError::InvalidRequest(problem!(here)),
            there::InboxError::InvalidRequest(problem!(there)),
        ),
        (
            here::InboxError::NotPermitted(problem!(here)),
            there::InboxError::NotPermitted(problem!(there)),
        ),
        (
            here::InboxError::UnknownSubscription(problem!(here)),
            there::InboxError::UnknownSubscription(problem!(there)),
        ),
        (
            here::InboxError::Unavailable(problem!(here)),
            there::InboxError::Unavailable(problem!(there)),
        ),
    ] {
        same!(here, there);
    }
    same!(
        here::BackfillProgress {
            subscription: "late".into(),
            reached: Some(positions!(here)),
            replayed: 42,
            at: 1,
            finished: false,
        },
        there::BackfillProgress {
            subscription: "late".into(),
            reached: Some(positions!(there)),
            replayed: 42,
            at: 1,
            finished: false,
        }
    );
}

#[test]
fn a_result_is_read_as_it_is_written_there() {
    let answers: Vec<Result<there::SettlementOutcome, there::SettleError>> = vec![
        Ok(there::SettlementOutcome::Settled),
        Err(there::SettleError::LeaseExpired(problem!(there))),
    ];
    let bytes = transport::encode((answers,)).expect("it is written there");
    let read: Vec<Result<here::SettlementOutcome, here::SettleError>> = wire::decode(&bytes).expect("it is read here");
    assert_eq!(
        read,
        [
            Ok(here::SettlementOutcome::Settled),
            Err(here::SettleError::LeaseExpired(problem!(here)))
        ]
    );
    let nothing: Result<(), here::SubscribeError> = wire::decode(&[0]).expect("it is read here");
    assert_eq!(nothing, Ok(()));
}
