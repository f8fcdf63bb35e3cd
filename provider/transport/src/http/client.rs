//! Calls a service over HTTP: connections that are used again, a token, and what a response says of its call.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::join;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::budget::Budget;
use crate::failure::{one_line, too_large};
use crate::http::headers::{DEADLINE_MS, LINK, TRACEPARENT, TRACESTATE, text};
use crate::http::problem::Written;
use crate::http::target::path_of;
use crate::stream::byte_stream::ByteStream;
use crate::stream::dialer::Dialer;
use crate::{Body, CallContext, Endpoint, Error, Options, Resource, SecretFrom};

/// How often a call that was not taken is given to another connection.
const MOVES: usize = 4;
/// Connections that wait for the next call.
const MAX_IDLE: usize = 64;
/// A connection that waited longer is not used again: its server, or what is on the way, may be about to close it.
const IDLE: Duration = Duration::from_secs(20);
/// Read ahead of a response.
const MAX_BUFFER_BYTES: usize = 128 << 10;
/// Of an answer that is no result.
const MAX_PROBLEM_BYTES: usize = 64 << 10;
/// The longest wait that a server may name.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The connections to an endpoint.
pub(crate) struct HttpClient {
    endpoint: Endpoint,
    host: HeaderValue,
    dialer: Dialer,
    token: Option<SecretFrom>,
    limits: Options,
    connect_deadline: Duration,
    budget: Budget,
    calls: Semaphore,
    idle: Mutex<Vec<(Instant, Connection)>>,
    /// Until when a path is not called, as its server wants it.
    pauses: Mutex<HashMap<String, Instant>>,
}

/// One connection, for one call at a time. Dropping it closes it, by which the server learns that nobody waits any more.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    token: Option<HeaderValue>,
    driver: AbortOnDropHandle<hyper::Result<()>>,
    /// What the byte stream is on.
    _connection: Option<Box<dyn Any + Send + Sync>>,
}

/// Why a request has no response.
enum Unanswered {
    /// It was not sent.
    NotSent(hyper::Error),
    /// It may have been taken.
    Lost(hyper::Error),
}

