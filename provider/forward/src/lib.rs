//! What stands between a bus and a component that the bus can't call: an edge beside a wasmCloud host, or a runtime
//! that hosts the component itself.
//!
//! Calls go up to the bus over wRPC, on any transport ([`Upstream`]). Deliveries come down by fetching: [`Deliveries`]
//! takes them from the bus's `inbox`, hands them to a [`Subscriber`], and settles each by its answer. The bus keeps
//! everything that must not be lost; nothing here outlives the process.
//!
//! The guarantee is the bus's own: a delivery is settled only after its subscriber answered. A crash in between, on
//! either side, delivers it again.
//!
//! Deliberately absent: who may call (the bus judges by the identity that the transport proved, an edge by its own
//! links besides), and where subscriptions are declared.

mod deliver;
mod hold;
mod lazy;
mod pause;
mod state;
mod upstream;
mod wanted;

pub use deliver::{Deliveries, Plan, Progress, Subscriber, Unhandled};
pub use lazy::Lazy;
pub use state::{Doing, State};
pub use upstream::{Inbox, Trouble, Upstream};
pub use wanted::{Need, Wanted, declared};
