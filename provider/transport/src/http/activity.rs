//! How long one connection may be silent, send a head, or leave an answer unread.
//!
//! hyper bounds the head in bytes and in headers. Time is bounded here, because its own timer does not tell a caller that
//! is between two requests from one that stalls in the middle of a head.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::stream::listen_options::ListenOptions;

/// What a connection is doing.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    head: Duration,
    idle: Duration,
    stall: Duration,
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// The peer has not taken what is written since then.
    blocked: Option<Instant>,
    /// When the first caller has to be known.
    unknown_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
enum Doing {
    /// Between requests.
    Nothing { since: Instant },
    /// A head has begun.
    Head { since: Instant },
    /// A request is answered; the whole of the answer has to be taken until `by`.
    Answering { by: Option<Instant> },
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// No caller was known in time.
    Unknown,
    /// No request for the time that a connection may be idle.
    Idle,
    /// A head that does not end.
    Head,
    /// An answer that is not read.
    Unread,
}

impl Activity {
    /// Of a connection that was accepted at `since`.
    pub(crate) fn new(since: Instant, options: &ListenOptions) -> Self {
        Self {
            state: Mutex::new(State {
                doing: Doing::Nothing { since },
                blocked: None,
                unknown_until: Some(since + options.first_call_deadline),
            }),
            head: options.first_call_deadline,
            idle: options.idle_deadline,
            stall: options.limits.serve_deadline,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's head is complete.
    pub(crate) fn request(&self) {
        self.state().doing = Doing::Answering { by: None };
    }

    /// Its caller is known.
    pub(crate) fn known(&self) {
        self.state().unknown_until = None;
    }

    /// Its answer is whole, and has to be taken until then.
    pub(crate) fn answer_by(&self, by: Instant) {
        self.state().doing = Doing::Answering { by: Some(by) };
    }

    /// Its answer is written.
    pub(crate) fn answered(&self) {
        self.state().doing = Doing::Nothing { since: Instant::now() };
    }

    /// When the connection is given up unless something happens, and why.
    pub(crate) fn due(&self) -> Option<(Instant, Late)> {
        let state = self.state();
        let doing = match state.doing {
            Doing::Nothing { since } => Some((since + self.idle, Late::Idle)),
            Doing::Head { since } => Some((since + self.head, Late::Head)),
            Doing::Answering { by } => by.map(|by| (by, Late::Unread)),
        };
        let unknown = match state.doing {
            // What is being answered is bounded by itself.
            Doing::Answering { .. } => None,
            Doing::Head { .. } => state.unknown_until.map(|until| (until, Late::Head)),
            Doing::Nothing { .. } => state.unknown_until.map(|until| (until, Late::Unknown)),
        };
        let unread = state.blocked.map(|since| (since + self.stall, Late::Unread));
        [doing, unknown, unread].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn received(&self) {
        let mut state = self.state();
        if matches!(state.doing, Doing::Nothing { .. }) {
            state.doing = Doing::Head { since: Instant::now() };
        }
    }

    fn wrote(&self, blocked: bool) {
        let mut state = self.state();
        state.blocked = blocked.then(|| state.blocked.unwrap_or_else(Instant::now));
    }
}

/// A byte stream whose activity is noted.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(crate) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.activity.wrote(wrote.is_pending());
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.wrote(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.activity.wrote(wrote.is_pending());
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(activity: &Activity) -> Option<Late> {
        activity.due().map(|(_, late)| late)
    }

    #[tokio::test(start_paused = true)]
    async fn each_silence_has_its_own_limit() {
        let options = ListenOptions::default();
        let activity = Activity::new(Instant::now(), &options);
        assert_eq!(due(&activity), Some(Late::Unknown), "before anyone is known");
        activity.request();
        assert_eq!(due(&activity), None, "a request bounds itself");
        activity.answered();
        assert_eq!(
            due(&activity),
            Some(Late::Unknown),
            "an answer to nobody changes nothing"
        );
        activity.request();
        activity.known();
        activity.answered();
        assert_eq!(
            activity.due(),
            Some((Instant::now() + options.idle_deadline, Late::Idle))
        );
        activity.received();
        let head = Some((Instant::now() + options.first_call_deadline, Late::Head));
        assert_eq!(activity.due(), head);
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.received();
        assert!(
            activity.due().map(|(at, _)| at) < Some(Instant::now() + options.first_call_deadline),
            "drops do not help"
        );
        activity.request();
        activity.wrote(true);
        let unread = Some((Instant::now() + options.limits.serve_deadline, Late::Unread));
        assert_eq!(activity.due(), unread);
        activity.wrote(false);
        assert_eq!(
            due(&activity),
            None,
            "a stream may go on for ever, as long as it is read"
        );
    }
}
