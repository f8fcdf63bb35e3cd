//! One event as an HTTP request: CloudEvents in binary mode, its payload as the body, signed if that is asked for.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fanout_client::Event;
use fanout_plan::{Attributes, RawEvent, envelope};
use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use webhook_signature::{Scheme, SigningKey, Unsigned, sign};

use super::args;
use crate::webhook::args::pairs;
use crate::webhook::client::{client, client_without_tls, is_this_machine, unreached};
use crate::webhook::now;
use crate::webhook::sign::Signer;

/// The most bytes of an answer that are read; its status counts, and the rest is for people.
const MAX_ANSWER: usize = 16 << 10;

/// Posts events to one URL.
#[derive(Debug)]
pub(super) struct Forwarder {
    client: Client,
    url: Url,
    /// The URL for messages and reasons: without a user and a query, which may hold secrets.
    shown: String,
    timeout: Duration,
    key: Option<SigningKey>,
}

/// What came of one post.
#[derive(Debug)]
pub(super) struct Answer {
    /// Absent when nobody answered, or the event could not be sent.
    pub(super) status: Option<StatusCode>,
    /// The beginning of what was answered, or why nobody did.
    pub(super) text: String,
    /// How long the program asks to be left alone (`Retry-After`, RFC 9110, 10.2.3).
    pub(super) retry_after: Option<Duration>,
    pub(super) milliseconds: u64,
}

impl Answer {
    pub(super) fn is_accepted(&self) -> bool {
        self.status.is_some_and(|status| status.is_success())
    }
}

impl Forwarder {
    /// # Errors
    /// When the URL is of another machine and that is not allowed, or the secret or the authorities can't be used.
    pub(super) fn new(args: &args::Forward) -> Result<Self> {
        let mut shown = args.url.clone();
        shown.set_query(None);
        // Refused only for URLs without a host, which http never is.
        let without_user = shown.set_username("").and_then(|()| shown.set_password(None));
        if without_user.is_err() {
            bail!("--forward names no host");
        }
        if !args.anywhere && !is_this_machine(&args.url) {
            bail!("--forward {shown} is not on this machine: what belongs to tenants leaves it only with --anywhere");
        }
        let key = match (args.sign, &args.secret_file) {
            (Some(scheme), Some(secret_file)) => {
                let signer = Signer {
                    scheme,
                    secret_file,
                    allow_short_secret: args.allow_short_secret,
                    parameters: pairs(&args.parameters),
                };
                Some(signer.key()?)
            }
            _ => None,
        };
        let client = match args.url.scheme() {
            "https" => client("--forward-tls-ca", args.forward_tls_ca.as_deref())?,
            _ if args.forward_tls_ca.is_some() => bail!("--forward-tls-ca is for an https URL: leave it out"),
            _ => client_without_tls()?,
        };
        Ok(Self {
            client,
            url: args.url.clone(),
            shown: shown.into(),
            timeout: Duration::from_secs(args.forward_timeout),
            key,
        })
    }

    /// Whether an event can be posted at all.
    ///
    /// # Errors
    /// Why not: an attribute is not legal, or the scheme can't sign this body.
    pub(super) fn check(&self, event: &Event) -> Result<()> {
        let request = self.request(event)?.build();
        request.map(drop).context("it can't be sent as HTTP")
    }

    /// Posts an event, and says what came of it, however it went.
    pub(super) async fn post(&self, event: &Event) -> Answer {
        let began = Instant::now();
        let mut retry_after = None;
        let (status, text) = match self.request(event) {
            Ok(request) => match request.send().await {
                Ok(response) => {
                    retry_after = retry_after_of(response.headers(), Timestamp::now());
                    (Some(response.status()), beginning(response).await)
                }
                Err(error) => (None, unreached(&self.shown, &error, self.timeout)),
            },
            Err(error) => (None, format!("it can't be sent: {error:#}")),
        };
        Answer {
            status,
            text,
            retry_after,
            milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Why the bus is asked for a retry; the bus keeps it with the attempt.
    pub(super) fn reason(&self, answer: &Answer) -> String {
        match answer.status {
            Some(status) if answer.text.is_empty() => format!("{} answered {status}", self.shown),
            Some(status) => format!("{} answered {status}: {}", self.shown, answer.text),
            None => answer.text.clone(),
        }
    }

    fn request(&self, event: &Event) -> Result<RequestBuilder> {
        let attributes = attributes(event)?;
        let request = self.client.post(self.url.clone()).timeout(self.timeout);
        let mut request = request.header("user-agent", concat!("fanout/", env!("CARGO_PKG_VERSION")));
        let mut id = String::new();
        for (name, value) in envelope::to_headers(&attributes) {
            match &*name {
                // Over HTTP the media type is the body's own header (CloudEvents' HTTP binding, 3.1.1).
                "ce-datacontenttype" => continue,
                "ce-id" => id.clone_from(&value),
                _ => {}
            }
            request = request.header(&*name, value);
        }
        if let Some(traceparent) = &event.traceparent {
            request = request.header("traceparent", traceparent);
        }
        let mut content_type = event.data_content_type.as_deref();
        let mut body = event.data.clone();
        if let Some(key) = &self.key {
            let webhook = Unsigned {
                // As `ce-id` has it: some schemes send the id that they sign as a header.
                id: &id,
                timestamp: now(),
                body: &event.data,
                url: Some(self.url.as_str()),
            };
            let signed = sign(key, &webhook).with_context(|| format!("it can't be signed by {}", key.scheme()))?;
            for (name, value) in signed.headers {
                request = request.header(name, value);
            }
            body = signed.body.into_owned().into();
            if key.scheme() == Scheme::Braintree {
                // The payload is a field of the form that is sent.
                content_type = Some("application/x-www-form-urlencoded");
            }
        }
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        Ok(request.body(body))
    }
}

/// The attributes of an event, all legal.
///
/// # Errors
/// The first one that is not.
pub(super) fn attributes(event: &Event) -> Result<Attributes> {
    let raw = RawEvent {
        tenant: event.tenant.clone(),
        event_type: event.event_type.clone(),
        id: event.id.clone(),
        source: event.source.clone(),
        subject: event.subject.clone(),
        time: event.time.map(fanout_plan::Timestamp::from_nanoseconds),
        data_content_type: event.data_content_type.clone(),
        data_schema: event.data_schema.clone(),
        extensions: event.extensions.clone(),
        ordering_key: event.ordering_key.clone(),
    };
    Attributes::try_from(raw).map_err(|problem| anyhow::anyhow!("{problem}"))
}

/// The wait that an answer asks for, in seconds or until a date; absent where it asks for none, or for none that is left.
fn retry_after_of(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
            Duration::try_from(until.duration_since(now)).ok()?
        }
    };
    (!wait.is_zero()).then_some(wait)
}

/// The beginning of an answer's body. The status is there and counts: a body that breaks off changes nothing.
async fn beginning(mut response: Response) -> String {
    let mut answer = Vec::new();
    while answer.len() < MAX_ANSWER {
        match response.chunk().await {
            Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    answer.truncate(MAX_ANSWER);
    String::from_utf8_lossy(&answer).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_given_in_seconds_or_until_a_date() {
        let now = "1994-11-06T08:49:30Z".parse().expect("a time");
        for (value, wait) in [
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 06 Nov 1994 08:49:29 GMT", None),
            ("0", None),
            ("-1", None),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("a header"))]);
            assert_eq!(retry_after_of(&headers, now), wait.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after_of(&HeaderMap::new(), now), None);
    }
}
