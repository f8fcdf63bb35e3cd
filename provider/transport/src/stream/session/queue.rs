//! The sending side of a session: frames of all its calls go into one buffer, one task writes it out.
//!
//! So what many calls send at the same time costs one system call, and a peer that does not read holds up its own
//! session only: the buffer has a limit, and a write a deadline.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::Error;
use crate::stream::session::codec::{self, Kind, PIECE_BYTES};

/// Beyond this, senders of bodies wait.
const HIGH_WATER_BYTES: usize = 256 << 10;
/// Beyond this, a peer requests more answers (refusals, pongs) than it reads.
const MAX_BYTES: usize = 2 * HIGH_WATER_BYTES;
/// A buffer that has grown beyond this is given back once it is written.
const KEPT_BYTES: usize = 64 << 10;

/// Frames that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Notify,
    space: Notify,
}

#[derive(Debug, Default)]
struct State {
    bytes: BytesMut,
    closed: bool,
    broken: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues bytes that no frame is made of.
    pub(crate) fn push_raw(&self, bytes: &[u8]) {
        self.state().bytes.extend_from_slice(bytes);
        self.ready.notify_one();
    }

    /// Queues a small frame now. An error if the peer does not read what it requested.
    pub(crate) fn push_now(&self, kind: Kind, call: u32, payload: &[u8]) -> Result<(), Error> {
        {
            let mut state = self.state();
            if state.broken || state.closed {
                return Err(Error::Lost);
            }
            if state.bytes.len() > MAX_BYTES {
                return Err(Error::Protocol("the peer does not read"));
            }
            codec::encode(&mut state.bytes, kind, call, payload, &[]);
        }
        self.ready.notify_one();
        Ok(())
    }

    async fn push(&self, kind: Kind, call: u32, first: &[u8], second: &[u8]) -> Result<(), Error> {
        loop {
            let mut space = std::pin::pin!(self.space.notified());
            {
                let mut state = self.state();
                if state.broken || state.closed {
                    return Err(Error::Lost);
                }
                if state.bytes.len() < HIGH_WATER_BYTES {
                    codec::encode(&mut state.bytes, kind, call, first, second);
                    break;
                }
                // Under the lock, so that the writer can't drain the buffer unnoticed.
                space.as_mut().enable();
            }
            space.await;
        }
        self.ready.notify_one();
        Ok(())
    }

    /// Queues a body, with what goes in front of it, in as many pieces as it needs. `kind` makes the first frame's.
    pub(crate) async fn push_body(
        &self,
        kind: impl Fn(bool) -> Kind,
        call: u32,
        context: &[u8],
        body: &[u8],
    ) -> Result<(), Error> {
        let (piece, mut rest) = body.split_at(body.len().min(PIECE_BYTES));
        self.push(kind(rest.is_empty()), call, context, piece).await?;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(rest.len().min(PIECE_BYTES));
            rest = tail;
            let end = rest.is_empty();
            self.push(Kind::Piece { end }, call, piece, &[]).await?;
        }
        Ok(())
    }

    /// Takes no more; [`Queue::write`] ends once all is written.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.ready.notify_one();
        self.space.notify_waiters();
    }

    /// Writes what is queued until the queue is closed, then ends the stream. A peer that takes nothing for `stall` is
    /// given up.
    pub(crate) async fn write<W>(&self, mut writer: W, stall: Duration) -> Result<(), Error>
    where
        W: AsyncWrite + Unpin,
    {
        let done = self.write_all(&mut writer, stall).await;
        {
            let mut state = self.state();
            state.broken = true;
            state.bytes = BytesMut::new();
        }
        self.space.notify_waiters();
        done
    }

    async fn write_all<W>(&self, writer: &mut W, stall: Duration) -> Result<(), Error>
    where
        W: AsyncWrite + Unpin,
    {
        let mut bytes = BytesMut::new();
        loop {
            let closed = {
                let mut state = self.state();
                std::mem::swap(&mut state.bytes, &mut bytes);
                state.closed
            };
            if !bytes.is_empty() {
                self.space.notify_waiters();
                let write = async {
                    writer.write_all(&bytes).await?;
                    writer.flush().await
                };
                timeout(stall, write)
                    .await
                    .map_err(|_| Error::Lost)?
                    .map_err(Error::lost)?;
                bytes.clear();
                if bytes.capacity() > KEPT_BYTES {
                    bytes = BytesMut::new();
                }
            } else if closed {
                return timeout(stall, writer.shutdown())
                    .await
                    .map_err(|_| Error::Lost)?
                    .map_err(Error::lost);
            } else {
                self.ready.notified().await;
                // Whoever is ready to send now does so: one write for all of them.
                tokio::task::yield_now().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_does_not_read_holds_up_senders_and_is_given_up() {
        let queue = Arc::new(Queue::default());
        let (here, _there) = tokio::io::duplex(16);
        let writer = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.write(here, Duration::from_millis(200)).await }
        });
        let body = vec![7; 4 << 20];
        let sent = queue.push_body(|end| Kind::Result { end }, 1, &[], &body).await;
        assert!(matches!(sent, Err(Error::Lost)), "{sent:?}");
        assert!(matches!(writer.await.expect("no panic"), Err(Error::Lost)));
        assert!(queue.push_now(Kind::Pong, 0, &[]).is_err());
    }

    #[tokio::test]
    async fn answers_that_are_not_read_are_bounded() {
        let queue = Queue::default();
        let pongs = (0_u32..)
            .take_while(|_| queue.push_now(Kind::Pong, 0, &[]).is_ok())
            .count();
        assert!(pongs * codec::HEAD_BYTES <= MAX_BYTES + codec::HEAD_BYTES);
    }
}
