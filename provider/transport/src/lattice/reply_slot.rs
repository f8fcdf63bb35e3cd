//! Opens, reads and frees the [`ReplyBuffer`] of one exchange.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::chunks::ChunkSource;
use crate::lattice::connection::Connection;
use crate::lattice::reply_buffer::{Event, ReplyBuffer};
use crate::{Body, Error};

/// A task's hold on a reply buffer. Dropping the hold, by completion, deadline or cancellation, frees the buffer.
#[derive(Debug)]
pub(crate) struct ReplySlot {
    connection: Arc<Connection>,
    id: u32,
}

impl ReplySlot {
    /// Opens the buffer. This has to come before the peer can learn of the subject.
    pub(crate) fn open(connection: &Arc<Connection>, buffer: ReplyBuffer) -> Self {
        let id = connection.open(buffer);
        Self {
            connection: Arc::clone(connection),
            id,
        }
    }

    /// The subject that peers write to.
    pub(crate) fn subject(&self) -> async_nats::Subject {
        self.connection.subject(self.id)
    }

    /// The next event of a call that is made here.
    pub(crate) async fn event(&self) -> Result<Event, Error> {
        std::future::poll_fn(|cx| {
            self.connection
                .with_buffer(self.id, |buffer| buffer.poll_event(cx))
                .unwrap_or(Poll::Ready(Err(Error::Closed)))
        })
        .await
    }

    /// Waits until the peer shows that it has the handshake, so that its subscription for results is live.
    pub(crate) async fn acknowledged(&self) {
        std::future::poll_fn(|cx| {
            self.connection
                .with_buffer(self.id, |buffer| buffer.poll_acknowledged(cx))
                .unwrap_or(Poll::Ready(()))
        })
        .await;
    }

    /// A second view of the buffer, for the decoder. It ends with the slot.
    pub(crate) fn chunks(&self) -> BufferedChunks {
        BufferedChunks {
            connection: Arc::clone(&self.connection),
            id: self.id,
        }
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        self.connection.close(self.id);
    }
}

/// Takes the chunks of one buffer in order. Dropping it means that they are decoded, or not wanted.
#[derive(Debug)]
pub(crate) struct BufferedChunks {
    connection: Arc<Connection>,
    id: u32,
}

impl ChunkSource for BufferedChunks {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        self.connection
            .with_buffer(self.id, |buffer| buffer.poll_chunk(cx))
            .unwrap_or(Poll::Ready(None))
    }
}

impl Drop for BufferedChunks {
    fn drop(&mut self) {
        self.connection.with_buffer(self.id, ReplyBuffer::abandon);
    }
}

/// Sends a message to this connection's own inbox and waits for it: the server has then done all that was requested of it
/// before, and all that it sent before is here.
pub(crate) async fn round_trip(connection: &Arc<Connection>) -> Result<(), Error> {
    let slot = ReplySlot::open(connection, ReplyBuffer::new(Body::Result, 0, 0));
    connection.publish(slot.subject(), Bytes::new()).await?;
    let deadline = connection.options.call_deadline;
    match tokio::time::timeout(deadline, slot.event()).await {
        Ok(echo) => echo.map(drop),
        Err(_) => Err(Error::deadline(deadline)),
    }
}
