//! The calling end of a session.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::budget::{Budget, Permits};
use crate::failure::too_large;
use crate::stream::byte_stream::{BoxRead, ByteStream};
use crate::stream::session::codec::{self, Frame, GREETING_BYTES, Greeting, HELLO, Kind};
use crate::stream::session::queue::Queue;
use crate::{Body, CallContext, CodecError, Error, Options, Resource};

const READ_BYTES: usize = 16 << 10;
/// A peer that is silent for this time is sent a ping; if it is silent for as long again, it is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The longest reason that is logged of why a server ends a session.
const MAX_REASON_CHARS: usize = 200;

/// One session with a server.
#[derive(Debug)]
pub(crate) struct Session {
    inner: Arc<Inner>,
    _reader: AbortOnDropHandle<()>,
    /// What the byte stream is on.
    _connection: Option<Box<dyn Any + Send + Sync>>,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    pending: Mutex<PendingCalls>,
    next: AtomicU32,
    leaving: AtomicBool,
    calls: Semaphore,
    max_params_bytes: usize,
    max_result_bytes: usize,
    budget: Arc<Budget>,
}

/// Calls that wait for their results. A session that is over has none.
#[derive(Debug, Default)]
struct PendingCalls {
    waiting: HashMap<u32, PendingCall>,
    over: bool,
}

#[derive(Debug)]
struct PendingCall {
    done: oneshot::Sender<Answer>,
    body: BytesMut,
    permits: Permits,
}

impl Session {
    /// Greets the server and waits for its greeting.
    pub(crate) async fn open(stream: ByteStream, options: &Options, budget: Arc<Budget>) -> Result<Self, CodecError> {
        let ByteStream {
            mut reader,
            mut writer,
            connection,
            ..
        } = stream;
        // A server that does not take this caller shows that by the errors of these.
        let greet = async {
            writer.write_all(&HELLO).await?;
            writer.flush().await
        };
        let greeted = greet.await;
        let mut greeting = [0; GREETING_BYTES];
        match reader.read_exact(&mut greeting).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                greeted?;
                return Err("it closed the connection instead of a greeting; it may be leaving, or full".into());
            }
            read => drop(read?),
        }
        let greeting = Greeting::decode(greeting)?;
        let inner = Arc::new(Inner {
            queue: Queue::default(),
            pending: Mutex::default(),
            next: AtomicU32::new(1),
            leaving: AtomicBool::new(false),
            calls: Semaphore::new(
                usize::try_from(greeting.calls)
                    .unwrap_or(usize::MAX)
                    .min(Semaphore::MAX_PERMITS),
            ),
            max_params_bytes: options
                .max_body_bytes
                .min(usize::try_from(greeting.max_body_bytes).unwrap_or(usize::MAX)),
            max_result_bytes: options.max_body_bytes,
            budget,
        });
        // It ends when the queue is closed, which the reader's end or the session's does.
        let stall = options.call_deadline;
        tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                if let Err(error) = inner.queue.write(writer, stall).await {
                    tracing::debug!(%error, "a session ended");
                }
                inner.end();
            }
        });
        let idle = Duration::from_millis(u64::from(greeting.idle_ms));
        let keep_alive = KEEP_ALIVE.min(idle / 3).max(Duration::from_millis(10));
        let reader = tokio::spawn({
            let inner = Arc::clone(&inner);
            async move {
                if let Err(error) = inner.read(reader, keep_alive).await {
                    tracing::debug!(%error, "a session ended");
                }
                inner.end();
            }
        });
        Ok(Self {
            inner,
            _reader: AbortOnDropHandle::new(reader),
            _connection: connection,
        })
    }

    /// False once it is over, or takes no new calls.
    pub(crate) fn is_usable(&self) -> bool {
        !self.inner.leaving.load(Ordering::Acquire) && !self.inner.pending().over
    }

    /// One call; the caller bounds its time. `waits_for` names what it waits for before anything is sent. Dropping the
    /// future notifies the server that nobody waits any more.
    pub(crate) async fn call(
        &self,
        cx: &CallContext,
        deadline: Duration,
        (instance, func): (&str, &str),
        params: &Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let inner = &*self.inner;
        if params.len() > inner.max_params_bytes {
            return Err(too_large(Body::Parameters, params.len(), inner.max_params_bytes));
        }
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
        let context = codec::encode_invocation(instance, func, deadline_ms, cx)?;
        *waits_for = Some(Resource::Calls);
        let _permit = inner.calls.acquire().await.map_err(|_| Error::Lost)?;
        *waits_for = None;
        let (waiting, done) = Waiting::open(inner)?;
        let sent = inner
            .queue
            .push_body(|end| Kind::Call { end }, waiting.id, &context, params)
            .await;
        if let Err(error) = sent {
            // What ended the session may have left this call a better reason.
            return done.await.unwrap_or(Err(error)).map(|(body, _)| body);
        }
        done.await.unwrap_or(Err(Error::Lost)).map(|(body, _)| body)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.queue.close();
    }
}

/// A result's bytes with the permits for them.
type Answer = Result<(Bytes, Permits), Error>;

