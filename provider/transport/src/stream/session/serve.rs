//! The serving end of a session.
//!
//! Reading never waits for a handler, and a handler runs only once its parameters are complete: a sender that stalls
//! holds no place of the function that it calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::{AbortHandle, Abortable};
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::budget::{Budget, Permits};
use crate::chunks::Chunks;
use crate::failure::{Failure, too_large};
use crate::functions::{Admitted, Answer};
use crate::group::Group;
use crate::result_budget::{ResultBudget, ResultPermits};
use crate::shares::CallerKey;
use crate::stream::byte_stream::{BoxRead, ByteStream};
use crate::stream::listener_state::{LAST_WORDS, ListenerState};
use crate::stream::peer::{InFlight, Peer, UNPROVEN};
use crate::stream::session::codec::{self, Frame, Greeting, HELLO, Invocation, Kind};
use crate::stream::session::queue::Queue;
use crate::{Body, Caller, Error};

const READ_BYTES: usize = 16 << 10;
/// What a call takes of the allowance at least.
const MIN_CALL_BYTES: usize = 256;
/// One session's part of all bytes held.
const UNSENT_SHARE: usize = 8;

struct Session {
    listener: Arc<ListenerState>,
    peer: Peer,
    queue: Queue,
    running: Mutex<HashMap<u32, AbortHandle>>,
    /// Results that wait to be sent: a peer that does not read holds no more of everybody's allowance than this.
    unsent: Budget,
    tasks: TaskTracker,
    /// Nothing more can be sent.
    broken: CancellationToken,
}

/// A call whose parameters are not complete.
struct Assembling {
    call: Invocation,
    admitted: Admitted,
    arrived: Instant,
    body: BytesMut,
    in_flight: InFlight,
    permits: Permits,
}

/// Serves a session that began with what is in `buffer`.
pub(crate) async fn serve(
    listener: Arc<ListenerState>,
    peer: Peer,
    stream: ByteStream,
    mut buffer: BytesMut,
    first_deadline: Instant,
) -> Result<(), Error> {
    let ByteStream {
        reader: mut rx,
        writer: tx,
        delivered,
        ..
    } = stream;
    while buffer.len() < HELLO.len() {
        let read = timeout_at(first_deadline, rx.read_buf(&mut buffer)).await;
        let read = read.map_err(|_| Error::Protocol("a session that does not begin"))?;
        if read.map_err(Error::lost)? == 0 {
            return Err(Error::Protocol("the peer ended in the middle of its hello"));
        }
    }
    if !buffer.starts_with(&HELLO) {
        return Err(Error::Protocol(
            "neither wRPC's framing nor a session of a known version",
        ));
    }
    buffer.advance(HELLO.len());
    peer.begin();

    let options = &listener.options;
    let greeting = Greeting {
        max_body_bytes: u32::try_from(options.limits.max_body_bytes).unwrap_or(u32::MAX),
        calls: u32::try_from(options.calls_per_connection.min(options.calls_per_peer)).unwrap_or(u32::MAX),
        idle_ms: u32::try_from(options.idle_deadline.as_millis()).unwrap_or(u32::MAX),
    };
    let stall = options.limits.serve_deadline;
    let unsent = Budget::new(
        options
            .limits
            .max_body_bytes
            .max(options.limits.buffered_bytes / UNSENT_SHARE),
    );
    let session = Arc::new(Session {
        listener,
        peer,
        queue: Queue::default(),
        running: Mutex::default(),
        unsent,
        tasks: TaskTracker::new(),
        broken: CancellationToken::new(),
    });
    session.queue.push_raw(&greeting.encode());
    let writer = tokio::spawn({
        let session = Arc::clone(&session);
        async move {
            let _broken = session.broken.clone().drop_guard();
            session.queue.write(tx, stall).await
        }
    });
    // Also if this future is dropped: the connection is gone.
    let unanswered = Unanswered(Arc::clone(&session));
    let ended = session.read(&mut rx, buffer).await;
    if !matches!(ended, Ok(End::Left)) {
        drop(unanswered);
    }
    session.tasks.close();
    session.tasks.wait().await;
    session.queue.close();
    let written = writer.await.map_err(|_| Error::Lost)?;
    // A socket that is closed before the peer has read takes back what is under way.
    let read = async {
        match delivered {
            Some(delivered) => delivered.await,
            None => {
                while rx
                    .read_buf(&mut BytesMut::with_capacity(READ_BYTES))
                    .await
                    .is_ok_and(|read| read > 0)
                {}
            }
        }
    };
    if written.is_ok() && matches!(ended, Ok(End::Left)) && timeout(LAST_WORDS, read).await.is_err() {
        tracing::debug!("a caller did not leave in time");
    }
    ended.map(drop)
}

