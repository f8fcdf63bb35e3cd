//! The component's boundary.

#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

use std::time::Duration;

use exports::fanout::bus::{inbox, publisher, status, subscriber};
use fanout_component::answer::Failure;
use fanout_component::bus::{ATTEMPT, INBOX, PUBLISHER, STATUS, SUBSCRIBER};
use fanout_component::over_http::OverHttp;
use fanout_component::types::{
    Cancellation, DeliveryOptions, End, Event, FetchedDeliveries, Filter, InboxError, LinkStatus, PublishError, Reach,
    Receipt, Scheduled, SettleError, Settlement, SettlementOutcome, Start, SubscribeError, Subscription, Timestamp,
};
use fanout_component::wire::{self, Decode, Encode};
use fanout_component::{Bus, Refusal, Settings};

wit_bindgen::generate!({
    path: ["../../../wit", "wit"],
    world: "fanout:connector/connector",
    with: { "fanout:bus/types@0.2.0": fanout_component::types },
});

/// What a fetch may take beyond its wait.
const FETCH_MARGIN: Duration = Duration::from_secs(5);
/// The longest wait that the bus grants; more is not asked for.
const LONGEST_WAIT_MS: u32 = 8_000;

struct Connector;

export!(Connector);

fn bus() -> Result<Bus<OverHttp>, Failure> {
    let settings = Settings::from_environment()?;
    let deadline = settings.deadline;
    Ok(Bus::new(OverHttp::new(settings), deadline))
}

fn ask<T, E>(interface: &str, function: &str, params: &impl Encode) -> Result<T, E>
where
    T: Decode,
    E: Decode + Refusal + Clone + From<Failure>,
{
    bus()?.ask(interface, function, params)
}

impl publisher::Guest for Connector {
    fn publish_tenant_event(event: Event) -> Result<Receipt, PublishError> {
        ask(PUBLISHER, "publish-tenant-event", &(event,))
    }

    fn publish_tenant_events(events: Vec<Event>) -> Vec<Result<Receipt, PublishError>> {
        match bus() {
            Ok(bus) => bus.publish_many(&events),
            Err(failure) => events.iter().map(|_| Err(failure.clone().into())).collect(),
        }
    }

    fn publish_tenant_events_together(events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        ask(PUBLISHER, "publish-tenant-events-together", &(events,))
    }

    fn publish_tenant_event_at(event: Event, at: Timestamp) -> Result<Scheduled, PublishError> {
        ask(PUBLISHER, "publish-tenant-event-at", &(event, at))
    }

    fn cancel_scheduled(tenant: String, source: String, id: String) -> Result<Cancellation, PublishError> {
        ask(PUBLISHER, "cancel-scheduled", &(tenant, source, id))
    }
}

impl subscriber::Guest for Connector {
    fn subscribe_queue(name: String, filter: Filter, reach: Reach) -> Result<Subscription, SubscribeError> {
        // What the contract refuses, the bus refuses.
        let reach = match reach {
            Reach::BatchHandler => Reach::BatchHandler,
            Reach::Handler | Reach::Inbox => Reach::Inbox,
        };
        ask(SUBSCRIBER, "subscribe-queue", &(name, filter, reach))
    }

    fn subscribe_durable(name: String, options: DeliveryOptions) -> Result<Subscription, SubscribeError> {
        ask(SUBSCRIBER, "subscribe-durable", &(name, fetched(options)))
    }

    fn subscribe_backfill(
        name: String,
        start: Start,
        end: Option<End>,
        options: DeliveryOptions,
    ) -> Result<Subscription, SubscribeError> {
        ask(SUBSCRIBER, "subscribe-backfill", &(name, start, end, fetched(options)))
    }

    fn unsubscribe(name: String) -> Result<(), SubscribeError> {
        ask(SUBSCRIBER, "unsubscribe", &(name,))
    }

    fn pause(name: String) -> Result<Subscription, SubscribeError> {
        ask(SUBSCRIBER, "pause", &(name,))
    }

    fn resume(name: String) -> Result<Subscription, SubscribeError> {
        ask(SUBSCRIBER, "resume", &(name,))
    }

    fn rewind(name: String, to: Start) -> Result<Subscription, SubscribeError> {
        ask(SUBSCRIBER, "rewind", &(name, to))
    }

    fn list_subscriptions() -> Result<Vec<Subscription>, SubscribeError> {
        ask(SUBSCRIBER, "list-subscriptions", &())
    }
}

/// As one that is fetched.
fn fetched(options: DeliveryOptions) -> DeliveryOptions {
    DeliveryOptions {
        reach: Reach::Inbox,
        ..options
    }
}

impl inbox::Guest for Connector {
    fn fetch(
        subscription: String,
        max_deliveries: u32,
        max_bytes: Option<u64>,
        wait_ms: u32,
    ) -> Result<FetchedDeliveries, InboxError> {
        let wait_ms = wait_ms.min(LONGEST_WAIT_MS);
        let params = wire::encode(&(subscription, max_deliveries, max_bytes, wait_ms));
        let within = Duration::from_millis(wait_ms.into()) + FETCH_MARGIN;
        let fetched: Result<_, InboxError> = bus()?.attempt(INBOX, "fetch", &params, within)?;
        fetched
    }

    fn settle(settlements: Vec<Settlement>) -> Vec<Result<SettlementOutcome, SettleError>> {
        let params = wire::encode(&(&settlements,));
        let settled = bus().and_then(|bus| bus.attempt(INBOX, "settle", &params, ATTEMPT));
        match settled {
            Ok(answers) => answers,
            Err(failure) => {
                let unavailable = SettleError::Unavailable(failure.problem);
                settlements.iter().map(|_| Err(unavailable.clone())).collect()
            }
        }
    }
}

impl status::Guest for Connector {
    /// The contract has no word for a bus that can't be reached here: the call fails.
    fn links() -> Vec<LinkStatus> {
        let links = bus()
            .map_err(|failure| failure.problem)
            .and_then(|bus| bus.read(STATUS, "links"));
        links.unwrap_or_else(|problem| panic!("{}", problem.message))
    }
}
