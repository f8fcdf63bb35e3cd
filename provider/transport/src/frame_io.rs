//! What generated bindings read and write. wrpc-transport 0.30 takes any byte stream and puts frames on it; neither the
//! v1 lattice nor a session has frames of wRPC. So chunks are given to bindings as frames of the root path, and root
//! frames that bindings write are taken apart again.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use wrpc_transport::frame::{Incoming, Outgoing};

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::frames::{self, Frames, MAX_HEAD_BYTES};
use crate::{Body, Error};

/// Chunks in, frames out.
#[derive(Debug)]
pub(crate) struct FrameSource {
    chunks: Chunks,
    head: [u8; MAX_HEAD_BYTES],
    head_at: usize,
    head_end: usize,
    data: Bytes,
}

impl FrameSource {
    pub(crate) fn new(chunks: Chunks) -> Self {
        Self {
            chunks,
            head: [0; MAX_HEAD_BYTES],
            head_at: 0,
            head_end: 0,
            data: Bytes::new(),
        }
    }

    fn load(&mut self, chunk: Bytes) -> Result<(), Error> {
        (self.head, self.head_end) = frames::head(chunk.len(), Body::Parameters)?;
        self.head_at = 0;
        self.data = chunk;
        Ok(())
    }
}

impl AsyncBufRead for FrameSource {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.head_at == this.head_end && this.data.is_empty() {
            match ready!(this.chunks.poll_next(cx)) {
                None => return Poll::Ready(Ok(&[])),
                // A frame of nothing would be skipped by the reader; it is not worth its head.
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => this.load(chunk).map_err(io::Error::other)?,
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
        Poll::Ready(Ok(if this.head_at < this.head_end {
            &this.head[this.head_at..this.head_end]
        } else {
            &this.data
        }))
    }

    fn consume(self: Pin<&mut Self>, bytes: usize) {
        let this = self.get_mut();
        if this.head_at < this.head_end {
            this.head_at += bytes;
        } else {
            this.data.advance(bytes);
        }
    }
}

impl AsyncRead for FrameSource {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let bytes = available.len().min(buf.remaining());
        buf.put_slice(&available[..bytes]);
        self.consume(bytes);
        Poll::Ready(Ok(()))
    }
}

/// Frames in, one body out, up to a limit.
#[derive(Debug)]
pub(crate) struct FrameSink {
    written: BytesMut,
    frames: Frames,
    body: BytesMut,
}

impl FrameSink {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            written: BytesMut::new(),
            frames: Frames::new(Body::Result, limit),
            body: BytesMut::new(),
        }
    }

    /// The body; an error if the last frame is cut.
    pub(crate) fn into_body(self) -> Result<Bytes, Error> {
        match self.written.is_empty() && self.frames.is_whole() {
            true => Ok(self.body.freeze()),
            false => Err(Error::Protocol("a frame is cut")),
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written.extend_from_slice(bytes);
        while let Some(data) = self.frames.next(&mut self.written)? {
            self.body.extend_from_slice(&data);
        }
        Ok(())
    }
}

impl AsyncWrite for FrameSink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(match self.get_mut().take(buf) {
            Ok(()) => Ok(buf.len()),
            Err(error) => Err(io::Error::other(error)),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A result that is all there, as bindings read it. All parameters were sent: what is still written belongs to a WIT
/// stream, and is refused.
pub(crate) fn result_frames(result: Bytes) -> (Outgoing, Incoming) {
    let no_paths: [&[Option<usize>]; 0] = [];
    let outgoing = Outgoing::new(FrameSink::new(0), |_, _| async {});
    let source = FrameSource::new(Chunks::whole(result, Permits::default()));
    (outgoing, Incoming::new(source, no_paths, false, |_, _| async {}))
}

#[cfg(test)]
mod tests;
