//! What the benches `host` and `host-v2`, and a test of traps, run in a wasmCloud host, under several names: it tells of what it
//! is given, whichever way that came, and publishes what it is told to, whichever way that goes.
//!
//! An instance lives for one invocation, so it can't count. It tells of each invocation with one small message through
//! the host's own messaging, which costs every way the same; the bench adds up.

#![cfg(target_family = "wasm")]

mod order;

use exports::fanout::bus::{batch_handler, handler};
use exports::wasmcloud::messaging::handler as messages;
use fanout::bus::types::{Delivery, Rejection};
use wasmcloud::messaging::consumer;
use wasmcloud::messaging::types::BrokerMessage;

wit_bindgen::generate!({
    path: ["../../../wit", "wit/messaging.wit", "wit/world.wit"],
    world: "bench:component/bench-component",
    generate_all,
});

/// Where it is told how many were handled.
const HANDLED: &str = "bench.handled";

struct Component;

export!(Component);

impl handler::Guest for Component {
    fn handle_event(delivery: Delivery) -> Result<(), Rejection> {
        trap_at(&delivery);
        tell(HANDLED, "1").map_err(Rejection::Retry)
    }
}

impl batch_handler::Guest for Component {
    fn handle_events(deliveries: Vec<Delivery>) -> Vec<Result<(), Rejection>> {
        deliveries.iter().for_each(trap_at);
        let told = tell(HANDLED, &deliveries.len().to_string()).map_err(Rejection::Retry);
        deliveries.iter().map(|_| told.clone()).collect()
    }
}

impl messages::Guest for Component {
    /// A message that wants an answer is an order.
    fn handle_message(message: BrokerMessage) -> Result<(), String> {
        let Some(answer_to) = message.reply_to else {
            return tell(HANDLED, "1");
        };
        let carried_out = String::from_utf8(message.body)
            .map_err(|_| "an order is text".to_owned())
            .and_then(|order| order::carry_out(&order));
        tell(
            &answer_to,
            &carried_out.map_or_else(|error| error, |()| "done".to_owned()),
        )
    }
}

/// A test wants to see what becomes of an event at which its handler traps.
fn trap_at(delivery: &Delivery) {
    assert!(
        !delivery.event.id.starts_with("trap"),
        "trapped at {}",
        delivery.event.id
    );
}

fn tell(subject: &str, text: &str) -> Result<(), String> {
    consumer::publish(&BrokerMessage {
        subject: subject.to_owned(),
        body: text.as_bytes().to_vec(),
        reply_to: None,
    })
}
