//! Limits of one listener.

use std::time::Duration;

use crate::tls::ServerTls;
use crate::{Error, Options};

/// Limits of one listener and of its peers. A peer is an address, or on a Unix socket a user.
///
/// # What a hostile peer costs
/// At most `connections_per_peer` connections, each until `first_call_deadline` if it is silent; `calls_per_peer` calls,
/// each until the deadlines of `limits`; `bytes_per_peer` of parameters. A connection holds besides a read buffer of at most
/// 80 KiB and answers of at most 512 KiB that it does not read, those until `limits.serve_deadline`.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Of each call; `limits.in_flight` and `limits.queued` hold for each function of this listener.
    pub limits: Options,
    /// Certificate, key and client authority; needed for `tls`, `quic`, `webtransport` and `wss`.
    pub tls: Option<ServerTls>,
    /// Listen beyond this machine without knowing who calls: **anyone who reaches the port may call every function**.
    pub allow_unauthenticated_network_peers: bool,
    /// Who may open a Unix socket, as `chmod` takes it. Its path's directory guards it as well.
    pub socket_mode: u32,
    /// Connections at a time. One more is closed at once.
    pub connections: usize,
    /// Connections at a time of one peer.
    pub connections_per_peer: usize,
    /// Calls at a time of one peer. One more is refused.
    pub calls_per_peer: usize,
    /// Calls at a time of one connection. Less than those of its peer, so that one connection that stalls does not keep
    /// others of the same peer from calling.
    pub calls_per_connection: usize,
    /// Bytes of parameters held at a time of one peer.
    pub bytes_per_peer: usize,
    /// From a new connection or stream to the head of its first call, handshakes included.
    pub first_call_deadline: Duration,
    /// A session without a call, and without a sign of life, is closed after this time.
    pub idle_deadline: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            limits: Options::default(),
            tls: None,
            allow_unauthenticated_network_peers: false,
            socket_mode: 0o660,
            connections: 4096,
            connections_per_peer: 2048,
            calls_per_peer: 512,
            calls_per_connection: 256,
            bytes_per_peer: 32 << 20,
            first_call_deadline: Duration::from_secs(10),
            idle_deadline: Duration::from_secs(60),
        }
    }
}

impl ListenOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.limits.check()?;
        let rules = [
            ("socket_mode", "at most 0o777", self.socket_mode <= 0o777),
            ("connections", "above zero", self.connections > 0),
            ("connections_per_peer", "above zero", self.connections_per_peer > 0),
            ("calls_per_peer", "above zero", self.calls_per_peer > 0),
            ("calls_per_connection", "above zero", self.calls_per_connection > 0),
            (
                "bytes_per_peer",
                "at least max_body_bytes, up to 4294967295",
                (self.limits.max_body_bytes..=u32::MAX as usize).contains(&self.bytes_per_peer),
            ),
            ("first_call_deadline", "above zero", !self.first_call_deadline.is_zero()),
            ("idle_deadline", "above zero", !self.idle_deadline.is_zero()),
        ];
        match rules.into_iter().find(|(_, _, holds)| !holds) {
            Some((name, expected, _)) => Err(Error::Options { name, expected }),
            None => Ok(()),
        }
    }
}
