//! The body of a response, and what is held until it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

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

/// The body of a response: its request goes on until this is dropped, which is when all of it is handed to the connection.
pub(crate) struct AnswerBody {
    body: ResponseBody,
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
    let is_whole = response.body().size_hint().exact().is_some();
    if let (true, Some(calls)) = (is_whole, &calls) {
        activity.answer_by(Instant::now() + calls.listener().options.limits.answer_deadline());
    }
    let over = calls.clone().filter(|_| !is_whole).map(|calls| calls.over().boxed());
    response.map(|body| AnswerBody {
        body,
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
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.activity.answered();
    }
}
