//! What stands between a bus and a component that the bus can't call: an edge beside a wasmCloud host, or a runtime that
//! hosts the component itself. [`Deliveries`] fetches a subscription, hands it to a [`Subscriber`], and settles each
//! delivery by its answer.
//!
//! The guarantee is the bus's own: a delivery is settled only after its subscriber answered. A crash in between, on either
//! side, delivers the event again. Nothing here outlives the process.
//!
//! Deliberately absent: who may call (the bus judges by the identity that the transport proved, an edge by its own links
//! besides), and where subscriptions are declared.

mod declared;
mod deliver;
mod state;

pub use declared::declared;
pub use deliver::{Deliveries, Plan, Progress, Subscriber, Unhandled};
pub use state::{Doing, State};
