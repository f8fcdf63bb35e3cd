//! The smallest component that handles events. Which events, and how safely, is said by the link in its manifest:
//! `subscription: minimal`, `need: durable`.

#![cfg(target_family = "wasm")]

use exports::fanout::bus::handler::{Delivery, Guest, Rejection};
use wasmcloud_component::info;

wit_bindgen::generate!({ path: ["../../wit", "wit"], world: "example:minimal/minimal", generate_all });

struct Minimal;

impl Guest for Minimal {
    fn handle_event(delivery: Delivery) -> Result<(), Rejection> {
        let event = delivery.event;
        if event.data.is_empty() {
            return Err(Rejection::DeadLetter("the event has no data".to_owned()));
        }
        info!("{} {:?} of {}", event.event_type, event.id, event.tenant);
        Ok(())
    }
}

export!(Minimal);
