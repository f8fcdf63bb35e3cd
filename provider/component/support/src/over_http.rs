//! The way to a bus over `wasi:http`: connections, TLS and client certificates are the host's.

use std::time::{Duration, Instant};

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest, RequestOptions, Scheme,
};
use wasip2::io::poll::poll;
use wasip2::io::streams::{InputStream, OutputStream, Pollable, StreamError};

use crate::answer::{Answer, Failure};
use crate::bus::World;
use crate::settings::Settings;

/// As `fanout-transport` bounds it.
const MAX_RESULT_BYTES: usize = 16 << 20;
/// Of an answer that is no result.
const MAX_PROBLEM_BYTES: usize = 64 << 10;
/// Read at a time.
const CHUNK_BYTES: u64 = 64 << 10;

/// A bus over HTTP.
#[derive(Clone, Debug)]
pub struct OverHttp {
    settings: Settings,
    began: Instant,
}

impl OverHttp {
    /// One as the operator said.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            began: Instant::now(),
        }
    }

    fn request(&self, path: &str, bytes: usize, within: Duration) -> Result<OutgoingRequest, Failure> {
        let mut headers = vec![
            ("content-type".to_owned(), b"application/octet-stream".to_vec()),
            // Without it the body is chunked, and the bus closes the connection behind its answer.
            ("content-length".to_owned(), bytes.to_string().into_bytes()),
            (
                "fanout-deadline-ms".to_owned(),
                within.as_millis().to_string().into_bytes(),
            ),
        ];
        if let Some(token) = &self.settings.token {
            headers.push(("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
        }
        let refused = |what: &str| Failure::not_started("peer-refused", format!("the host takes no {what}")).for_good();
        let headers = Fields::from_list(&headers).map_err(|_| refused("headers of this request"))?;
        let scheme = match self.settings.is_tls {
            true => Scheme::Https,
            false => Scheme::Http,
        };
        let request = OutgoingRequest::new(headers);
        request.set_method(&Method::Post).map_err(|()| refused("POST"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| refused("such scheme"))?;
        request
            .set_authority(Some(&self.settings.authority))
            .map_err(|()| refused("such host as FANOUT_URL names"))?;
        request
            .set_path_with_query(Some(path))
            .map_err(|()| refused("such path"))?;
        Ok(request)
    }
}

impl World for OverHttp {
    fn send(&self, interface: &str, function: &str, params: &[u8], within: Duration) -> Result<Vec<u8>, Failure> {
        let time = Time {
            until: Instant::now() + within,
            within,
        };
        let request = self.request(&format!("/{interface}/{function}"), params.len(), within)?;
        let body = request.body().map_err(|()| lost("a request has no body"))?;
        let options = RequestOptions::new();
        let nanoseconds = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        // Hosts that know no timeouts are held to the time by `Time`.
        options.set_connect_timeout(Some(nanoseconds)).unwrap_or_default();
        options.set_first_byte_timeout(Some(nanoseconds)).unwrap_or_default();
        options.set_between_bytes_timeout(Some(nanoseconds)).unwrap_or_default();
        let answer = outgoing_handler::handle(request, Some(options)).map_err(|code| failed(&code))?;
        // Whatever ends the body early ends the answer too, which says why.
        let written = write(&body, params, &time);
        if written.is_ok() {
            OutgoingBody::finish(body, None).map_err(|code| failed(&code))?;
        }
        time.wait(&answer.subscribe())?;
        let response = match answer.get() {
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(code))) => return Err(failed(&code)),
            Some(Err(())) | None => return Err(lost("the host has no answer")),
        };
        read(&response, &time)?.result()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// How long an attempt may still take.
struct Time {
    until: Instant,
    within: Duration,
}

impl Time {
    /// Waits for it, or until the time is up.
    fn wait(&self, ready: &Pollable) -> Result<(), Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        let late = subscribe_duration(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX));
        match poll(&[ready, &late]).contains(&0) {
            true => Ok(()),
            false => Err(Failure::unknown(
                "call-deadline",
                format!("no answer within {} ms", self.within.as_millis()),
            )),
        }
    }
}

fn write(body: &OutgoingBody, bytes: &[u8], time: &Time) -> Result<(), Failure> {
    let stream: OutputStream = body.write().map_err(|()| lost("a request's body can't be written"))?;
    let ready = stream.subscribe();
    let closed = |_: StreamError| lost("the request broke off");
    let mut rest = bytes;
    while !rest.is_empty() {
        time.wait(&ready)?;
        let room = usize::try_from(stream.check_write().map_err(closed)?).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at(room.min(rest.len()));
        stream.write(now).map_err(closed)?;
        rest = later;
    }
    stream.flush().map_err(closed)?;
    time.wait(&ready)?;
    stream.check_write().map_err(closed)?;
    Ok(())
}

fn read(response: &IncomingResponse, time: &Time) -> Result<Answer, Failure> {
    let headers = response.headers();
    let text = |name: &str| {
        let values = headers.get(name);
        let first = values.first().map(|value| String::from_utf8_lossy(value).into_owned());
        first.unwrap_or_default()
    };
    let mut answer = Answer {
        status: response.status(),
        content_type: text("content-type"),
        retry_after: text("retry-after"),
        body: Vec::new(),
    };
    let limit = match answer.status {
        200 => MAX_RESULT_BYTES,
        _ => MAX_PROBLEM_BYTES,
    };
    let body: IncomingBody = response.consume().map_err(|()| lost("an answer has no body"))?;
    let stream: InputStream = body.stream().map_err(|()| lost("an answer's body can't be read"))?;
    let ready = stream.subscribe();
    loop {
        match stream.read(CHUNK_BYTES) {
            Ok(bytes) if bytes.is_empty() => time.wait(&ready)?,
            Ok(bytes) if answer.body.len() + bytes.len() > limit => {
                let message = format!("a result of more than {limit} bytes");
                return Err(Failure::unknown("body-too-large", message).for_good());
            }
            Ok(bytes) => answer.body.extend_from_slice(&bytes),
            Err(StreamError::Closed) => return Ok(answer),
            Err(StreamError::LastOperationFailed(_)) => return Err(lost("the answer broke off")),
        }
    }
}

fn lost(message: &str) -> Failure {
    Failure::unknown("connection-lost", message)
}

/// What the host says of a request that it could not send, or that has no answer.
fn failed(code: &ErrorCode) -> Failure {
    let message = format!("{code:?}");
    match code {
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsCertificateError => Failure::not_started("peer-unreachable", message),
        // The manifest does not let it: allowedHosts.
        ErrorCode::DestinationIpProhibited | ErrorCode::HttpRequestDenied => {
            Failure::not_started("peer-refused", message)
        }
        ErrorCode::HttpRequestUriInvalid | ErrorCode::HttpRequestMethodInvalid | ErrorCode::ConfigurationError => {
            Failure::not_started("peer-refused", message).for_good()
        }
        ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::ConnectionWriteTimeout => {
            Failure::unknown("call-deadline", message)
        }
        // An alert of TLS too: a server may send one when it has read the request.
        _ => Failure::unknown("connection-lost", message),
    }
}
