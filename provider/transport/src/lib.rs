//! wRPC over the wasmCloud v1 lattice (NATS), isolated and bounded.
//!
//! Wire-compatible with wrpc-transport-nats 0.29, which a wasmCloud v1 host links, on the newest wRPC line. It owns the
//! exchange of bytes with a peer: handshake, chunks, repeats, deadlines, limits. It knows nothing of buses, tenants or
//! links; a handler is told who says to be calling, and judges for itself. WIT streams, futures and resources are not
//! carried.
//!
//! - [`connect`] and [`Lattice`]: one NATS connection and its inbox.
//! - [`Client`]: calls a target, by generated bindings ([`wrpc_transport::Invoke`]) or typed values.
//! - [`Server`]: serves functions, by generated bindings or a closure each, an isolated task for each invocation.
//! - [`Error::outcome`]: what is known of a handler after an error.

mod budget;
mod call;
mod caller;
mod connect;
mod direct;
mod error;
mod frames;
mod lattice;
mod mailbox;
mod options;
mod reply;
mod serve;
mod server;
#[cfg(feature = "testing")]
pub mod testing;
mod wire;

pub use call::{CallContext, Client};
pub use caller::Caller;
pub use connect::{Access, connect};
pub use error::{CodecError, Error, Outcome, Part, Resource};
pub use lattice::{Lattice, Load};
pub use options::Options;
pub use serve::{Port, Served};
pub use server::{Drained, Server};
