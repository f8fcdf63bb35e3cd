//! What the example components share, so that each of them shows only its own work.
//!
//! - [`answer`]: HTTP answers in JSON, and [`body`], which reads a request's body up to a limit.
//! - [`path`]: the segments of a request's path.
//! - [`delivery`]: a delivery and its rejection as plain Rust, without the generated bindings.
//! - [`batch`]: a batch of deliveries into the store.
//! - [`key`]: keys that every key-value store accepts.
//! - [`store`]: the key-value store as a trait, and what is built on it; [`memory`] is one for tests.
//! - [`stripe`]: the shape of Stripe's events.
//!
//! All of it is plain Rust that runs natively, but for three modules that touch the host and exist only in a component: `bus` (the
//! bindings of the bus's types), `secrets` and `wasi_store`.

pub mod answer;
pub mod batch;
pub mod body;
#[cfg(target_family = "wasm")]
pub mod bus;
pub mod delivery;
pub mod key;
pub mod memory;
pub mod path;
#[cfg(target_family = "wasm")]
pub mod secrets;
pub mod store;
pub mod stripe;
#[cfg(target_family = "wasm")]
pub mod wasi_store;
