//! wRPC over any transport, isolated and bounded.
//!
//! It owns the exchange of bytes with a peer: connections, handshakes, frames, repeats, deadlines, limits, and how a
//! peer is known. It knows nothing of buses, tenants or links; a handler is told who calls, and judges for itself. WIT
//! streams, futures and resources are not carried.
//!
//! One [`Service`] of functions is served on
//!
//! - the wasmCloud v1 lattice (NATS): [`connect()`], [`Lattice`], [`Server`]. Wire-compatible with wrpc-transport-nats
//!   0.29, which a wasmCloud v1 host links, on the newest wRPC line;
//! - TCP, TLS, Unix sockets, QUIC and WebTransport: [`Endpoint`], [`Listener`], [`Serving`]. Stock wRPC peers are served
//!   there; ours get more, see [`Dialect`].
//!
//! It is called by [`Remote`] on any of them, or by [`Client`] on a lattice that is at hand. Both are for generated
//! bindings ([`wrpc_transport::Invoke`]) or typed values. [`Error::outcome`] tells what is known of a handler after an
//! error.

mod access;
mod budget;
mod call;
mod caller;
mod connect;
mod connect_options;
mod dial;
mod direct;
mod endpoint;
mod error;
mod framed;
mod frames;
mod functions;
mod group;
mod guard;
mod host;
mod inboxes;
mod lattice;
mod listen;
mod mailbox;
mod options;
mod outbox;
mod parameters;
mod quic;
mod remote;
mod reply;
mod serve;
mod server;
mod service;
mod session;
mod shape;
mod shares;
mod strangers;
mod subscription;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod wire;

pub use access::{Access, Login, NatsTls, Secret, SecretFrom};
/// Why NATS could not be connected to.
pub use async_nats::ConnectErrorKind;
pub use call::{CallContext, Client};
pub use caller::{Caller, CertificateNames, Identity, traceparent};
pub use connect::connect;
pub use connect_options::{ConnectOptions, Dialect};
pub use direct::encode;
pub use endpoint::{Authority, Endpoint, EndpointError, UrlPath};
pub use error::{CodecError, Error, Outcome, Part, Resource};
pub use functions::wait_aside;
pub use guard::{Guard, Refusal, listed};
pub use host::{HostControl, HostIds};
pub use inboxes::{BadInboxPrefix, DEFAULT_INBOX_PREFIX, InboxPrefix, Inboxes, ReplyTo};
pub use lattice::{Lattice, Load};
pub use listen::{ListenOptions, Listener, Serving, raise_open_files};
pub use options::Options;
pub use remote::Remote;
pub use serve::{Port, Served};
pub use server::{Drained, Server};
pub use service::Service;
pub use shape::{Shape, TooMany};
pub use strangers::Tally;
pub use tls::{ClientIdentity, ClientTls, Pem, ServerTls};
