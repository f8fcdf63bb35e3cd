//! The body of a request, bounded in bytes and in time while it is read.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep_until};

use crate::failure::too_large;
use crate::http::calls::Calls;
use crate::http::problem::HttpProblem;
use crate::{Body, Error, Resource};

/// The body of a request. What was read of it counts against the caller until the response is sent; it ends in an error
/// where the caller has no permits left, sends more than a call may have, or has not sent all of it by the call's deadline.
/// The request is then answered with that error, whatever its route makes of it. Trailers are dropped.
pub struct RequestBody {
    incoming: Incoming,
    calls: Calls,
    taken: usize,
    late: Pin<Box<Sleep>>,
    /// What is read is kept by nobody.
    skips: bool,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, calls: Calls) -> Self {
        Self {
            incoming,
            late: Box::pin(sleep_until(calls.deadline())),
            calls,
            taken: 0,
            skips: false,
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// What is left, after what was read before.
    pub(crate) async fn rest(mut self, first: Bytes) -> Result<Bytes, Error> {
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::from(&first[..]);
        drop(first);
        all.extend_from_slice(&second);
        while let Some(more) = self.chunk().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }

    /// Reads what is left, and keeps nothing of it: a caller that is still sending reads no answer.
    pub(crate) async fn skip(mut self) -> Result<(), Error> {
        self.skips = true;
        while self.chunk().await?.is_some() {}
        Ok(())
    }

    fn take(&mut self, data: &Bytes) -> Result<(), Error> {
        let limit = self.calls.listener().options.limits.max_body_bytes;
        self.taken += data.len();
        if self.taken > limit {
            return Err(too_large(Body::Parameters, self.taken, limit));
        }
        if !self.skips {
            let permits = self.calls.permits(data.len()).ok_or(Error::Busy(Resource::Bytes))?;
            self.calls.hold(permits);
        }
        Ok(())
    }

    fn failed<T>(&self, error: Error, problem: Option<HttpProblem>) -> Poll<Option<Result<T, Error>>> {
        self.calls.fail(problem.unwrap_or_else(|| HttpProblem::from(&error)));
        Poll::Ready(Some(Err(error)))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
                if self.late.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let late = Error::Protocol("a body that does not end in time");
                let detail = format!(
                    "{} of the body's bytes came in time, and not all of it: send it faster, or less in one request",
                    self.taken
                );
                let slow = HttpProblem::new(StatusCode::REQUEST_TIMEOUT, late.code(), detail);
                return self.failed(late, Some(slow));
            };
            match frame {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    return match self.take(&data) {
                        Ok(()) => Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(error) => self.failed(error, None),
                    };
                }
                Some(Err(_)) => return self.failed(Error::Protocol("a body that is not well formed"), None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("taken", &self.taken)
            .finish_non_exhaustive()
    }
}