impl HttpClient {
    /// No connection yet. `connect_deadline` is for each that is made.
    pub(crate) fn new(
        endpoint: &Endpoint,
        dialer: Dialer,
        token: Option<SecretFrom>,
        limits: Options,
        connect_deadline: Duration,
    ) -> Result<Self, Error> {
        let misused = |why| Error::Misused {
            endpoint: endpoint.clone(),
            why,
        };
        let authority = endpoint.authority().ok_or_else(|| misused("is not called by HTTP"))?;
        if token.is_some() && !endpoint.has_tls() && !authority.is_loopback() {
            return Err(misused(
                "may not be shown a token, which anyone on the way could read: use https",
            ));
        }
        let host =
            HeaderValue::try_from(authority.to_string()).map_err(|_| misused("has a host that HTTP can't name"))?;
        Ok(Self {
            endpoint: endpoint.clone(),
            host,
            dialer,
            token,
            budget: Budget::new(limits.buffered_bytes),
            calls: Semaphore::new(limits.calls),
            limits,
            connect_deadline,
            idle: Mutex::default(),
            pauses: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> &Options {
        &self.limits
    }

    /// Waits until the server answers, and takes this caller.
    pub(crate) async fn connect(&self) -> Result<(), Error> {
        let connection = self.connection().await?;
        self.idle().push((Instant::now(), connection));
        Ok(())
    }

    /// One call; the caller bounds its time. `waits_for` names what it waits for before anything is sent. Dropping the future
    /// closes the connection of the call.
    pub(crate) async fn call(
        &self,
        cx: &CallContext,
        deadline: Duration,
        (instance, func): (&str, &str),
        params: &Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let limit = self.limits.max_body_bytes;
        if params.len() > limit {
            return Err(too_large(Body::Parameters, params.len(), limit));
        }
        let until = Instant::now() + deadline;
        let path = path_of(instance, func);
        let uri: Uri = path
            .parse()
            .map_err(|error: http::uri::InvalidUri| Error::Encode(error.into()))?;
        if let Some(pause) = self.pause(&path) {
            if pause >= until {
                return Err(Error::Busy(Resource::Target));
            }
            *waits_for = Some(Resource::Target);
            sleep_until(pause).await;
        }
        *waits_for = Some(Resource::Calls);
        let _permit = self.calls.acquire().await.map_err(|_| Error::Closed)?;
        for _ in 0..MOVES {
            *waits_for = Some(Resource::Connection);
            let waiting = self.waiting();
            let mut connection = match waiting {
                Some(connection) => connection,
                None => match self.connection().await {
                    Err(Error::Leaving) => continue,
                    connection => connection?,
                },
            };
            *waits_for = None;
            let mut request = self.request(&connection, Method::POST, uri.clone(), params.clone());
            describe(
                request.headers_mut(),
                cx,
                until.saturating_duration_since(Instant::now()),
            )?;
            let response = match connection.send(request).await {
                Ok(response) => response,
                // It was closed while it waited.
                Err(Unanswered::NotSent(_)) => continue,
                Err(Unanswered::Lost(error)) => {
                    tracing::debug!(%error, "a connection is lost");
                    return Err(Error::Lost);
                }
            };
            let (status, headers, body) = self.read(response).await?;
            self.keep(connection, &headers);
            if status == StatusCode::OK {
                return Ok(body);
            }
            match self.error_of(status, &headers, &body, params.len()) {
                // It was not taken: there may be a successor.
                Error::Leaving => self.idle().clear(),
                error => {
                    self.note_pause(path, &headers);
                    return Err(error);
                }
            }
        }
        Err(Error::Leaving)
    }

    fn request(&self, connection: &Connection, method: Method, uri: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if let Some(token) = &connection.token {
            headers.insert(AUTHORIZATION, token.clone());
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        request
    }

    /// A connection that waits for its next call.
    fn waiting(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some((since, connection)) = idle.pop() {
            if since.elapsed() < IDLE && !connection.sender.is_closed() {
                return Some(connection);
            }
        }
        None
    }

    /// A new connection to a server that answers, and takes this caller: whatever goes wrong before that, no call was taken.
    async fn connection(&self) -> Result<Connection, Error> {
        let greeted = async {
            let mut connection = self.dial().await?;
            let ping = self.request(&connection, Method::OPTIONS, Uri::from_static("*"), Bytes::new());
            let response = match connection.send(ping).await {
                Ok(response) => response,
                // It had ended before, and knows why.
                Err(Unanswered::NotSent(error)) => {
                    let why = connection.ended().await.unwrap_or(error);
                    return Err(self.dialer.refusal(why.into()));
                }
                Err(Unanswered::Lost(error)) => return Err(self.dialer.refusal(error.into())),
            };
            let (status, headers, body) = self.read(response).await?;
            match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::SERVICE_UNAVAILABLE => {
                    Err(self.error_of(status, &headers, &body, 0))
                }
                // What is between here and there may know no such request.
                _ => Ok(connection),
            }
        };
        let greeted = timeout(self.connect_deadline, greeted).await;
        greeted.unwrap_or_else(|_| Err(self.dialer.unreachable("no answer in time")))
    }

    async fn dial(&self) -> Result<Connection, Error> {
        let token = self.token.as_ref().map(authorization).transpose()?;
        let ByteStream {
            reader,
            writer,
            connection,
            ..
        } = self.dialer.dial().await?;
        let io = TokioIo::new(join(reader, writer));
        let handshake = Builder::new().max_buf_size(MAX_BUFFER_BYTES).handshake(io);
        let (sender, driver) = handshake.await.map_err(|error| self.dialer.refusal(error.into()))?;
        let driver = tokio::spawn(driver);
        Ok(Connection {
            sender,
            token,
            driver: AbortOnDropHandle::new(driver),
            _connection: connection,
        })
    }

    /// All of a response.
    async fn read(&self, response: Response<Incoming>) -> Result<(StatusCode, HeaderMap, Bytes), Error> {
        let (parts, mut body) = response.into_parts();
        let limit = match parts.status {
            StatusCode::OK => self.limits.max_body_bytes,
            _ => MAX_PROBLEM_BYTES,
        };
        let mut permits = crate::budget::Permits::default();
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Error::Lost)?.into_data() else {
                continue;
            };
            let bytes = first.len() + all.len() + data.len();
            if bytes > limit {
                return Err(too_large(Body::Result, bytes, limit));
            }
            permits.merge(self.budget.try_take(data.len()).ok_or(Error::NoMemory)?);
            // Nearly always one chunk, which is not copied.
            if first.is_empty() && all.is_empty() {
                first = data;
            } else {
                all.extend_from_slice(&std::mem::take(&mut first));
                all.extend_from_slice(&data);
            }
        }
        let body = if all.is_empty() { first } else { all.freeze() };
        Ok((parts.status, parts.headers, body))
    }

    /// Keeps a connection for the next call, unless its server closes it.
    fn keep(&self, connection: Connection, headers: &HeaderMap) {
        let closes = text(headers, &CONNECTION).is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let mut idle = self.idle();
        if !closes && idle.len() < MAX_IDLE {
            idle.push((Instant::now(), connection));
        }
    }

    /// What a response that is no result says of its call.
    fn error_of(&self, status: StatusCode, headers: &HeaderMap, body: &[u8], params: usize) -> Error {
        let is_problem =
            text(headers, &CONTENT_TYPE).is_some_and(|value| value.starts_with("application/problem+json"));
        let written = is_problem.then(|| serde_json::from_slice::<Written>(body).ok());
        let Written {
            detail,
            code,
            outcome,
            limit,
            ..
        } = written.flatten().unwrap_or_default();
        let detail = match detail.is_empty() {
            true => format!("it answers with HTTP status {status}"),
            false => one_line(String::new(), &detail),
        };
        match (status, code.as_str()) {
            (_, "server-leaving") => Error::Leaving,
            (_, "nobody-serves") => Error::NoResponders,
            (_, "call-failed") => Error::Remote(detail),
            (StatusCode::SERVICE_UNAVAILABLE, _) if outcome == "unknown" => Error::NoMemory,
            (StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS, _) => Error::Busy(Resource::Target),
            (StatusCode::PAYLOAD_TOO_LARGE, _) => {
                too_large(Body::Parameters, params, limit.unwrap_or(params.saturating_sub(1)))
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => Error::Refused {
                endpoint: self.endpoint.clone(),
                reason: detail,
            },
            // Of what is between here and there, it is not known what it did.
            (status, "") if status.is_server_error() => Error::Lost,
            _ => Error::Remote(detail),
        }
    }

    fn pause(&self, path: &str) -> Option<Instant> {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        pauses.retain(|_, until| *until > now);
        pauses.get(path).copied()
    }

    /// Calls a path no more until its server takes calls again.
    fn note_pause(&self, path: String, headers: &HeaderMap) {
        let seconds = text(headers, &RETRY_AFTER).and_then(|value| value.parse().ok());
        if let Some(pause) = seconds.map(Duration::from_secs) {
            let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
            pauses.insert(path, Instant::now() + pause.min(LONGEST_RETRY_AFTER));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Why it ended, which it has or is about to.
    async fn ended(self) -> Option<hyper::Error> {
        self.driver.await.ok()?.err()
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Unanswered> {
        self.sender.ready().await.map_err(Unanswered::NotSent)?;
        self.sender
            .try_send_request(request)
            .await
            .map_err(|mut error| match error.take_message() {
                Some(_) => Unanswered::NotSent(error.into_error()),
                None => Unanswered::Lost(error.into_error()),
            })
    }
}

/// Adds to a request what goes with its call.
fn describe(headers: &mut HeaderMap, cx: &CallContext, deadline: Duration) -> Result<(), Error> {
    let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX).max(1);
    headers.insert(DEADLINE_MS, deadline_ms.into());
    let texts: [(HeaderName, &Option<String>); 3] = [
        (LINK, &cx.link),
        (TRACEPARENT, &cx.traceparent),
        (TRACESTATE, &cx.tracestate),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            headers.insert(
                name,
                HeaderValue::try_from(text).map_err(|error| Error::Encode(error.into()))?,
            );
        }
    }
    Ok(())
}

/// The header of a token, which is read again for each connection.
fn authorization(token: &SecretFrom) -> Result<HeaderValue, Error> {
    let unusable = |why: String| Error::Tls {
        what: match token {
            SecretFrom::Value(_) => "the token".to_owned(),
            SecretFrom::File(file) => format!("the token in {}", file.display()),
        },
        source: why.into(),
    };
    let text = token.read().map_err(unusable)?;
    let legal = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    // The error would repeat what it could not take.
    let value = HeaderValue::try_from(format!("Bearer {text}")).ok().filter(|_| legal);
    let mut value = value.ok_or_else(|| unusable("it is not one word of printable ASCII".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
