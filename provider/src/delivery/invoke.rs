//! Invokes the subscriber and settles each event by its own answer, within its lease.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Problem};
use tracing::debug;

use super::Context;
use super::processing::Processing;
use super::settle::{InFlight, Settler};
use super::state::DeliveryState;
use super::target::CallFailure;

/// A lease is to outlast an invocation by this part of it, which its renewal and a settlement may take on their way.
const ON_THE_WAY: u32 = 20;

/// Invokes the subscriber with all events, in as many invocations as that takes, one after another, and settles each. Returns
/// them, each in the state that it is in then.
///
/// `renewed_at` is when the leases began: none ends while its event waits here, or is worked on. Once deliveries are over,
/// no further invocation begins, and what is left is to be delivered again.
pub(super) async fn invoke(
    context: &Context,
    settler: &Settler,
    (events, mut renewed_at): (Vec<InFlight>, Instant),
    is_over: impl Fn() -> bool,
) -> Vec<InFlight> {
    let policy = context.store.policy();
    let longest = policy.delivery.deadline + policy.delivery.ack_wait / ON_THE_WAY;
    let mut answered = Vec::with_capacity(events.len());
    let mut waiting = VecDeque::from(parts(events, context.store.nats().max_payload()));
    while let Some(part) = waiting.pop_front() {
        if is_over() {
            answered.extend(all(part, DeliveryState::Retry(Duration::ZERO)));
            continue;
        }
        if renewed_at.elapsed() + longest >= policy.delivery.ack_wait {
            renewed_at = Instant::now();
            for event in part.iter().chain(waiting.iter().flatten()) {
                event.renew().await;
            }
        }
        match invoke_once(context, settler, part).await {
            Invoked::Answered(part) => answered.extend(part),
            Invoked::Unreachable(part, wait) => {
                let rest = part.into_iter().chain(waiting.drain(..).flatten());
                answered.extend(all(rest, DeliveryState::SubscriberUnavailable(wait)));
            }
            Invoked::Failed(part) => part.into_iter().rev().for_each(|e| waiting.push_front(vec![e])),
        }
    }
    answered
}

fn all(events: impl IntoIterator<Item = InFlight>, state: DeliveryState) -> impl Iterator<Item = InFlight> {
    events.into_iter().map(move |event| InFlight { state, ..event })
}

/// What came of one invocation.
enum Invoked {
    Answered(Vec<InFlight>),
    /// It was not seen; the subscriber is left alone for this time.
    Unreachable(Vec<InFlight>, Duration),
    /// One event may have failed all of them: each is to be tried alone, so that only its own attempt counts.
    Failed(Vec<InFlight>),
}

async fn invoke_once(context: &Context, settler: &Settler, mut events: Vec<InFlight>) -> Invoked {
    let mut deliveries: Vec<_> = events.iter().map(|e| e.delivery.clone()).collect();
    events.iter_mut().for_each(InFlight::begin);
    let reach = context.registered.subscription.reach;
    let mut processing = Processing::begin(context, &mut deliveries);
    let handled = context.target.handle(reach, deliveries).await;
    processing.ended(&handled);
    let answers = match handled {
        Ok(answers) => answers,
        Err(CallFailure::Unreachable) => {
            let wait = context.health.fails(Problem::new(
                Code::SubscriberUnreachable,
                format!(
                    "subscription {}: component {} can't be reached: start it, or find out why it stopped; its events wait in the log",
                    context.name(),
                    context.registered.component
                ),
            ));
            return Invoked::Unreachable(events, wait);
        }
        Err(failure) if events.len() > 1 && reach == Reach::BatchHandler => {
            debug!(subscription = %context.name(), %failure, "a batch failed and is delivered one by one");
            return Invoked::Failed(events);
        }
        Err(failure) => {
            events.iter_mut().for_each(|e| e.call.code = Some(failure.code()));
            events.iter().map(|_| Err(failure.as_rejection())).collect()
        }
    };
    context.health.works(context.name().as_str());
    for (event, answer) in events.iter_mut().zip(answers) {
        processing.settle(settler, event, answer).await;
    }
    Invoked::Answered(events)
}

/// Splits so that the parameters of each invocation stay below the server's `max_payload`: a stock host's client loses
/// the first chunk of what is larger now and then (wrpc-transport-nats 0.29).
fn parts(events: Vec<InFlight>, max_payload: usize) -> Vec<Vec<InFlight>> {
    let mut parts: Vec<Vec<InFlight>> = Vec::new();
    let mut bytes_left = 0;
    for event in events {
        let size = event.delivery.bytes();
        match parts.last_mut() {
            Some(part) if size <= bytes_left => part.push(event),
            _ => {
                bytes_left = max_payload;
                parts.push(vec![event]);
            }
        }
        bytes_left = bytes_left.saturating_sub(size);
    }
    parts
}
