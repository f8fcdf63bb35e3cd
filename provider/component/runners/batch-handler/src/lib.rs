//! The runner for a component that exports `batch-handler`. See `fanout-runner`.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

use fanout_component::types::{BackfillProgress, Delivery, Rejection};
use fanout_runner::{Misconfigured, Subscriber, serve};

wit_bindgen::generate!({
    inline: "
        package fanout:runner;
        world runner {
            export wasi:cli/run@0.3.0;
            import fanout:bus/batch-handler@0.2.0;
        }
    ",
    path: ["../../../../wit", "../../runner/wit"],
    with: {
        "fanout:bus/types@0.2.0": fanout_component::types,
        "fanout:bus/batch-handler@0.2.0": generate,
    },
});

struct Service;

export!(Service);

impl exports::wasi::cli::run::Guest for Service {
    /// Nothing is awaited: each call of the host is one that waits.
    async fn run() -> Result<(), ()> {
        let Err(Misconfigured) = serve(Beside);
        Err(())
    }
}

/// The component in the same workload.
struct Beside;

impl Subscriber for Beside {
    const TAKES_BATCHES: bool = true;
    const IS_TOLD: bool = false;

    fn handle(&self, deliveries: &[Delivery]) -> Vec<Result<(), Rejection>> {
        fanout::bus::batch_handler::handle_events(deliveries)
    }

    fn caught_up(&self, _: &BackfillProgress) -> Result<(), Rejection> {
        Ok(())
    }
}
