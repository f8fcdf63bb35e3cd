//! A body as it comes: what is here of it, and where the rest comes from.

use std::fmt;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::Error;
use crate::budget::Permits;
use crate::shape::{Shape, TooMany, Walk, Walked};

/// Where the chunks of a body come from.
pub(crate) trait ChunkSource: fmt::Debug + Send {
    /// The next chunk; `None` after the last one.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>>;
}

impl ChunkSource for mpsc::Receiver<Result<Bytes, Error>> {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.poll_recv(cx)
    }
}

/// The parameters of one invocation, or a result.
#[derive(Debug)]
pub(crate) struct Chunks {
    first: Bytes,
    rest: Option<Box<dyn ChunkSource>>,
    /// Of the first chunk; the source of the rest holds those of the rest.
    _permits: Permits,
}

impl Chunks {
    /// A body that is all there.
    pub(crate) fn whole(body: Bytes, permits: Permits) -> Self {
        Self {
            first: body,
            rest: None,
            _permits: permits,
        }
    }

    /// The same body, which goes on after that.
    pub(crate) fn and(self, rest: impl ChunkSource + 'static) -> Self {
        Self {
            rest: Some(Box::new(rest)),
            ..self
        }
    }

    /// The next chunk; `None` after the last one.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if !self.first.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.first))));
        }
        match &mut self.rest {
            None => Poll::Ready(None),
            Some(rest) => rest.poll_chunk(cx),
        }
    }

    /// As [`Chunks::poll_next`].
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The body once it is whole, if it has the shape and no more of anything than the shape allows. It takes no more
    /// memory than came, and decodes nothing.
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
}
