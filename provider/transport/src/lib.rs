//! wRPC over any transport, isolated and bounded.
//!
//! Start at [`Service`] for what is served, at [`Remote`] for what is called. `lattice/` is wRPC over NATS, `stream/` wRPC
//! on byte streams, `http/` wRPC over HTTP on those; the files beside them are what all share.
//!
//! It owns the exchange of bytes with a peer: connections, handshakes, frames, repeats, deadlines, limits, and how a
//! peer is known. It knows nothing of buses, tenants or links; a handler receives who calls, and judges for itself. WIT
//! streams, futures and resources are not carried.
//!
//! One [`Service`] of functions is served on
//!
//! - the wasmCloud v1 lattice (NATS): [`connect()`], [`Lattice`], [`Server`]. Wire-compatible with wrpc-transport-nats
//!   0.29, which a wasmCloud v1 host links, on the newest wRPC line;
//! - TCP, TLS, Unix sockets, QUIC and WebTransport: [`Endpoint`], [`Listener`], [`Serving`]. Stock wRPC peers are served
//!   there; callers of this crate speak sessions, which carry more;
//! - HTTP/1.1, plain and with TLS: the same [`Listener`]. What is no invocation is answered by what [`Service::http`] was
//!   given.
//!
//! It is called by [`Remote`] on any of them, or by [`Client`] on a lattice that is at hand. Both are for generated
//! bindings ([`wrpc_transport::Invoke`]) or typed values. [`Error::outcome`] is what is known of a handler after an
//! error.

mod bindings;
mod budget;
mod call_context;
mod caller;
mod chunks;
mod connect_options;
mod counts;
mod direct;
mod endpoint;
mod error;
mod failure;
mod frame_io;
mod frames;
mod functions;
mod group;
mod guard;
mod http;
mod inbox_prefix;
#[cfg(test)]
mod interleaved;
mod lattice;
mod options;
mod remote;
mod result_budget;
mod secret;
mod service;
mod shape;
mod shares;
mod stream;
mod tally;
#[cfg(feature = "testing")]
pub mod testing;
mod values;

pub use bindings::{Port, Served};
pub use call_context::CallContext;
pub use caller::{Caller, CertificateNames, Identity, TokenProof, traceparent};
pub use connect_options::ConnectOptions;
pub use counts::{TransportCounts, transport_counts};
pub use endpoint::{Authority, Endpoint, EndpointError, UrlPath};
pub use error::{Body, CodecError, Error, Outcome, Resource, causes};
pub use functions::{release_result, reserve_result, wait_without_permits};
pub use guard::{Guard, Refusal, listed};
pub use http::calls::Calls;
pub use http::problem::HttpProblem;
pub use http::request_body::RequestBody;
pub use inbox_prefix::{BadInboxPrefix, DEFAULT_INBOX_PREFIX, InboxPrefix};
pub use lattice::access::{Access, Login, NatsTls};
pub use lattice::client::Client;
pub use lattice::connect::connect;
pub use lattice::connection::{Lattice, Load};
pub use lattice::host::{HostControl, HostIds};
pub use lattice::inboxes::{Inboxes, ReplyTo};
pub use lattice::server::Server;
pub use options::Options;
pub use remote::Remote;
pub use secret::{Secret, SecretFrom};
pub use service::{Drained, Service};
pub use shape::{Shape, TooMany};
pub use stream::listen_options::ListenOptions;
pub use stream::listener::{Listener, Serving};
pub use stream::open_files::raise_open_files;
pub use stream::pem::Pem;
pub use stream::server_credentials::Renewal;
pub use stream::tls_config::{ClientIdentity, ClientTls, ServerTls};
pub use tally::Tally;
pub use values::{decode, encode};
