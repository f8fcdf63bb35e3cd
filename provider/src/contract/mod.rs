//! The contract: `fanout:bus` as it is served, and everything that translates between its types and the planner's.
//!
//! **Architecture invariant**: the contract's types (`fanout_wit`) do not leave this module, but for those that an edge
//! hands on as they are.

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

pub(crate) use edge::service as edge_service;
pub(crate) use serve::service;
pub(crate) use subscriber_call::{CallFailure, CaughtUp, Subscriber};
