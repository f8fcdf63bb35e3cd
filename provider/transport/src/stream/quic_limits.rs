//! The limits of a QUIC connection, at both ends.

use std::time::Duration;

use quinn::{Connection, IdleTimeout, TransportConfig, VarInt};

/// What a caller takes at a time, on one stream and on a connection: of a server that it trusts.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// What a server takes of a peer that has not begun a call, and holds for it.
const FIRST_WINDOW_BYTES: u32 = 16 << 10;
const FIRST_STREAMS: u32 = 2;
/// What a stream may cost beside its window: quinn keeps this much for pieces that come out of order.
const STREAM_BYTES: usize = 32 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// HTTP/3 has three of its own.
const HTTP_STREAMS: u8 = 4;
/// Datagrams of HTTP/3, which nobody here reads.
const DATAGRAM_BYTES: usize = 8 << 10;

/// What a server's connection may hold before a call has begun: both windows, and what its streams may cost.
pub(crate) fn first_bytes(http: bool) -> usize {
    let streams = FIRST_STREAMS as usize + if http { usize::from(HTTP_STREAMS) } else { 0 };
    let datagrams = if http { 2 * DATAGRAM_BYTES } else { 0 };
    2 * FIRST_WINDOW_BYTES as usize + streams * STREAM_BYTES + datagrams
}

/// Which limits a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

pub(crate) fn transport(side: Side, idle: Duration, http: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let (streams, window) = match side {
        Side::Server => (FIRST_STREAMS, FIRST_WINDOW_BYTES),
        Side::Client => (0, CONNECTION_WINDOW_BYTES),
    };
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(if http { HTTP_STREAMS.into() } else { 0_u8.into() })
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(window.into())
        .send_window(window.into())
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .datagram_receive_buffer_size(http.then_some(DATAGRAM_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BYTES);
    if side == Side::Client {
        config.keep_alive_interval(Some(KEEP_ALIVE.min(idle / 3)));
    }
    config
}

/// Lets a peer that has begun to call send more, and be sent more: half of `bytes` each, and as many streams as they
/// may cost, at most `streams`.
pub(crate) fn widen(connection: &Connection, bytes: usize, streams: usize) {
    let window = u32::try_from(bytes / 2)
        .unwrap_or(u32::MAX)
        .saturating_add(FIRST_WINDOW_BYTES);
    connection.set_receive_window(window.into());
    connection.set_send_window(window.into());
    let streams = u32::try_from(streams.min(bytes / STREAM_BYTES)).unwrap_or(u32::MAX);
    connection.set_max_concurrent_bi_streams(streams.max(FIRST_STREAMS).into());
}

/// The code that a connection is closed with when nothing is wrong.
pub(crate) const DONE: VarInt = VarInt::from_u32(0);
/// The codes that a server closes a connection with that it does not go on serving.
pub(crate) const TOO_MANY: VarInt = VarInt::from_u32(1);
pub(crate) const EXPIRED: VarInt = VarInt::from_u32(2);
