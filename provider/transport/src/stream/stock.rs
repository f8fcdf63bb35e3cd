//! Serves stock wRPC: one invocation, which has its byte stream to itself.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::failure::Failure;
use crate::frames::{self, Frames};
use crate::functions::Answer;
use crate::result_budget::{ResultBudget, ResultPermits};
use crate::shares::CallerKey;
use crate::stream::byte_stream::{BoxRead, ByteStream};
use crate::stream::listener_state::{LAST_WORDS, ListenerState};
use crate::stream::peer::Peer;
use crate::stream::stock_reader;
use crate::{Body, Caller, Error};

/// Chunks that wait for a decoder.
const CHUNKS: usize = 4;
/// What a chunk takes of the allowance at least.
const MIN_CHUNK_BYTES: usize = 256;
/// What a peer may still send behind its parameters, to be read before the stream is closed.
const MAX_LEFTOVER_BYTES: usize = 64 << 10;

/// Serves a stock invocation, which has the stream to itself.
pub(crate) async fn serve(
    listener: Arc<ListenerState>,
    peer: Peer,
    mut stream: ByteStream,
    mut buffer: BytesMut,
    first_deadline: Instant,
) -> Result<(), Error> {
    let header = timeout_at(
        first_deadline,
        stock_reader::read_header(&mut stream.reader, &mut buffer),
    );
    let header = header
        .await
        .map_err(|_| Error::Protocol("a header that does not end"))??;
    peer.begin();
    let Some(_in_flight) = peer.call(&listener) else {
        return Err(Error::Protocol("more calls at a time than one peer may have"));
    };
    let deadline = Instant::now() + listener.deadline(0);
    let mut delivered = stream.delivered.take();
    let caller = Caller::known_as(peer.identity.clone());
    let work = call(&listener, &peer, caller, &header, &mut stream.reader, buffer, deadline);
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
    let Answer {
        body,
        permits: _permits,
    } = match result {
        Ok(answer) => answer,
        Err(failure) => {
            let calls = &listener.tallies.calls;
            calls.count(|| {
                let (instance, func) = (&header.instance, &header.func);
                format!("{instance}.{func}, called by {}: {failure}", peer.identity)
            });
            // wRPC's framing has no word for a failure but a stream that ends without a result.
            Answer {
                body: Bytes::new(),
                permits: ResultPermits::default(),
            }
        }
    };
    let answer = async {
        if !body.is_empty() {
            let frame = frames::encode(&body, Body::Result)?;
            stream.writer.write_all(&frame).await.map_err(Error::lost)?;
        }
        stream.writer.flush().await.map_err(Error::lost)?;
        stream.writer.shutdown().await.map_err(Error::lost)
    };
    let answered = timeout(listener.options.limits.answer_deadline(), answer).await;
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
pub(crate) async fn read_leftover(reader: &mut (impl AsyncRead + Unpin)) {
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
pub(crate) async fn call(
    listener: &Arc<ListenerState>,
    peer: &Peer,
    caller: Caller,
    header: &stock_reader::Header,
    reader: &mut BoxRead,
    mut buffer: BytesMut,
    deadline: Instant,
) -> Result<Answer, Failure> {
    let admitted = listener.functions.admit(&header.instance, &header.func, caller, &[])?;
    let mut frames = Frames::new(Body::Parameters, listener.options.limits.max_body_bytes);
    let mut permits = Permits::default();
    let mut first = Vec::new();
    let mut ended = false;
    // What may come, comes: permits are taken for what is here.
    loop {
        match stock_reader::read_data(reader, &mut buffer, &mut frames).await? {
            Some(data) => {
                // What is refused is read to its end, and not kept.
                if !admitted.is_refused() {
                    let bytes = data.len().max(MIN_CHUNK_BYTES);
                    permits.merge(peer.permits(listener, bytes).ok_or(Failure::Busy)?);
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
    let pump = async move {
        for data in first {
            if chunks.send(Ok(data)).await.is_err() {
                return std::future::pending().await;
            }
        }
        // What came whole with its header leaves nothing to read.
        let mut reader = (!ended).then_some(reader);
        while let Some(reader) = reader.as_mut() {
            let Some(data) = stock_reader::read_data(reader, &mut buffer, &mut frames).await? else {
                break;
            };
            let bytes = data.len().max(MIN_CHUNK_BYTES);
            permits.merge(peer.permits(listener, bytes).ok_or(Failure::Busy)?);
            // The handler has all it wants.
            if chunks.send(Ok(data)).await.is_err() {
                break;
            }
        }
        drop(chunks);
        std::future::pending::<Result<std::convert::Infallible, Failure>>().await
    };
    let parameters = Chunks::whole(Bytes::new(), Permits::default()).and(parameters);
    let results = Arc::new(PeerResults {
        listener: Arc::clone(listener),
        peer: peer.clone(),
    });
    tokio::select! {
        result = admitted.run(parameters, deadline, &listener.stop, &results) => result,
        never = pump => match never { Ok(never) => match never {}, Err(failure) => Err(failure) },
    }
}

/// Where results of one connection's call take their permits.
pub(crate) struct PeerResults {
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) peer: Peer,
}

impl ResultBudget for PeerResults {
    async fn take(&self, _: &CallerKey, bytes: usize) -> ResultPermits {
        ResultPermits {
            _of_all: self.peer.permits_for_result(&self.listener, bytes).await,
            ..ResultPermits::default()
        }
    }
}
