//! One byte stream of a peer: its first byte tells a session from a stock invocation.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::budget::Room;
use crate::framed::{self, Frames};
use crate::listen::shared::{LAST_WORDS, Peer, Shared};
use crate::parameters::Parameters;
use crate::session::codec::HELLO;
use crate::wire::Failure;
use crate::{Caller, Error, Part, session};

/// What a peer sends.
pub(crate) type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// What it is sent.
pub(crate) type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Chunks that wait for a decoder.
const CHUNKS: usize = 4;
/// What a chunk takes of the allowance at least.
const MIN_CHUNK_BYTES: usize = 256;
/// What a peer may still send behind its parameters, to be read before the stream is closed.
const MAX_LEFTOVER_BYTES: usize = 64 << 10;

/// Both directions of a byte stream.
pub(crate) struct Stream {
    pub(crate) reader: BoxRead,
    pub(crate) writer: BoxWrite,
    /// Ends when the peer has taken all that was sent, or takes no more. Where that can't be told, the peer's own end
    /// stands for it.
    pub(crate) delivered: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// Serves whatever the peer wants of it.
pub(crate) async fn serve(shared: Arc<Shared>, peer: Peer, stream: Stream, since: Instant) {
    let (identity, faults) = (peer.identity.clone(), shared.strangers.faults.clone());
    match dispatch(shared, peer, stream, since).await {
        Err(error @ Error::Protocol(_)) => faults.count(|| format!("of {identity}: {error}")),
        Err(error) => tracing::debug!(peer = %identity, %error, "a stream ended"),
        Ok(()) => {}
    }
}

async fn dispatch(shared: Arc<Shared>, peer: Peer, mut stream: Stream, since: Instant) -> Result<(), Error> {
    let first_deadline = since + shared.options.first_call_deadline;
    // So small that a thousand silent connections cost little.
    let mut first = [0; 64];
    let read = tokio::select! {
        biased;
        read = timeout_at(first_deadline, stream.reader.read(&mut first)) => {
            read.map_err(|_| Error::Protocol("a peer that says nothing"))?.map_err(Error::lost)?
        }
        () = shared.hurry() => 0,
        () = shared.stop.cancelled() => 0,
    };
    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&first[..read]);
    match buffer.first() {
        None => Ok(()),
        Some(&framed::VERSION) => one_call(shared, peer, stream, buffer, first_deadline).await,
        Some(&byte) if byte == HELLO[0] => session::serve::serve(shared, peer, stream, buffer, first_deadline).await,
        Some(_) => Err(Error::Protocol("neither wRPC's framing nor a session")),
    }
}

/// Serves a stock invocation, which has the stream to itself.
async fn one_call(
    shared: Arc<Shared>,
    peer: Peer,
    mut stream: Stream,
    mut buffer: BytesMut,
    first_deadline: Instant,
) -> Result<(), Error> {
    let header = timeout_at(first_deadline, framed::read_header(&mut stream.reader, &mut buffer));
    let header = header
        .await
        .map_err(|_| Error::Protocol("a header that does not end"))??;
    peer.begin();
    let Some(_in_flight) = shared.begin(&peer) else {
        return Err(Error::Protocol("more calls at a time than one peer may have"));
    };
    let deadline = Instant::now() + shared.deadline(0);
    let mut delivered = stream.delivered.take();
    let work = call(&shared, &peer, &header, &mut stream, buffer, deadline);
    let gone = async {
        match &mut delivered {
            Some(delivered) => delivered.await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        biased;
        result = work => result,
        () = gone => return Err(Error::Lost),
        () = sleep_until(deadline) => Err(Failure::Failed("the deadline passed".into())),
    };
    let body = match result {
        Ok(body) => body,
        Err(failure) => {
            let calls = &shared.strangers.calls;
            calls.count(|| {
                let (instance, func) = (&header.instance, &header.func);
                format!("{instance}.{func}, called by {}: {failure}", peer.identity)
            });
            // wRPC's framing has no word for a failure but a stream that ends without a result.
            Bytes::new()
        }
    };
    let _room = timeout_at(deadline, shared.room_for_result(&peer, body.len()))
        .await
        .map_err(|_| Error::NoRoom)?;
    let answer = async {
        if !body.is_empty() {
            let frame = framed::body(&body, Part::Result)?;
            stream.writer.write_all(&frame).await.map_err(Error::lost)?;
        }
        stream.writer.flush().await.map_err(Error::lost)?;
        stream.writer.shutdown().await.map_err(Error::lost)
    };
    let answered = timeout(shared.options.limits.answer_deadline(), answer).await;
    answered.map_err(|_| Error::Protocol("a peer that does not read its result"))??;
    let read = async {
        match delivered {
            Some(delivered) => delivered.await,
            None => read_leftover(&mut stream.reader).await,
        }
    };
    if timeout(LAST_WORDS, read).await.is_err() {
        tracing::debug!("a caller did not close in time");
    }
    Ok(())
}

/// A socket that is closed with something unread takes back what was sent last.
async fn read_leftover(reader: &mut BoxRead) {
    let mut buffer = [0; 1024];
    let mut left = MAX_LEFTOVER_BYTES;
    while let Ok(bytes @ 1..) = reader.read(&mut buffer).await {
        left = left.saturating_sub(bytes);
        if left == 0 {
            return;
        }
    }
}

/// Reads parameters and runs the handler meanwhile, from the first whole frame on.
async fn call(
    shared: &Shared,
    peer: &Peer,
    header: &framed::Header,
    stream: &mut Stream,
    mut buffer: BytesMut,
    deadline: Instant,
) -> Result<Bytes, Failure> {
    let caller = Caller::known_as(peer.identity.clone());
    let admitted = shared.functions.admit(&header.instance, &header.func, caller, &[])?;
    let mut frames = Frames::new(Part::Parameters, shared.options.limits.max_body_bytes);
    let mut room = Room::default();
    let mut first = Vec::new();
    let mut ended = false;
    // What may come, comes: room is taken for what is here.
    loop {
        match framed::read_data(&mut stream.reader, &mut buffer, &mut frames).await? {
            Some(data) => {
                // What is refused is read to its end, and not kept.
                if !admitted.is_refused() {
                    let bytes = data.len().max(MIN_CHUNK_BYTES);
                    room.merge(shared.room(peer, bytes).ok_or(Failure::Busy)?);
                    first.push(data);
                }
                if frames.is_whole() {
                    break;
                }
            }
            None => {
                ended = true;
                break;
            }
        }
    }
    let (chunks, parameters) = mpsc::channel(CHUNKS);
    let reader = &mut stream.reader;
    let pump = async move {
        for data in first {
            if chunks.send(Ok(data)).await.is_err() {
                return std::future::pending().await;
            }
        }
        // What came whole with its header leaves nothing to read.
        let mut reader = (!ended).then_some(reader);
        while let Some(reader) = reader.as_mut() {
            let Some(data) = framed::read_data(reader, &mut buffer, &mut frames).await? else {
                break;
            };
            let bytes = data.len().max(MIN_CHUNK_BYTES);
            room.merge(shared.room(peer, bytes).ok_or(Failure::Busy)?);
            // The handler has all it wants.
            if chunks.send(Ok(data)).await.is_err() {
                break;
            }
        }
        drop(chunks);
        std::future::pending::<Result<std::convert::Infallible, Failure>>().await
    };
    tokio::select! {
        result = admitted.run(Parameters::on_stream(parameters), deadline, &shared.stop) => result,
        never = pump => match never { Ok(never) => match never {}, Err(failure) => Err(failure) },
    }
}
