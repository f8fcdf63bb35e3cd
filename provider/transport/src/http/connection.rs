//! Serves one connection: hyper parses and writes; how long anything may take, and how a connection ends, is decided here.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt as _;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt as _, join};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::http::activity::{Activity, Late, Watched};
use crate::http::problem::HttpProblem;
use crate::http::respond::{MAX_HEAD_BYTES, MAX_HEADERS, Responder};
use crate::stream::byte_stream::ByteStream;
use crate::stream::listener_state::{LAST_WORDS, ListenerState};
use crate::stream::peer::Peer;
use crate::stream::stock::read_leftover;

/// What hyper reads of a head that is too large, for an answer with a reason: beyond that, its own answer has none.
const READ_OF_HEADS: usize = 2;
/// What is read ahead of a connection, and written ahead to it.
const MAX_BUFFER_BYTES: usize = 64 << 10;

/// How a connection ended.
enum End {
    /// By itself: it was closed, or broken.
    Served(hyper::Result<()>),
    Late(Late),
    /// Its caller proves its identity no longer, and had its time.
    Unproven,
}

/// Serves a connection that was accepted at `since`.
pub(crate) async fn serve(
    listener: Arc<ListenerState>,
    peer: Peer,
    stream: ByteStream,
    since: Instant,
) -> Result<(), Error> {
    let ByteStream { reader, writer, .. } = stream;
    let activity = Arc::new(Activity::new(since, &listener.options));
    let leaving = CancellationToken::new();
    let responder = Arc::new(Responder {
        listener: Arc::clone(&listener),
        peer: peer.clone(),
        activity: Arc::clone(&activity),
        leaving: leaving.clone(),
    });
    let service = service_fn(move |request| {
        let responder = Arc::clone(&responder);
        async move { Ok::<_, Infallible>(responder.respond(request).await) }.boxed()
    });
    let io = TokioIo::new(Watched::new(join(reader, writer), Arc::clone(&activity)));
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_header_size(READ_OF_HEADS * MAX_HEAD_BYTES)
        .max_headers(READ_OF_HEADS * MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(io, service);
    let mut unproven = pin!(peer.unproven());
    let mut timer = pin!(sleep_until(since));
    let mut leave_at = None;
    let mut expired = None;
    let mut stopped = false;
    let end = loop {
        let served = poll_fn(|cx| {
            if let Poll::Ready(served) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(End::Served(served));
            }
            // What is due changes only while the connection is polled.
            let Some((at, late)) = activity.due() else {
                return Poll::Pending;
            };
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            timer.as_mut().poll(cx).map(|()| End::Late(late))
        });
        let far = Instant::now();
        tokio::select! {
            biased;
            end = served => break end,
            () = listener.stop.cancelled(), if !stopped => {
                stopped = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // A request may be under way that was sent before its caller could know that the connection ends.
            () = listener.drain.cancelled(), if leave_at.is_none() => {
                leaving.cancel();
                leave_at = Some(Instant::now() + LAST_WORDS);
            }
            () = sleep_until(leave_at.unwrap_or(far)), if leave_at.is_some() && !stopped => {
                stopped = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut unproven, if expired.is_none() => {
                tracing::info!(peer = %peer.identity, "a connection ends: its caller proves its identity no longer");
                expired = Some(Instant::now() + listener.options.limits.serve_deadline);
                leaving.cancel();
                leave_at = leave_at.or(Some(Instant::now() + LAST_WORDS));
            }
            () = sleep_until(expired.unwrap_or(far)), if expired.is_some() => break End::Unproven,
        }
    };
    let io = connection.into_parts().io.into_inner();
    close(io, &end).await;
    match end {
        End::Served(Err(error)) if error.is_parse() => Err(Error::Protocol("a request that is not well formed")),
        End::Served(Err(error)) => {
            tracing::debug!(%error, "a connection is lost");
            Err(Error::Lost)
        }
        End::Late(Late::Unknown) => Err(Error::Protocol(
            "a peer that shows in time neither a request nor who sends it",
        )),
        End::Late(Late::Head) => Err(Error::Protocol("a head that does not end")),
        End::Late(Late::Unread) => Err(Error::Protocol("a peer that does not read its answer")),
        End::Served(Ok(())) | End::Late(Late::Idle) | End::Unproven => Ok(()),
    }
}

/// To a head that does not end.
fn head_timeout() -> HttpProblem {
    HttpProblem::new(
        StatusCode::REQUEST_TIMEOUT,
        Error::Protocol("").code(),
        "the head of this request did not end in time: send a head at once, and end it with an empty line",
    )
}

/// Closes a connection so that its peer reads what was sent last: one that is closed with something unread takes that back.
async fn close<R, W>(mut io: Watched<tokio::io::Join<R, W>>, end: &End)
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let last_words = async {
        if matches!(end, End::Late(Late::Head)) {
            io.write_all(&head_timeout().into_bytes()).await?;
        }
        io.shutdown().await?;
        read_leftover(&mut io).await;
        std::io::Result::Ok(())
    };
    if matches!(end, End::Late(Late::Unread)) {
        return;
    }
    if !matches!(timeout(LAST_WORDS, last_words).await, Ok(Ok(()))) {
        tracing::debug!("a caller did not close in time");
    }
}
