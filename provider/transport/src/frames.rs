//! wRPC's frames in memory. wrpc-transport 0.30 takes any byte stream and puts frames on it; the v1 lattice has no
//! frames. So chunks are given to it as frames of the root path, and root frames that it writes are taken apart again.
//! A frame of any other path belongs to a WIT stream or future, which the lattice adapter does not carry.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use crate::parameters::Parameters;
use crate::{Error, Part, wire};

/// The root path, and a length of at most 5 bytes.
const MAX_HEAD_BYTES: usize = 6;
const MAX_LENGTH_BYTES: u32 = 5;

/// A source of chunks that frames are made of.
pub(crate) trait PollChunk: Unpin {
    /// The next chunk; `None` after the last one.
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>>;
}

impl PollChunk for Parameters {
    fn poll_chunk(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.get_mut().poll_next(cx)
    }
}

/// One body that is all there.
#[derive(Debug)]
pub(crate) struct Whole(pub(crate) Bytes);

impl PollChunk for Whole {
    fn poll_chunk(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let body = std::mem::take(&mut self.get_mut().0);
        Poll::Ready((!body.is_empty()).then_some(Ok(body)))
    }
}

/// Chunks in, frames out.
#[derive(Debug)]
pub(crate) struct FrameSource<C> {
    chunks: C,
    head: [u8; MAX_HEAD_BYTES],
    head_at: usize,
    head_end: usize,
    data: Bytes,
}

impl<C> FrameSource<C> {
    pub(crate) fn new(chunks: C) -> Self {
        Self {
            chunks,
            head: [0; MAX_HEAD_BYTES],
            head_at: 0,
            head_end: 0,
            data: Bytes::new(),
        }
    }

    fn load(&mut self, chunk: Bytes) -> Result<(), Error> {
        let mut length = u32::try_from(chunk.len())
            .map_err(|_| wire::too_large(Part::Parameters, chunk.len(), u32::MAX as usize))?;
        self.head_at = 0;
        self.head_end = 1;
        loop {
            // The low 7 bits; the mask makes the conversion exact.
            let bits = (length & 0x7f) as u8;
            length >>= 7;
            let more = if length == 0 { 0 } else { 0x80 };
            self.head[self.head_end] = bits | more;
            self.head_end += 1;
            if length == 0 {
                break;
            }
        }
        self.data = chunk;
        Ok(())
    }
}

impl<C: PollChunk> AsyncBufRead for FrameSource<C> {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.head_at == this.head_end && this.data.is_empty() {
            match ready!(Pin::new(&mut this.chunks).poll_chunk(cx)) {
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

impl<C: PollChunk> AsyncRead for FrameSource<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let bytes = available.len().min(buf.remaining());
        buf.put_slice(&available[..bytes]);
        self.consume(bytes);
        Poll::Ready(Ok(()))
    }
}

#[derive(Debug, Default)]
enum Expect {
    #[default]
    Path,
    Length {
        value: u64,
        bytes: u32,
    },
    Data {
        left: usize,
    },
}

/// Frames in, one body out, up to a limit.
#[derive(Debug)]
pub(crate) struct FrameSink {
    body: BytesMut,
    expect: Expect,
    limit: usize,
}

impl FrameSink {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            body: BytesMut::new(),
            expect: Expect::default(),
            limit,
        }
    }

    /// The body; an error if the last frame is cut.
    pub(crate) fn into_body(self) -> Result<Bytes, Error> {
        match self.expect {
            Expect::Path => Ok(self.body.freeze()),
            _ => Err(Error::Protocol("a frame is cut")),
        }
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while let Some((&byte, tail)) = bytes.split_first() {
            match &mut self.expect {
                Expect::Path if byte != 0 => {
                    return Err(Error::Unsupported("WIT streams and futures"));
                }
                Expect::Path => {
                    self.expect = Expect::Length { value: 0, bytes: 0 };
                    bytes = tail;
                }
                Expect::Length { value, bytes: seen } => {
                    *value |= u64::from(byte & 0x7f) << (7 * *seen);
                    *seen += 1;
                    bytes = tail;
                    if byte & 0x80 != 0 {
                        if *seen == MAX_LENGTH_BYTES {
                            return Err(Error::Protocol("a frame's length is too long"));
                        }
                        continue;
                    }
                    let left = usize::try_from(*value).unwrap_or(usize::MAX);
                    let total = self.body.len().saturating_add(left);
                    if total > self.limit {
                        return Err(wire::too_large(Part::Result, total, self.limit));
                    }
                    self.body.reserve(left);
                    self.expect = match left {
                        0 => Expect::Path,
                        left => Expect::Data { left },
                    };
                }
                Expect::Data { left } => {
                    let (data, tail) = bytes.split_at(bytes.len().min(*left));
                    self.body.extend_from_slice(data);
                    *left -= data.len();
                    bytes = tail;
                    if *left == 0 {
                        self.expect = Expect::Path;
                    }
                }
            }
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

#[cfg(test)]
mod tests;
