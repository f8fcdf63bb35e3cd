//! The runner for a component that exports `handler` and `backfill-handler`. See `fanout-runner`.

#![cfg(target_family = "wasm")]
#![allow(unsafe_code, missing_docs, reason = "the generated bindings cross the boundary")]

fanout_runner::runner! {
    world: "
        package fanout:runner;
        world runner {
            export wasi:cli/run@0.3.0;
            import fanout:bus/handler@0.2.0;
            import fanout:bus/backfill-handler@0.2.0;
        }
    ",
    one: fanout::bus::handler::handle_event,
    notified: fanout::bus::backfill_handler::handle_caught_up,
}
