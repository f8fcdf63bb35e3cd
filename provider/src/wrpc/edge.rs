//! The contract's functions at an edge: the link is checked here, and the bus answers.

use fanout_client::{Error, ErrorKind};
use fanout_plan::{Attributes, Code, Problem, authority};
use fanout_transport::{Caller, Error as TransportError, Service};

use super::bindings;
use super::bindings::exports::fanout::bus::inbox::{
    Fetched, Handler as InboxHandler, InboxError, SettleError, Settled, Settlement,
};
use super::bindings::exports::fanout::bus::publisher::{Cancellation, Handler as PublisherHandler, Scheduled};
use super::bindings::exports::fanout::bus::status::{Handler as StatusHandler, LinkState, LinkStatus};
use super::bindings::exports::fanout::bus::subscriber::{
    DeliveryOptions, End, Filter, Handler as SubscriberHandler, Reach, Start, Subscription,
};
use super::bindings::fanout::bus::types::{self as wit, Event, PublishError, Receipt, SubscribeError};
use super::convert::{problem, raw_event};
use super::errors::publish_refusal;
use super::publisher::{self, permit};
use crate::edge::Edge;

#[derive(Clone)]
struct AtEdge {
    edge: Edge,
}

/// The functions of an edge.
pub(crate) async fn service(edge: Edge) -> Result<Service, TransportError> {
    let exports = AtEdge { edge };
    Service::new()
        .bindings(move |port| {
            let exports = exports.clone();
            async move { bindings::serve(port.as_ref(), exports).await }
        })
        .await
}

impl AtEdge {
    /// The event as the bus is given it, if this link allows it.
    fn checked(&self, caller: &Caller, event: &mut Event) -> Result<fanout_client::Event, PublishError> {
        let data = std::mem::take(&mut event.data);
        let attributes = Attributes::try_from(raw_event(event)).map_err(publish_refusal)?;
        self.edge
            .grant(&caller.component, &caller.link)
            .and_then(|grant| permit(&grant, caller, attributes.tenant(), attributes.event_type()))
            .map_err(publish_refusal)?;
        let raw = attributes.into_raw();
        let mut event = fanout_client::Event::new(raw.tenant, raw.event_type, raw.id).data(data);
        event.source = raw.source;
        event.subject = raw.subject;
        event.time = raw.time;
        event.data_content_type = raw.data_content_type;
        event.data_schema = raw.data_schema;
        event.extensions = raw.extensions;
        event.ordering_key = raw.ordering_key;
        Ok(event)
    }
}

impl PublisherHandler<Caller> for AtEdge {
    async fn publish_tenant_event(
        &self,
        caller: Caller,
        mut event: Event,
    ) -> anyhow::Result<Result<Receipt, PublishError>> {
        let event = match self.checked(&caller, &mut event) {
            Ok(event) => event,
            Err(e) => return Ok(Err(e)),
        };
        let upstream = match self.edge.upstream() {
            Ok(upstream) => upstream,
            Err(p) => return Ok(Err(publish_refusal(p))),
        };
        Ok(match upstream.publish(&event).await {
            Ok(r) => Ok(receipt(r)),
            Err(e) => Err(refusal(e)),
        })
    }

    async fn publish_tenant_events(
        &self,
        caller: Caller,
        events: Vec<Event>,
    ) -> anyhow::Result<Vec<Result<Receipt, PublishError>>> {
        if let Some(refusal) = publisher::too_many(events.len()) {
            return Ok(events.iter().map(|_| Err(publish_refusal(refusal.clone()))).collect());
        }
        let upstream = match self.edge.upstream() {
            Ok(upstream) => upstream,
            Err(p) => return Ok(events.iter().map(|_| Err(publish_refusal(p.clone()))).collect()),
        };
        let mut allowed = Vec::with_capacity(events.len());
        let mut refused = Vec::with_capacity(events.len());
        for mut event in events {
            refused.push(match self.checked(&caller, &mut event) {
                Ok(event) => {
                    allowed.push(event);
                    None
                }
                Err(e) => Some(e),
            });
        }
        let mut stored = upstream.publish_many(&allowed).await.into_iter();
        let one = |refused: Option<PublishError>| match refused {
            Some(e) => Err(e),
            // There is one answer for each that was allowed.
            None => match stored.next() {
                Some(Ok(r)) => Ok(receipt(r)),
                Some(Err(e)) => Err(refusal(e)),
                None => Err(PublishError::OutcomeUnknown(said(
                    "outcome-unknown",
                    "the bus gave no answer",
                ))),
            },
        };
        Ok(refused.into_iter().map(one).collect())
    }

    async fn publish_tenant_event_at(
        &self,
        caller: Caller,
        _: Event,
        _: i64,
    ) -> anyhow::Result<Result<Scheduled, PublishError>> {
        Ok(Err(PublishError::InvalidEvent(not_later(&caller))))
    }

