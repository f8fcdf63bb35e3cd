//! wRPC over NATS, as a wasmCloud v1 host speaks it. Start at [`connection`].
//!
//! [`access`] and [`connect`] lead to a connection, [`host`] answers a wasmCloud host. [`client`] calls: it opens a
//! [`reply_slot`] on a [`reply_buffer`] and publishes through the [`publish_batcher`]. [`server`] has a [`subscription`]
//! for each function, and an [`exchange`] for each invocation. [`wire`] has the subjects and headers, [`inboxes`] the
//! rule of what is answered. No other part of this crate names async-nats.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod connect;
pub(crate) mod connection;
mod exchange;
pub(crate) mod host;
pub(crate) mod inboxes;
mod publish_batcher;
mod reply_buffer;
mod reply_slot;
pub(crate) mod server;
mod subscription;
pub(crate) mod wire;
