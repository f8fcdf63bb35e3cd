//! Limits of one listener.

use std::time::Duration;

use crate::stream::tls_config::ServerTls;
use crate::{Error, Options};

/// One peer's part of all bytes held.
const UNSENT_SHARE: usize = 2;

/// Limits of one listener and of its peers. A peer is who its connection proves: the names of a certificate, a Unix
/// user; before that, and for those that prove nothing, an IPv4 address or an IPv6 network of 64 bits.
///
/// Of connections, silent connections and windows, one peer gets at most what it leaves free: alone half, two a third
/// each. So one that comes new finds a slot whoever was there before.
///
/// # What a hostile peer costs
/// Its part of `connections`, each until `first_call_deadline` if it is silent; `calls_per_peer` calls, each until
/// the deadlines of `limits`; `bytes_per_peer` of parameters. A connection holds besides a read buffer of at most 80
/// KiB and answers of at most 512 KiB that it does not read, those until `limits.serve_deadline`; one of QUIC instead
/// of that the windows of its streams, within `window_bytes_per_peer`.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Of each call; `limits.in_flight` and `limits.queued` hold for each function of this listener.
    pub limits: Options,
    /// Certificate, key and client authority; needed for `tls`, `quic`, `webtransport` and `https`.
    pub tls: Option<ServerTls>,
    /// Listen beyond this machine without knowing who calls: **anyone who reaches the port may call every function**,
    /// and a handler receives [`crate::Identity::Nobody`].
    pub allow_unauthenticated_network_peers: bool,
    /// Who may open a Unix socket, as `chmod` takes it. Its path's directory guards it as well.
    pub socket_mode: u32,
    /// Connections at a time; on sockets also at most half of the files that other listeners and a reserve leave, see
    /// [`crate::raise_open_files`]. One more is closed at once.
    pub connections: usize,
    /// Connections at a time that have not begun a call, and at most half of those above. One more takes the slot of
    /// one of its own peer that was silent for a second, or is closed at once.
    pub silent_connections: usize,
    /// Connections at a time of one peer.
    pub connections_per_peer: usize,
    /// Calls at a time of one peer. One more is refused.
    pub calls_per_peer: usize,
    /// Calls at a time of one connection. Less than those of its peer, so that one connection that stalls does not
    /// keep others of the same peer from calling.
    pub calls_per_connection: usize,
    /// Bytes of parameters held at a time of one peer.
    pub bytes_per_peer: usize,
    /// Bytes of the windows of QUIC and WebTransport: what was sent and is not acknowledged, and what came and is not
    /// read. A connection that has not begun a call has 96 KiB of them (WebTransport: 240 KiB), and is refused where
    /// they are used up; one that has gets up to 8 MiB more, as long as half of them is left.
    pub window_bytes: usize,
    /// Those of one peer.
    pub window_bytes_per_peer: usize,
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
            silent_connections: 1024,
            calls_per_peer: 512,
            calls_per_connection: 256,
            bytes_per_peer: 32 << 20,
            window_bytes: 128 << 20,
            window_bytes_per_peer: 32 << 20,
            first_call_deadline: Duration::from_secs(10),
            idle_deadline: Duration::from_secs(60),
        }
    }
}

impl ListenOptions {
    /// Bytes of results of one peer that wait to be sent: a peer that does not read holds no more of what all share.
    pub(crate) fn unsent_per_peer(&self) -> usize {
        self.limits
            .max_body_bytes
            .max(self.limits.buffered_bytes / UNSENT_SHARE)
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.limits.check()?;
        let rules = [
            ("socket_mode", "at most 0o777", self.socket_mode <= 0o777),
            ("connections", "above zero", self.connections > 0),
            ("connections_per_peer", "above zero", self.connections_per_peer > 0),
            ("silent_connections", "above zero", self.silent_connections > 0),
            ("calls_per_peer", "above zero", self.calls_per_peer > 0),
            ("calls_per_connection", "above zero", self.calls_per_connection > 0),
            (
                "bytes_per_peer",
                "at least max_body_bytes, up to 4294967295",
                (self.limits.max_body_bytes..=u32::MAX as usize).contains(&self.bytes_per_peer),
            ),
            (
                "window_bytes_per_peer",
                "from 1 MiB to window_bytes",
                (1 << 20..=self.window_bytes).contains(&self.window_bytes_per_peer),
            ),
            (
                "window_bytes",
                "up to 4294967295",
                self.window_bytes <= u32::MAX as usize,
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
