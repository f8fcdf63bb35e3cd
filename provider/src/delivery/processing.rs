//! How invocations of a subscriber are seen: how long they take, and, where traces are exported, a span of each beside the
//! publish of its events, with what came of each.

use std::time::Instant;

use fanout_plan::Code;
use fanout_plan::retry::Rejection;

use super::settle::{InFlight, Settler};
use super::state::DeliveryState;
use super::target::CallFailure;
use super::{Context, Delivery, Health};
use crate::telemetry::spans::{self, Operation, Span};

/// One invocation.
pub(super) struct Processing<'a> {
    context: &'a Context,
    began: Instant,
    span: Option<Span>,
}

impl<'a> Processing<'a> {
    /// Begins it. What the subscriber does is a part of it: its deliveries bring the span's trace context instead of their
    /// publisher's, to which the span is linked. That of one event alone is also its parent, so that both are one trace.
    pub(super) fn begin(context: &'a Context, deliveries: &mut [Delivery]) -> Self {
        let span = spans::is_on().then(|| Self::span(context, deliveries)).flatten();
        if let Some(span) = &span {
            let traceparent = span.traceparent();
            for delivery in deliveries {
                delivery.traceparent = Some(traceparent.clone());
            }
        }
        Self {
            context,
            began: Instant::now(),
            span,
        }
    }

    fn span(context: &Context, deliveries: &[Delivery]) -> Option<Span> {
        let policy = context.store.policy();
        let published = || deliveries.iter().filter_map(|d| d.traceparent.as_deref());
        let parent = published().next().filter(|_| deliveries.len() == 1);
        let mut span = Span::begin(Operation::Process, Some(policy), parent, published())?;
        span.set("messaging.consumer.group.name", context.name().as_str().to_owned());
        match deliveries {
            [delivery] => about(&mut span, context, delivery),
            _ => span.set(spans::COUNT, count(deliveries.len())),
        }
        Some(span)
    }

    /// The subscriber answered, or did not.
    pub(super) fn ended(&mut self, handled: &Result<Vec<Result<(), Rejection>>, CallFailure>) {
        match handled {
            Err(CallFailure::Unreachable) => Health::count(&self.context.health.unreachable),
            _ => self.context.health.process.since(self.began),
        }
        let Some(span) = &mut self.span else { return };
        match handled {
            Ok(answers) => {
                let mut rejected = answers.iter().filter_map(|answer| answer.as_ref().err());
                if let Some(first) = rejected.next() {
                    span.fail(Code::Rejected.as_str(), first.reason());
                    span.set("fanout.rejected", count(1 + rejected.count()));
                }
            }
            Err(failure) => span.fail(failure.code(), &failure.to_string()),
        }
        span.end();
    }

    /// Settles an event by its answer.
    pub(super) async fn settle(&self, settler: &Settler, event: &mut InFlight, answer: Result<(), Rejection>) {
        let mut settling = self.span.as_ref().and_then(|within| {
            let policy = Some(self.context.store.policy());
            let mut span = Span::begin(Operation::Settle, policy, Some(&within.traceparent()), [])?;
            span.set("messaging.consumer.group.name", self.context.name().as_str().to_owned());
            about(&mut span, self.context, &event.delivery);
            Some((
                span,
                answer.as_ref().err().map(|rejection| rejection.reason().to_owned()),
            ))
        });
        let state = settler.settle(event, answer).await;
        if let Some((span, refused)) = &mut settling {
            settled(span, state, refused.as_deref());
        }
    }
}

/// Settles an event that was fetched by its fetcher's verdict. Where traces are exported its span is a part of the trace of its
/// publish: the call that brought the verdict may settle many.
pub(crate) async fn settle_fetched(
    context: &Context,
    settler: &Settler,
    event: &mut InFlight,
    answer: Result<(), Rejection>,
) -> DeliveryState {
    let begin = || {
        let published = event.delivery.traceparent.as_deref();
        let mut span = Span::begin(Operation::Settle, Some(context.store.policy()), published, [])?;
        span.set("messaging.consumer.group.name", context.name().as_str().to_owned());
        about(&mut span, context, &event.delivery);
        Some(span)
    };
    let mut span = spans::is_on().then(begin).flatten();
    let refused = answer.as_ref().err().map(|rejection| rejection.reason().to_owned());
    let state = settler.settle(event, answer).await;
    if let Some(span) = &mut span {
        settled(span, state, refused.as_deref());
    }
    state
}

/// What came of an event, and of what it was refused for.
fn settled(span: &mut Span, state: DeliveryState, refused: Option<&str>) {
    let (outcome, code) = match (state, refused) {
        (DeliveryState::Settled, None) => ("handled", None),
        (DeliveryState::Settled, Some(_)) => ("dead-lettered", Some(Code::Rejected)),
        (DeliveryState::WaitingRetry | DeliveryState::Retry(_), _) => ("retry", Some(Code::Rejected)),
        (DeliveryState::StoreUnavailable(_), _) => ("waits-for-store", Some(Code::StoreUnavailable)),
        (DeliveryState::SubscriberUnavailable(_), _) => ("waits", Some(Code::SubscriberUnreachable)),
        (DeliveryState::New | DeliveryState::InFlight, _) => ("in-flight", None),
    };
    span.set(spans::OUTCOME, outcome);
    if let Some(code) = code {
        span.fail(code.as_str(), refused.unwrap_or_default());
    }
}

/// What one event is.
fn about(span: &mut Span, context: &Context, delivery: &Delivery) {
    let attributes = &delivery.attributes;
    span.say("messaging.message.id", attributes.id());
    span.say("cloudevents.event_id", attributes.id());
    span.say("cloudevents.event_source", attributes.source());
    span.say("cloudevents.event_type", attributes.event_type().as_str());
    span.set("messaging.message.body.size", count(delivery.data.len()));
    span.set(spans::POSITION, delivery.position.to_string());
    span.set(spans::ATTEMPT, i64::from(delivery.attempt));
    span.tenant(context.store.policy(), attributes.tenant());
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
