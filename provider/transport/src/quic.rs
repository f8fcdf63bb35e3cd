//! What both ends of QUIC share: limits of a connection, and a byte stream of its two halves.

use std::time::Duration;

use quinn::{IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};

use crate::listen::stream::Stream;

/// Unread bytes that a peer may have sent, on one stream and on a connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// HTTP/3 has three of its own.
const HTTP_STREAMS: u8 = 8;

/// Which limits a connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Streams at a time that a caller may have.
    Server {
        streams: usize,
    },
    Client,
}

pub(crate) fn transport(side: Side, idle: Duration, http: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    let streams = match side {
        Side::Server { streams } => u32::try_from(streams).unwrap_or(u32::MAX),
        Side::Client => 0,
    };
    config
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(if http { HTTP_STREAMS.into() } else { 0_u8.into() })
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .max_idle_timeout(IdleTimeout::try_from(idle).ok());
    if !http {
        config.datagram_receive_buffer_size(None);
    }
    if side == Side::Client {
        config.keep_alive_interval(Some(KEEP_ALIVE.min(idle / 3)));
    }
    config
}

/// The code that a connection is closed with when nothing is wrong.
pub(crate) const DONE: VarInt = VarInt::from_u32(0);

pub(crate) fn stream(writer: SendStream, reader: RecvStream) -> Stream {
    let stopped = writer.stopped();
    Stream {
        reader: Box::new(reader),
        writer: Box::new(writer),
        delivered: Some(Box::pin(async move { drop(stopped.await) })),
    }
}

pub(crate) fn web_stream(writer: wtransport::SendStream, reader: wtransport::RecvStream) -> Stream {
    let stopped = writer.quic_stream().stopped();
    Stream {
        reader: Box::new(reader),
        writer: Box::new(writer),
        delivered: Some(Box::pin(async move { drop(stopped.await) })),
    }
}