    async fn cancel_scheduled(
        &self,
        caller: Caller,
        _: String,
        _: String,
    ) -> anyhow::Result<Result<Cancellation, PublishError>> {
        Ok(Err(PublishError::InvalidEvent(not_later(&caller))))
    }
}

fn receipt(r: fanout_client::Receipt) -> Receipt {
    Receipt {
        position: wit::Position {
            partition: r.position.partition,
            offset: r.position.offset,
        },
        duplicate: r.duplicate,
        durable_subscriptions: r.durable_subscriptions,
    }
}

fn said(code: &str, message: &str) -> wit::Problem {
    wit::Problem {
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

/// The bus's refusal, as the contract says it. What it does not allow to this edge, it does not allow to the caller.
fn refusal(e: Error) -> PublishError {
    let p = said(&e.code, &e.message);
    match e.kind {
        ErrorKind::NotPermitted => PublishError::NotPermitted(p),
        ErrorKind::TooLarge => PublishError::TooLarge(p),
        ErrorKind::StoreFull => PublishError::StoreFull(p),
        ErrorKind::QuotaExceeded(wait) => PublishError::QuotaExceeded(wit::RefusalForNow {
            problem: p,
            retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        }),
        ErrorKind::Unavailable => PublishError::Unavailable(p),
        ErrorKind::OutcomeUnknown => PublishError::OutcomeUnknown(p),
        _ => PublishError::InvalidEvent(p),
    }
}

/// What an edge does not do.
fn not_here(caller: &Caller, what: &str) -> wit::Problem {
    problem(Problem::new(
        Code::NotAtAnEdge,
        format!(
            "{}: {what} at an edge: declare the subscription in a link from the edge to the component",
            authority::describe(&caller.component, &caller.link)
        ),
    ))
}

/// An edge keeps nothing.
fn not_later(caller: &Caller) -> wit::Problem {
    problem(Problem::new(
        Code::NotAtAnEdge,
        format!(
            "{}: events are not kept for later at an edge, nor cancelled: link the component to the bus itself",
            authority::describe(&caller.component, &caller.link)
        ),
    ))
}

type Answer<T> = anyhow::Result<Result<T, SubscribeError>>;

fn no_calls<T>(caller: &Caller) -> Answer<T> {
    let why = "subscriptions are not made by calls";
    Ok(Err(SubscribeError::InvalidRequest(not_here(caller, why))))
}

impl SubscriberHandler<Caller> for AtEdge {
    async fn subscribe_queue(&self, caller: Caller, _: String, _: Filter, _: Reach) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn subscribe_durable(&self, caller: Caller, _: String, _: DeliveryOptions) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn subscribe_backfill(
        &self,
        caller: Caller,
        _: String,
        _: Start,
        _: Option<End>,
        _: DeliveryOptions,
    ) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn unsubscribe(&self, caller: Caller, _: String) -> Answer<()> {
        no_calls(&caller)
    }

    async fn pause(&self, caller: Caller, _: String) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn resume(&self, caller: Caller, _: String) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn rewind(&self, caller: Caller, _: String, _: Start) -> Answer<Subscription> {
        no_calls(&caller)
    }

    async fn list_subscriptions(&self, caller: Caller) -> Answer<Vec<Subscription>> {
        no_calls(&caller)
    }
}

impl InboxHandler<Caller> for AtEdge {
    async fn fetch(
        &self,
        caller: Caller,
        _: String,
        _: u32,
        _: Option<u64>,
        _: u32,
    ) -> anyhow::Result<Result<Fetched, InboxError>> {
        let why = "deliveries are not fetched";
        Ok(Err(InboxError::InvalidRequest(not_here(&caller, why))))
    }

    async fn settle(
        &self,
        caller: Caller,
        settlements: Vec<Settlement>,
    ) -> anyhow::Result<Vec<Result<Settled, SettleError>>> {
        let refused = || SettleError::InvalidToken(not_here(&caller, "deliveries are not fetched, nor settled,"));
        Ok(settlements.iter().map(|_| Err(refused())).collect())
    }
}

impl StatusHandler<Caller> for AtEdge {
    async fn links(&self, caller: Caller) -> anyhow::Result<Vec<LinkStatus>> {
        let outcomes = self.edge.outcomes();
        let mine = outcomes.iter().filter(|(key, _)| key.component == caller.component);
        Ok(mine
            .map(|(key, outcome)| LinkStatus {
                name: key.name.clone(),
                subscription: outcome.subscription.as_ref().map(ToString::to_string),
                state: if outcome.problems.is_empty() {
                    LinkState::Applied
                } else {
                    LinkState::Refused(outcome.problems.iter().cloned().map(problem).collect())
                },
            })
            .collect())
    }
}
