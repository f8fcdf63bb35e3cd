//! Hands events to the subscriber and settles each by its own answer, within the hold that the store gave.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Problem};
use tracing::debug;

use super::Context;
use super::settle::{Held, Next, Settler};
use crate::contract::CallFailure;

/// Bytes that an event's attributes may take on the wire besides its payload, counted generously.
const ATTRIBUTES_BYTES: usize = 4 << 10;

/// A hold is to outlast an invocation by this part of it, which a word to the store and a settlement may take on their way.
const ON_THE_WAY: u32 = 20;

/// Invokes the subscriber with all of `held`, in as many invocations as that takes, one after another. Returns what comes of
/// each event next.
///
/// `held_since` is when the store last heard of their hold: none ends while they wait here, or are worked on. Once deliveries
/// are over, no further invocation begins, and what is left is given back.
pub(super) async fn invoke(
    context: &Context,
    settler: &Settler,
    (held, mut held_since): (Vec<Held>, Instant),
    is_over: impl Fn() -> bool,
) -> Vec<(Held, Next)> {
    let policy = context.store.policy();
    let longest = policy.delivery_deadline + policy.ack_wait / ON_THE_WAY;
    let mut settled = Vec::with_capacity(held.len());
    let mut waiting = VecDeque::from(parts(held, context.store.nats().max_payload()));
    while let Some(part) = waiting.pop_front() {
        if is_over() {
            settled.extend(part.into_iter().map(|h| (h, Next::Again(Duration::ZERO))));
            continue;
        }
        if held_since.elapsed() + longest >= policy.ack_wait {
            held_since = Instant::now();
            for h in part.iter().chain(waiting.iter().flatten()) {
                h.source.tell(AckKind::Progress).await;
            }
        }
        match invoke_once(context, settler, part).await {
            Invoked::Settled(part) => settled.extend(part),
            Invoked::Unreached(part, wait) => {
                let rest = part.into_iter().chain(waiting.drain(..).flatten());
                settled.extend(rest.map(|h| (h, Next::Unreached(wait))));
            }
            Invoked::Failed(part) => part.into_iter().rev().for_each(|h| waiting.push_front(vec![h])),
        }
    }
    settled
}

/// What came of one invocation.
enum Invoked {
    Settled(Vec<(Held, Next)>),
    /// It was not seen; for so long the subscriber is left alone.
    Unreached(Vec<Held>, Duration),
    /// One event may have failed all of them: each is to be tried alone, so that only its own attempt counts.
    Failed(Vec<Held>),
}

async fn invoke_once(context: &Context, settler: &Settler, held: Vec<Held>) -> Invoked {
    let deliveries: Vec<_> = held.iter().map(|h| h.delivery.clone()).collect();
    let reach = context.registered.subscription.reach;
    let answers = match context.subscriber.handle(reach, deliveries).await {
        Ok(answers) => answers,
        Err(CallFailure::Unreachable) => {
            let wait = context.health.fails(Problem::new(
                Code::SubscriberUnreachable,
                format!(
                    "subscription {}: component {} can't be reached: start it, or look why it stopped; its events wait in the log",
                    context.name(),
                    context.registered.component
                ),
            ));
            return Invoked::Unreached(held, wait);
        }
        Err(failure) if held.len() > 1 && reach == Reach::BatchHandler => {
            debug!(subscription = %context.name(), %failure, "a batch failed and is delivered one by one");
            return Invoked::Failed(held);
        }
        Err(failure) => held.iter().map(|_| Err(failure.as_rejection())).collect(),
    };
    context.health.works(context.name().as_str());
    let mut settled = Vec::with_capacity(held.len());
    for (mut h, answer) in held.into_iter().zip(answers) {
        let next = settler.settle(&mut h, answer).await;
        settled.push((h, next));
    }
    Invoked::Settled(settled)
}

/// Splits so that the parameters of each invocation stay below the server's `max_payload`: a stock host's client loses
/// the first chunk of what is larger now and then (wrpc-transport-nats 0.29).
fn parts(held: Vec<Held>, max_payload: usize) -> Vec<Vec<Held>> {
    let mut parts: Vec<Vec<Held>> = Vec::new();
    let mut room = 0;
    for h in held {
        let size = h.delivery.data.len() + ATTRIBUTES_BYTES;
        match parts.last_mut() {
            Some(part) if size <= room => part.push(h),
            _ => {
                room = max_payload;
                parts.push(vec![h]);
            }
        }
        room = room.saturating_sub(size);
    }
    parts
}
