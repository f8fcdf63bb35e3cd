//! Deliveries to a component that the bus can't call: a service of its workload fetches them, hands them to the `handler` or
//! `batch-handler` beside it, and settles each by its answer.
//!
//! [`Plan`] is what the operator wants, [`Runner`] does it. A service imports what it calls, and a workload whose component
//! lacks an import does not start: there is a component of its own for each combination of handlers, and each of them is the
//! macro `runner` with other imports, which is [`serve`] with another [`Subscriber`].
//!
//! One thing at a time: while a handler works, nothing else in its runner does. More at a time is more replicas of the workload,
//! which share a subscription.

mod attempts;
#[cfg(target_family = "wasm")]
mod component;
mod inbox;
mod plan;
mod runner;
#[cfg(target_family = "wasm")]
mod service;

pub use attempts::Attempts;
pub use inbox::{Inbox, Trouble};
pub use plan::{Called, Declared, Need, Plan};
pub use runner::{Runner, Subscriber};
#[cfg(target_family = "wasm")]
pub use service::{Misconfigured, serve};
