//! The generated bindings of `fanout:bus`, and everything that translates between them and the planner's words.
//!
//! **Architecture invariant**: generated types do not leave this module.

mod convert;
mod edge;
mod errors;
mod guard;
mod inbox;
mod publisher;
mod publishing;
mod scheduling;
mod serve;
mod shapes;
mod status;
mod subscriber;
mod subscriber_call;
mod together;

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from wit/, which carries the documentation"
)]
mod bindings {
    wit_bindgen_wrpc::generate!({
        path: "../wit",
        world: "bus",
        // An edge hands on what it is given as it is.
        with: { "fanout:bus/types@0.1.0": fanout_forward::bindings::fanout::bus::types },
        generate_all,
    });
}

pub(crate) use edge::service as edge_service;
pub(crate) use serve::service;
pub(crate) use subscriber_call::{CallFailure, CaughtUp, Subscriber};
