//! The body of a response, and what is held until it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use tokio::time::Instant;

use crate::CodecError;
use crate::http::activity::Activity;
use crate::http::calls::Calls;
use crate::http::router::ResponseBody;
use crate::result_budget::ResultPermits;

/// What is handed to the connection at a time: a connection takes more only once it has sent most of what it has, and what it
/// has is no longer counted.
const MAX_PIECE_BYTES: usize = 16 << 10;
/// A whole answer has to be taken within `answer_deadline`, and a second more for each of these.
const MIN_BYTES_PER_SECOND: u64 = 256 << 10;

/// The body of a response: its request goes on until this is dropped, which is when all of it is handed to the connection.
pub(crate) struct AnswerBody {
    body: ResponseBody,
    /// What came of `body` and is not handed on yet.
    rest: Bytes,
    activity: Arc<Activity>,
    /// Of a body that may go on: ends when it has to end.
    over: Option<BoxFuture<'static, ()>>,
    _held: (Option<Calls>, ResultPermits),
}

/// The response to a request, with what is held for it.
pub(crate) fn answer(
    response: Response<ResponseBody>,
    activity: &Arc<Activity>,
    calls: Option<Calls>,
    permits: ResultPermits,
) -> Response<AnswerBody> {
    let length = response.body().size_hint().exact();
    if let (Some(length), Some(calls)) = (length, &calls) {
        let sending = Duration::from_secs(length / MIN_BYTES_PER_SECOND);
        activity.answer_by(Instant::now() + calls.listener().options.limits.answer_deadline() + sending);
    }
    let over = calls
        .clone()
        .filter(|_| length.is_none())
        .map(|calls| calls.over().boxed());
    response.map(|body| AnswerBody {
        body,
        rest: Bytes::new(),
        activity: Arc::clone(activity),
        over,
        _held: (calls, permits),
    })
}

/// A response that is all there.
pub(crate) fn whole(response: Response<Full<Bytes>>) -> Response<ResponseBody> {
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = CodecError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, CodecError>>> {
        if let Some(over) = &mut self.over
            && over.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)?) {
                None => return Poll::Ready(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        let bytes = self.rest.len().min(MAX_PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.activity.answered();
    }
}
