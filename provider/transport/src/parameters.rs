//! The parameters of one invocation, as they come.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::Error;
use crate::budget::Room;
use crate::mailbox::Chunks;
use crate::shape::{Shape, TooMany, Walk, Walked};

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

    /// These parameters once they are whole, if they have the shape and no more of anything than that allows. It takes
    /// no more than came, and decodes nothing.
    pub(crate) async fn walked(mut self, shape: &'static Shape) -> Result<Result<Self, TooMany>, Error> {
        let mut walk = Walk::new(shape);
        // Nearly always one chunk, which is not copied.
        let mut whole = self.next().await.transpose()?.unwrap_or_default();
        let mut more = BytesMut::new();
        loop {
            let here = if more.is_empty() { &whole[..] } else { &more[..] };
            match walk.on(here)? {
                Walked::TooMany(many) => return Ok(Err(many)),
                Walked::Whole(used) if used < here.len() => {
                    return Err(Error::Protocol("there is more than the parameters"));
                }
                Walked::Whole(_) => break,
                Walked::Part => {}
            }
            let chunk = self.next().await;
            let chunk = chunk.ok_or(Error::Protocol("the parameters are incomplete"))??;
            if more.is_empty() {
                more.extend_from_slice(&std::mem::take(&mut whole));
            }
            more.extend_from_slice(&chunk);
        }
        self.first = if more.is_empty() { whole } else { more.freeze() };
        Ok(Ok(self))
    }

    /// As [`Parameters::poll_next`].
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}
