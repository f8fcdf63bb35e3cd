//! The bindings of the contract (`wit/`), generated once: whoever serves a function, calls it or hands on what it
//! carries has these types.
//!
//! Deliberately absent: what anything means. Whoever translates to words of their own does so at their own boundary.

/// The world of a bus: serves what components call, calls what they export.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, which carries the documentation"
)]
pub mod bus {
    wit_bindgen_wrpc::generate!({
        path: "../../wit",
        world: "bus",
        generate_all,
    });
}

/// The world of a component, and of any other caller: calls a bus, serves its deliveries.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, which carries the documentation"
)]
pub mod component {
    wit_bindgen_wrpc::generate!({
        path: "../../wit",
        world: "component",
        with: { "fanout:bus/types@0.2.0": crate::bus::fanout::bus::types },
        generate_all,
    });
}

pub use bus::fanout::bus::{backfill_handler, types};
pub use component::fanout::bus::{inbox, publisher, status, subscriber};

fanout_attempts::meanings!(crate::types);

/// `publisher`, as a call names it.
pub const PUBLISHER: &str = "fanout:bus/publisher@0.2.0";
/// `subscriber`, as a call names it.
pub const SUBSCRIBER: &str = "fanout:bus/subscriber@0.2.0";
/// `inbox`, as a call names it.
pub const INBOX: &str = "fanout:bus/inbox@0.2.0";
/// `status`, as a call names it.
pub const STATUS: &str = "fanout:bus/status@0.2.0";
/// `handler`, as a call names it.
pub const HANDLER: &str = "fanout:bus/handler@0.2.0";
/// `batch-handler`, as a call names it.
pub const BATCH_HANDLER: &str = "fanout:bus/batch-handler@0.2.0";
