//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use component_support::{answer, bus::types, delivery, delivery::Delivery, wasi_store::WasiStore};
use exports::fanout::bus::{backfill_handler, batch_handler};
use fanout::bus::subscriber;
use wasmcloud_component::http;

use crate::{
    backfill::{Backfill, End, Instant, Position, Start},
    bus::{Bus, BusError},
    caught_up::{self, CaughtUp},
    fact, http_api,
    subscription::{MadeBy, Need, Problem, State, Subscription},
};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:analytics/analytics",
    with: {
        "fanout:bus/types@0.2.0": component_support::bus::types,
        "fanout:bus/subscriber@0.2.0": generate,
    },
});

/// The bucket that holds the facts.
const BUCKET: &str = "analytics";

struct Component;

export!(Component);
http::export!(Component);

impl batch_handler::Guest for Component {
    fn handle_events(deliveries: Vec<types::Delivery>) -> Vec<Result<(), types::Rejection>> {
        let store = match WasiStore::open(BUCKET) {
            Ok(store) => store,
            Err(error) => {
                return deliveries
                    .iter()
                    .map(|_| Err(types::Rejection::Retry(error.to_string())))
                    .collect();
            }
        };
        let deliveries: Vec<_> = deliveries.iter().map(Delivery::from).collect();
        fact::handle(&store, &deliveries)
            .into_iter()
            .map(|result| result.map_err(Into::into))
            .collect()
    }
}

impl backfill_handler::Guest for Component {
    fn handle_caught_up(progress: types::BackfillProgress) -> Result<(), types::Rejection> {
        let caught_up = CaughtUp {
            at: delivery::timestamp(progress.at),
            replayed: progress.replayed,
            finished: progress.finished,
        };
        WasiStore::open(BUCKET)
            .and_then(|store| caught_up::record(&store, &progress.subscription, &caught_up))
            .map_err(|error| types::Rejection::Retry(error.to_string()))
    }
}

impl http::Server for Component {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        let (head, body) = request.into_parts();
        Ok(match WasiStore::open(BUCKET) {
            Ok(store) => http_api::answer(&head.method, head.uri.path(), body, &store, &LinkedBus),
            Err(error) => answer::store_unavailable(&error),
        })
    }
}

/// The bus that the component is linked to.
struct LinkedBus;

impl Bus for LinkedBus {
    fn subscribe_backfill(&self, backfill: &Backfill) -> Result<Subscription, BusError> {
        let options = types::DeliveryOptions {
            filter: types::Filter {
                tenants: backfill.tenants.clone(),
                event_types: backfill.event_types.clone(),
                pattern: backfill.pattern(),
            },
            reach: types::Reach::BatchHandler,
            batch_size: None,
            concurrency: None,
            scope: types::Scope::Everywhere,
        };
        let until = backfill.until.map(Into::into);
        let made = subscriber::subscribe_backfill(&backfill.name, backfill.from.into(), until, &options)?;
        Ok(made.into())
    }

    fn unsubscribe(&self, name: &str) -> Result<(), BusError> {
        Ok(subscriber::unsubscribe(name)?)
    }

    fn list_subscriptions(&self) -> Result<Vec<Subscription>, BusError> {
        Ok(subscriber::list_subscriptions()?.into_iter().map(Into::into).collect())
    }
}

impl From<Start> for types::Start {
    fn from(start: Start) -> Self {
        match start {
            Start::First => Self::First,
            Start::Time(instant) => Self::Time(instant.nanoseconds()),
            Start::Position(position) => Self::Position(position.into()),
        }
    }
}

impl From<End> for types::End {
    fn from(end: End) -> Self {
        match end {
            End::Time(instant) => Self::Time(instant.nanoseconds()),
            End::Position(position) => Self::Position(position.into()),
        }
    }
}

impl From<Position> for types::Position {
    fn from(position: Position) -> Self {
        Self {
            partition: position.partition,
            offset: position.offset,
        }
    }
}

impl From<types::Start> for Start {
    fn from(start: types::Start) -> Self {
        match start {
            types::Start::First => Self::First,
            types::Start::Time(time) => Self::Time(Instant::from_nanoseconds(time)),
            types::Start::Position(types::Position { partition, offset }) => {
                Self::Position(Position { partition, offset })
            }
        }
    }
}

impl From<types::Subscription> for Subscription {
    fn from(subscription: types::Subscription) -> Self {
        let (need, from) = match subscription.need {
            types::Need::Queue => (Need::Queue, None),
            types::Need::Durable => (Need::Durable, None),
            types::Need::Backfill(start) => (Need::Backfill, Some(start.into())),
        };
        let (state, problem) = match subscription.state {
            types::SubscriptionState::Active => (State::Active, None),
            types::SubscriptionState::CatchingUp => (State::CatchingUp, None),
            types::SubscriptionState::Finished => (State::Finished, None),
            types::SubscriptionState::Paused => (State::Paused, None),
            types::SubscriptionState::Waiting(problem) => (State::Waiting, Some(problem.into())),
        };
        Self {
            name: subscription.name,
            need,
            from,
            tenants: subscription.filter.tenants,
            event_types: subscription.filter.event_types,
            pattern: subscription.filter.pattern,
            made_by: match subscription.made_by {
                types::SubscriptionOrigin::Link => MadeBy::Link,
                types::SubscriptionOrigin::Call => MadeBy::Call,
            },
            state,
            problem,
            pending: subscription.pending,
            in_flight: subscription.in_flight,
        }
    }
}

impl From<types::Problem> for Problem {
    fn from(problem: types::Problem) -> Self {
        Self {
            code: problem.code,
            message: problem.message,
        }
    }
}

impl From<types::SubscribeError> for BusError {
    fn from(error: types::SubscribeError) -> Self {
        match error {
            types::SubscribeError::InvalidRequest(problem) => Self::InvalidRequest(problem.into()),
            types::SubscribeError::NotPermitted(problem) => Self::NotPermitted(problem.into()),
            types::SubscribeError::Conflict(problem) => Self::Conflict(problem.into()),
            types::SubscribeError::UnknownSubscription(problem) => Self::UnknownSubscription(problem.into()),
            types::SubscribeError::Unavailable(problem) => Self::Unavailable(problem.into()),
            types::SubscribeError::OutcomeUnknown(problem) => Self::OutcomeUnknown(problem.into()),
        }
    }
}
