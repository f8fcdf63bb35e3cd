//! The `fanout:bus` capability provider for wasmCloud v1.
//!
//! - `provider`: started by a wasmCloud host; `serve`: started by a person; `running_bus`: what both share.
//! - `link`: what the host says of links.
//! - `bus`: the one path of every change: observe, plan (crate `fanout-plan`), apply, run.
//! - `quota`: whether a tenant may publish.
//! - `telemetry`: what is counted and shown of all that.
//! - `journal`: what is written down of deliveries; [`life`]: what became of one event.
//! - [`jetstream`]: the store, which the command line works on too. `delivery`: events to subscribers. `inbox`: those
//!   that are fetched. `target`: what deliveries are handed to. `contract`: the contract's functions.
//!
//! Deliberately absent: routing, filters and retry decisions, which are the planner's; bytes on the lattice, which are
//! `fanout-transport`'s.

mod backoff;
mod bus;
mod clock;
mod contract;
mod delivery;
mod edge;
mod floors;
mod gap;
mod inbox;
pub mod jetstream;
mod journal;
mod last_known;
pub mod life;
mod link;
mod listeners;
mod matching;
mod provider;
mod quota;
mod running_bus;
mod serve;
mod status;
mod target;
mod telemetry;
mod view;
mod wanted;
mod watchdog;

pub use contract::{Share, TailLimits};
pub use provider::run;
pub use serve::{ServeError, Server, serve};
pub use telemetry::{log_as_json, log_to_standard_error};
