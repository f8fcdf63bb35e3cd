//! Runs a component on `fanout:bus` without a wasmCloud host: its calls go to a bus over wRPC, on whatever transport the
//! bus is reached by, and its deliveries come back the same way.
//!
//! The component is the very file that a wasmCloud host would be given. It finds the interfaces of a wasmCloud 1.x host
//! around it, by that host's own bindings, as far as they make sense for one component: WASI, HTTP in, configuration,
//! secrets, logging, a key-value store in memory.
//!
//! Deliberately absent: a scheduler, signatures and registries of components, HTTP out, persistence. Who needs these has
//! a wasmCloud host.

mod bindings;
mod convert;
mod guest;
mod hosted;
mod http;
mod invoke;
mod keyvalue;
mod program;
mod surroundings;
mod upstream;

pub use hosted::{Order, keep};
pub use http::HttpServer;
pub use keyvalue::Buckets;
pub use program::Program;
pub use surroundings::{Secrets, Surroundings};