/// Stops on drop what runs, for nobody waits for it any more, and the writer once it has written what is queued.
struct Unanswered(Arc<Session>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.running().drain().for_each(|(_, task)| task.abort());
        self.0.queue.close();
    }
}

/// How reading ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The peer closed.
    Closed,
    /// This server leaves, and has answered everything.
    Left,
}

impl ResultBudget for Session {
    async fn take(&self, _: &CallerKey, bytes: usize) -> ResultPermits {
        // First of this session: one whose peer does not read waits for itself.
        let of_session = self.unsent.take(bytes).await;
        ResultPermits {
            _of_all: self.peer.permits_for_result(&self.listener, bytes).await,
            _of_session: of_session,
        }
    }
}

impl Session {
    fn running(&self) -> MutexGuard<'_, HashMap<u32, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: &Arc<Self>, rx: &mut BoxRead, mut buffer: BytesMut) -> Result<End, Error> {
        let listener = &self.listener;
        let options = &listener.options;
        let mut assembling: HashMap<u32, Assembling> = HashMap::new();
        let mut leaving = false;
        // When a caller whose certificate has ended is cut off.
        let mut expired = None;
        // A frame that has begun has to end.
        let mut frame_since = None;
        let mut received = Instant::now();
        let unproven = self.peer.unproven();
        tokio::pin!(unproven);
        loop {
            let mut group = Group::default();
            while let Some(frame) = codec::decode(&mut buffer)? {
                frame_since = None;
                self.take(frame, &mut assembling, &mut group, leaving)?;
            }
            group.end(|task| drop(self.tasks.spawn(task)));
            if buffer.is_empty() {
                frame_since = None;
            } else if frame_since.is_none() {
                frame_since = Some(Instant::now());
            }
            let stalled = assembling
                .values()
                .map(|assembling| assembling.arrived)
                .chain(frame_since)
                .min()
                .map(|since| since + options.limits.serve_deadline);
            let silent = received + options.idle_deadline;
            let deadline = stalled.unwrap_or(silent).min(silent);
            buffer.reserve(READ_BYTES);
            let done = async {
                self.tasks.close();
                self.tasks.wait().await;
                // Time for the caller to see the notice, and to close.
                tokio::time::sleep(LAST_WORDS).await;
            };
            tokio::select! {
                biased;
                () = self.broken.cancelled() => return Err(Error::Lost),
                () = listener.stop.cancelled() => return Ok(End::Left),
                () = listener.drain.cancelled(), if !leaving => {
                    leaving = true;
                    self.queue.push_now(Kind::Leaving, 0, &[])?;
                }
                () = &mut unproven, if expired.is_none() => {
                    tracing::info!(peer = %self.peer.identity, "a session ends: its caller proves its identity no longer");
                    // What it began while it was proved is answered.
                    expired = Some(Instant::now() + options.limits.serve_deadline);
                    leaving = true;
                    self.queue.push_now(Kind::Leaving, 0, UNPROVEN.as_bytes())?;
                }
                () = sleep_until(expired.unwrap_or(deadline)), if expired.is_some() => return Ok(End::Left),
                read = timeout_at(deadline, rx.read_buf(&mut buffer)) => match read {
                    Ok(Ok(0)) => return Ok(if leaving && self.idle(&assembling) { End::Left } else { End::Closed }),
                    Ok(Ok(_)) => received = Instant::now(),
                    Ok(Err(error)) => return Err(Error::lost(error)),
                    Err(_) if stalled.is_some_and(|stalled| stalled <= Instant::now()) => {
                        return Err(Error::Protocol("a caller that stalls in the middle of a call"));
                    }
                    // A caller that waits for an answer may be silent.
                    Err(_) if !self.idle(&assembling) => received = Instant::now(),
                    Err(_) => return Ok(End::Closed),
                },
                () = done, if leaving && assembling.is_empty() => return Ok(End::Left),
            }
        }
    }

    fn idle(&self, assembling: &HashMap<u32, Assembling>) -> bool {
        assembling.is_empty() && self.tasks.is_empty()
    }

    fn take(
        self: &Arc<Self>,
        frame: Frame,
        assembling: &mut HashMap<u32, Assembling>,
        group: &mut Group,
        leaving: bool,
    ) -> Result<(), Error> {
        let Frame {
            kind,
            call: id,
            mut payload,
        } = frame;
        match kind {
            Kind::Call { end } => {
                if assembling.contains_key(&id) || self.running().contains_key(&id) {
                    return Err(Error::Protocol("the number of a call is taken"));
                }
                let mut call = codec::decode_invocation(&mut payload)?;
                if leaving {
                    return self.refuse(id, &Failure::Leaving);
                }
                let Some(in_flight) = self.peer.call(&self.listener) else {
                    return self.refuse(id, &Failure::Busy);
                };
                let admitted = match self.admit(&mut call, &payload) {
                    Ok(admitted) => admitted,
                    Err(failure) => return self.refuse(id, &failure),
                };
                // Nothing of a call that is refused is kept: its other pieces are skipped.
                let (end, payload) = match admitted.is_refused() {
                    true => (true, Bytes::new()),
                    false => (end, payload),
                };
                let Some(permits) = self.peer.permits(&self.listener, payload.len().max(MIN_CALL_BYTES)) else {
                    return self.refuse(id, &Failure::Busy);
                };
                let mut new = Assembling {
                    call,
                    admitted,
                    arrived: Instant::now(),
                    body: BytesMut::new(),
                    in_flight,
                    permits,
                };
                if end {
                    return self.run(id, new, payload, group);
                }
                new.body.extend_from_slice(&payload);
                assembling.insert(id, new);
                Ok(())
            }
            Kind::Piece { end } => {
                // Of a call that was refused or cancelled, it is skipped.
                let Some(mut call) = assembling.remove(&id) else {
                    return Ok(());
                };
                let limit = self.listener.options.limits.max_body_bytes;
                let bytes = call.body.len() + payload.len();
                if bytes > limit {
                    return self.refuse(id, &too_large(Body::Parameters, bytes, limit).into());
                }
                let Some(permits) = self.peer.permits(&self.listener, payload.len().max(MIN_CALL_BYTES)) else {
                    return self.refuse(id, &Failure::Busy);
                };
                call.permits.merge(permits);
                call.body.extend_from_slice(&payload);
                if end {
                    let body = std::mem::take(&mut call.body).freeze();
                    return self.run(id, call, body, group);
                }
                assembling.insert(id, call);
                Ok(())
            }
            Kind::Cancel => {
                assembling.remove(&id);
                if let Some(task) = self.running().remove(&id) {
                    task.abort();
                }
                Ok(())
            }
            Kind::Ping => self.queue.push_now(Kind::Pong, id, &[]),
            Kind::Pong => Ok(()),
            Kind::Result { .. } | Kind::Failed | Kind::Leaving => {
                Err(Error::Protocol("a frame that only servers send"))
            }
        }
    }

    /// Whether this peer may make the call, by what stands in front of its parameters.
    fn admit(&self, call: &mut Invocation, first: &[u8]) -> Result<Admitted, Failure> {
        let mut caller = Caller::known_as(self.peer.identity.clone());
        caller.traceparent = call.traceparent.take();
        caller.tracestate = call.tracestate.take();
        caller.link = call.link.take().unwrap_or(caller.link);
        self.listener.functions.admit(&call.instance, &call.func, caller, first)
    }

    fn refuse(&self, id: u32, failure: &Failure) -> Result<(), Error> {
        tracing::debug!(peer = %self.peer.identity, ?failure, "an invocation is refused");
        self.queue.push_now(Kind::Failed, id, &codec::encode_failure(failure))
    }

    /// Runs a call, with those that came in the same read.
    fn run(self: &Arc<Self>, id: u32, assembled: Assembling, body: Bytes, group: &mut Group) -> Result<(), Error> {
        let Assembling {
            call,
            admitted,
            arrived,
            in_flight,
            permits,
            ..
        } = assembled;
        let limit = self.listener.options.limits.max_body_bytes;
        if body.len() > limit {
            return self.refuse(id, &too_large(Body::Parameters, body.len(), limit).into());
        }
        let deadline = arrived + self.listener.deadline(call.deadline_ms);
        let session = Arc::clone(self);
        let bytes = body.len();
        let (abort, registration) = AbortHandle::new_pair();
        // Before it begins, so that it can't end before.
        self.running().insert(id, abort);
        let call = async move {
            let parameters = Chunks::whole(body, permits);
            let result = admitted
                .run(parameters, deadline, &session.listener.stop, &session)
                .await;
            // From here on it can't be cancelled: a part of an answer would break the session.
            session.running().remove(&id);
            if let Err(failure) = &result {
                let peer = &session.peer.identity;
                let calls = &session.listener.tallies.calls;
                calls.count(|| format!("{}.{}, called by {peer}: {failure}", call.instance, call.func));
            }
            session.answer(id, result).await;
            drop(in_flight);
        };
        let call = Abortable::new(call, registration).map(drop);
        group.begin(Box::pin(call), bytes, |task| drop(self.tasks.spawn(task)));
        Ok(())
    }

    async fn answer(&self, id: u32, result: Result<Answer, Failure>) {
        let sent = match &result {
            Ok(Answer { body, permits: _ }) => {
                let body = self.queue.push_body(|end| Kind::Result { end }, id, &[], body);
                timeout(self.listener.options.limits.answer_deadline(), body)
                    .await
                    .unwrap_or(Err(Error::Lost))
            }
            Err(failure) => self.queue.push_now(Kind::Failed, id, &codec::encode_failure(failure)),
        };
        if sent.is_err() {
            // A part may be sent already: nothing else can follow.
            self.broken.cancel();
        }
    }
}
