//! The parameters of one invocation, as they come.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Error;
use crate::budget::Room;
use crate::mailbox::Chunks;

/// A first part that is here, and where the rest comes from.
#[derive(Debug)]
pub(crate) struct Parameters {
    first: Bytes,
    rest: Rest,
    /// Of the first part; whoever sends the rest has the room of that.
    _room: Room,
}

#[derive(Debug)]
enum Rest {
    None,
    Lattice(Chunks),
    Stream(mpsc::Receiver<Result<Bytes, Error>>),
}

impl Parameters {
    /// Parameters that are all there.
    pub(crate) fn whole(body: Bytes, room: Room) -> Self {
        Self {
            first: body,
            rest: Rest::None,
            _room: room,
        }
    }

    pub(crate) fn on_lattice(first: Bytes, rest: Option<Chunks>, room: Room) -> Self {
        Self {
            first,
            rest: rest.map_or(Rest::None, Rest::Lattice),
            _room: room,
        }
    }

    /// Parameters that a byte stream brings, each chunk with its room held by the reader of the stream.
    pub(crate) fn on_stream(chunks: mpsc::Receiver<Result<Bytes, Error>>) -> Self {
        Self {
            first: Bytes::new(),
            rest: Rest::Stream(chunks),
            _room: Room::default(),
        }
    }

    /// The next chunk; `None` after the last one.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        match &mut self.rest {
            Rest::None => Poll::Ready(None),
            Rest::Lattice(chunks) => chunks.poll_next(cx),
            Rest::Stream(chunks) => chunks.poll_recv(cx),
        }
    }

    /// As [`Parameters::poll_next`].
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}
