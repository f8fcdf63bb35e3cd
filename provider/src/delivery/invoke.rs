//! Hands events to the subscriber and settles each by its own answer.

use async_nats::jetstream::AckKind;
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Problem};
use tracing::debug;

use super::Context;
use super::settle::{Held, Next, Settler};
use crate::wrpc::CallFailure;

/// Bytes that an event's attributes may take on the wire besides its payload, counted generously.
const ATTRIBUTES_BYTES: usize = 4 << 10;

/// One invocation with all of `held`, which stay below [`parts`]'s bound. Returns what comes of each next, in order.
pub(super) async fn invoke(context: &Context, settler: &Settler, mut held: Vec<Held>) -> Vec<(Held, Next)> {
    let deliveries: Vec<_> = held.iter().map(|h| h.delivery.clone()).collect();
    let reach = context.registered.subscription.reach;
    let mut settled = Vec::with_capacity(held.len());
    match context.subscriber.handle(reach, deliveries).await {
        Ok(results) => {
            context.health.works(context.name().as_str());
            for (mut h, result) in held.into_iter().zip(results) {
                let next = settler.settle(&mut h, result).await;
                settled.push((h, next));
            }
        }
        Err(CallFailure::Unreachable) => {
            let wait = context.health.fails(Problem::new(
                Code::SubscriberUnreachable,
                format!(
                    "subscription {}: component {} can't be reached: start it, or look why it stopped; its events wait in the log",
                    context.name(),
                    context.registered.component
                ),
            ));
            settled.extend(held.into_iter().map(|h| (h, Next::Unreached(wait))));
        }
        Err(failure) if held.len() > 1 && reach == Reach::BatchHandler => {
            // One event may have failed all of them: each is tried alone, so that only its own attempt counts.
            debug!(subscription = %context.name(), %failure, "a batch failed and is delivered one by one");
            for h in held {
                h.source.tell(AckKind::Progress).await;
                settled.extend(Box::pin(invoke(context, settler, vec![h])).await);
            }
        }
        Err(failure) => {
            context.health.works(context.name().as_str());
            for mut h in held.drain(..) {
                let next = settler.settle(&mut h, Err(failure.as_rejection())).await;
                settled.push((h, next));
            }
        }
    }
    settled
}

/// Splits so that the parameters of each invocation stay below the server's `max_payload`: a stock host's client loses
/// the first chunk of what is larger now and then (wrpc-transport-nats 0.29).
pub(super) fn parts(held: Vec<Held>, max_payload: usize) -> Vec<Vec<Held>> {
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
