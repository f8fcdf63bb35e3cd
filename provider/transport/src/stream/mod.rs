//! wRPC on byte streams: stock invocations and sessions, on whatever carries the bytes. Start at [`listener`] for what
//! is served, at [`dialer`] for what is called.
//!
//! A transport is one file, with its listening and its calling end: [`tcp`], [`tls`], [`unix`], [`quic`],
//! [`webtransport`]. [`accept`] admits connections of sockets, [`multiplexed`] those of QUIC; both give each connection a
//! slot of [`connection_slots`] and hand its streams to [`dispatch`], which serves a [`session`] or a [`stock`]
//! invocation. What a connection proves of its peer is a [`proof`].

pub(crate) mod accept;
pub(crate) mod byte_stream;
mod client_credentials;
pub(crate) mod connection_slots;
pub(crate) mod dialer;
mod dispatch;
pub(crate) mod listen_options;
pub(crate) mod listener;
pub(crate) mod listener_state;
mod multiplexed;
pub(crate) mod open_files;
pub(crate) mod peer;
pub(crate) mod pem;
pub(crate) mod proof;
mod quic;
mod quic_limits;
mod rejection;
pub(crate) mod server_credentials;
pub(crate) mod session;
pub(crate) mod sessions;
pub(crate) mod stock;
pub(crate) mod stock_reader;
mod tcp;
mod tls;
pub(crate) mod tls_config;
mod unix;
mod webtransport;
