//! The runner for a component that exports `batch-handler` and `backfill-handler`. See `fanout-runner`.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

fanout_runner::runner! {
    world: "
        package fanout:runner;
        world runner {
            export wasi:cli/run@0.3.0;
            import fanout:bus/batch-handler@0.2.0;
            import fanout:bus/backfill-handler@0.2.0;
        }
    ",
    many: fanout::bus::batch_handler::handle_events,
    notified: fanout::bus::backfill_handler::handle_caught_up,
}
