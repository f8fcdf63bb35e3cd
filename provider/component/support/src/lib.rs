//! What the bus's own components share: the contract's types, how they are written on the wire, and calls to a bus.
//!
//! Start at [`Bus`]. [`wire`] writes and reads values as wRPC does, [`contract`] lists the contract's types for it, [`answer`]
//! says what a response of HTTP means, [`settings`] reads what the operator said, and `over_http` sends requests by `wasi:http`.
//!
//! A component is called from the outside, one call at a time, by a host that gives it nothing but interfaces: no threads, no
//! sockets of its own choice, no runtime. So all of this is synchronous and small; the generated bindings of `fanout-wit` would
//! bring a runtime and a copy of each type. A test holds every type's bytes to theirs.

pub mod answer;
pub mod bus;
pub mod contract;
#[cfg(target_family = "wasm")]
pub mod over_http;
pub mod settings;
pub mod wire;

pub use bus::{Bus, Refusal, World};
pub use contract::types;
pub use settings::Settings;
