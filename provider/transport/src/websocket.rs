//! A byte stream on a WebSocket, as stock wRPC has it: binary messages are pieces of the stream, an empty text message
//! is its end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use wrpc_websockets::tokio_websockets::{Limits, WebSocketStream};

use crate::listen::stream::Stream;

/// Largest message that is taken. A peer's claim of so many bytes reserves them.
const MAX_MESSAGE_BYTES: usize = 256 << 10;
/// Largest message that is sent.
const SENT_MESSAGE_BYTES: usize = 64 << 10;

pub(crate) fn limits() -> Limits {
    Limits::default().max_payload_len(Some(MAX_MESSAGE_BYTES))
}

pub(crate) fn stream<T>(socket: WebSocketStream<T>) -> Stream
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (writer, reader) = wrpc_websockets::split(socket);
    Stream {
        reader: Box::new(reader),
        writer: Box::new(Pieces(writer)),
        delivered: None,
    }
}

/// Makes no message larger than the other side takes.
struct Pieces<W>(W);

impl<W: AsyncWrite + Unpin> AsyncWrite for Pieces<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let piece = &bytes[..bytes.len().min(SENT_MESSAGE_BYTES)];
        Pin::new(&mut self.0).poll_write(cx, piece)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
