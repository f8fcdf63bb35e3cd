//! What answers requests that are no invocations: the routes of a service, which this crate knows nothing of.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;

use crate::http::request_body::RequestBody;
use crate::{CodecError, Service};

/// The body of a response.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, CodecError>;

/// The routes of a service.
#[derive(Clone)]
pub(crate) struct Http {
    routes: Arc<dyn Routes>,
    open: Arc<IsOpen>,
    beside: Arc<Beside>,
}

/// Whether a request needs no caller.
type IsOpen = dyn Fn(&Method, &Uri) -> bool + Send + Sync;

/// What stands beside the headers of a response, by those of its request.
type Beside = dyn Fn(&HeaderMap) -> Headers + Send + Sync;

/// Headers of a response.
type Headers = Vec<(HeaderName, HeaderValue)>;

/// Routes of any type.
trait Routes: Send + Sync {
    fn answer(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<ResponseBody>>;
}

struct OfService<S>(S);

impl<S, B> Routes for OfService<S>
where
    S: tower_service::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<CodecError>,
{
    fn answer(&self, request: Request<RequestBody>) -> BoxFuture<'static, Response<ResponseBody>> {
        let mut service = self.0.clone();
        let answer = async move {
            let Ok(()) = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
            let Ok(response) = service.call(request).await;
            response.map(|body| body.map_err(Into::into).boxed_unsync())
        };
        answer.boxed()
    }
}

impl Http {
    /// Whether a request needs no caller.
    pub(crate) fn is_open(&self, method: &Method, uri: &Uri) -> bool {
        (self.open)(method, uri)
    }

    /// What every response to a request with these headers has besides its own.
    pub(crate) fn beside(&self, request: &HeaderMap) -> Headers {
        (self.beside)(request)
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, request: Request<RequestBody>) -> Response<ResponseBody> {
        self.routes.answer(request).await
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl Service {
    /// Has requests of HTTP that are no invocations answered by `routes`, such as an `axum::Router`. Without it they are all
    /// answered with 404. Each request has [`crate::Calls`] among its extensions, by which a route makes calls of this service
    /// as the request's caller; everything that a call is held to (guard, permits, bytes, deadlines) is held there.
    ///
    /// The path of an invocation begins with an interface, which has a colon in its first segment: `POST /a:b/…` and `POST /`
    /// never reach `routes`.
    ///
    /// `open` names the requests that need no caller, such as probes. Any other request whose connection proves nothing of its
    /// caller, and that shows no known token, is answered with 401 before `routes` sees it.
    ///
    /// `beside` gives the headers that every response to a request has besides its own, by the request's headers: also the
    /// responses that are made here, before a route or instead of it, such as the one with 401. A browser shows a page
    /// nothing of a response that does not say that the page may read it.
    ///
    /// A response whose length is not known is a stream: it counts as a call of its caller until it ends, and ends when the
    /// listener drains, when the connection proves its caller no longer, or when the caller's token is known no longer.
    #[must_use]
    pub fn http<S, B>(
        mut self,
        routes: S,
        open: impl Fn(&Method, &Uri) -> bool + Send + Sync + 'static,
        beside: impl Fn(&HeaderMap) -> Vec<(HeaderName, HeaderValue)> + Send + Sync + 'static,
    ) -> Self
    where
        S: tower_service::Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<CodecError>,
    {
        self.http = Some(Http {
            routes: Arc::new(OfService(routes)),
            open: Arc::new(open),
            beside: Arc::new(beside),
        });
        self
    }
}
