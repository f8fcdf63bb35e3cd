//! wRPC over HTTP/1.1, and whatever else a service answers there. Start at [`connection`] for what is served, at [`client`]
//! for what is called.
//!
//! A connection comes from the same admission as any other byte stream, and holds the same slot: [`crate::stream`] owns
//! those. Here is what HTTP adds: [`connection`] drives one of them by hyper within the limits of [`activity`],
//! [`respond`] answers one request, [`authenticate`] knows its caller, [`invocation`] makes a call of it, and
//! [`router`] hands what is no call to the service's own routes with [`calls`], by which those make calls.
//!
//! Deliberately absent: HTTP/2 (docs/adr/0031), and what any path but those of invocations means.

mod activity;
mod answer;
mod authenticate;
pub(crate) mod calls;
pub(crate) mod client;
pub(crate) mod connection;
mod headers;
mod invocation;
pub(crate) mod problem;
pub(crate) mod request_body;
mod respond;
pub(crate) mod router;
mod target;