/// A call that is pending; given up on drop.
struct Waiting<'a> {
    inner: &'a Inner,
    id: u32,
}

impl<'a> Waiting<'a> {
    fn open(inner: &'a Inner) -> Result<(Self, oneshot::Receiver<Answer>), Error> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = inner.pending();
        if pending.over || inner.leaving.load(Ordering::Acquire) {
            return Err(Error::Leaving);
        }
        // A number that is taken after 2^32 calls is skipped.
        let id = loop {
            let id = inner.next.fetch_add(1, Ordering::Relaxed);
            if !pending.waiting.contains_key(&id) {
                break id;
            }
        };
        let call = PendingCall {
            done: sender,
            body: BytesMut::new(),
            permits: Permits::default(),
        };
        pending.waiting.insert(id, call);
        Ok((Self { inner, id }, receiver))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let unanswered = {
            let mut pending = self.inner.pending();
            pending.waiting.remove(&self.id).is_some()
        };
        // A session that can't be notified is over anyway.
        if unanswered && self.inner.queue.push_now(Kind::Cancel, self.id, &[]).is_err() {
            tracing::trace!("a call is given up with its session");
        }
        self.inner.close_if_left();
    }
}

impl Inner {
    fn pending(&self) -> MutexGuard<'_, PendingCalls> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is under way has an unknown outcome.
    fn end(&self) {
        let waiting = {
            let mut pending = self.pending();
            pending.over = true;
            std::mem::take(&mut pending.waiting)
        };
        self.queue.close();
        // Their receivers learn of it by the drop.
        drop(waiting);
    }

    /// A server that leaves waits for us to close.
    fn close_if_left(&self) {
        if self.leaving.load(Ordering::Acquire) {
            let mut pending = self.pending();
            if pending.waiting.is_empty() {
                pending.over = true;
                drop(pending);
                self.queue.close();
            }
        }
    }

    async fn read(&self, mut reader: BoxRead, keep_alive: Duration) -> Result<(), Error> {
        let mut buffer = BytesMut::new();
        let mut pinged = false;
        loop {
            while let Some(frame) = codec::decode(&mut buffer)? {
                self.take(frame)?;
            }
            buffer.reserve(READ_BYTES);
            match timeout_at(Instant::now() + keep_alive, reader.read_buf(&mut buffer)).await {
                Ok(Ok(0)) => return Err(Error::Lost),
                Ok(Ok(_)) => pinged = false,
                Ok(Err(error)) => return Err(Error::lost(error)),
                Err(_) if pinged => return Err(Error::Lost),
                Err(_) => {
                    self.queue.push_now(Kind::Ping, 0, &[])?;
                    pinged = true;
                }
            }
        }
    }

    fn take(&self, frame: Frame) -> Result<(), Error> {
        let Frame { kind, call, payload } = frame;
        match kind {
            Kind::Result { end } | Kind::Piece { end } => {
                let mut pending = self.pending();
                // Nobody waits for it any more.
                let Some(waiting) = pending.waiting.get_mut(&call) else {
                    return Ok(());
                };
                let first = matches!(kind, Kind::Result { .. });
                if first != waiting.body.is_empty() {
                    return Err(Error::Protocol("pieces of a result in the wrong order"));
                }
                let taken = self.grow(waiting, &payload, end);
                if end || taken.is_err() {
                    let done = pending.waiting.remove(&call);
                    drop(pending);
                    if let Some(mut done) = done {
                        let body = if done.body.is_empty() {
                            payload
                        } else {
                            done.body.freeze()
                        };
                        let permits = std::mem::take(&mut done.permits);
                        // The caller may have given up just now.
                        drop(done.done.send(taken.map(|()| (body, permits))));
                    }
                    if !end {
                        self.queue.push_now(Kind::Cancel, call, &[])?;
                    }
                }
            }
            Kind::Failed => {
                let failed = self.pending().waiting.remove(&call);
                if let Some(failed) = failed {
                    drop(failed.done.send(Err(codec::decode_failure(&payload))));
                }
            }
            Kind::Leaving => {
                if !payload.is_empty() {
                    let why: String = String::from_utf8_lossy(&payload)
                        .chars()
                        .take(MAX_REASON_CHARS)
                        .collect();
                    tracing::warn!(why, "a server ends this session");
                }
                self.leaving.store(true, Ordering::Release);
                self.close_if_left();
            }
            Kind::Ping => self.queue.push_now(Kind::Pong, call, &[])?,
            Kind::Pong => {}
            Kind::Call { .. } | Kind::Cancel => return Err(Error::Protocol("a frame that only callers send")),
        }
        Ok(())
    }

    /// Adds a piece. A result in one piece stays where it is.
    fn grow(&self, call: &mut PendingCall, payload: &[u8], end: bool) -> Result<(), Error> {
        let bytes = call.body.len() + payload.len();
        if bytes > self.max_result_bytes {
            return Err(too_large(Body::Result, bytes, self.max_result_bytes));
        }
        call.permits
            .merge(self.budget.try_take(payload.len()).ok_or(Error::NoMemory)?);
        if !(end && call.body.is_empty()) {
            call.body.extend_from_slice(payload);
        }
        Ok(())
    }
}
