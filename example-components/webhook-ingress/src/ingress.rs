//! From a request to an answer.

use std::io::Read;

use component_support::{
    answer::{self, Answer},
    body, path,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use serde::Serialize;
use webhook_signature::Scheme;
use webhook_source::{Event, Secrets, Source, Webhook, setting::Settings};

use crate::{
    publish::{PublishError, Receipt},
    refusal::Refusal,
};

/// What the component needs of its host.
pub trait Host: Secrets {
    /// The component's configuration.
    fn settings(&self) -> Result<Settings, String>;

    /// The time in seconds since 1970.
    fn now(&self) -> i64;

    /// Publishes events, one or more, together or not at all: a receipt for each, in order.
    fn publish(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError>;
}

/// What became of a request that was not refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A webhook whose events are stored, every one.
    Stored {
        /// Its source's scheme.
        scheme: Scheme,
        /// A receipt for each event, in order; none if the webhook held no events.
        receipts: Vec<Receipt>,
        /// The source whose secret stands in the configuration, if it does.
        exposed: Option<String>,
    },
    /// A vendor's question whether this is the right address, and its answer.
    Challenge(String),
}

impl Accepted {
    /// The answer that the sender needs.
    pub fn answer(&self) -> Answer {
        /// Many receipts as they are answered.
        #[derive(Serialize)]
        struct Receipts<'a> {
            receipts: &'a [Receipt],
        }
        match self {
            Self::Challenge(response) => answer::text(StatusCode::OK, response),
            // The text by which Adyen's standard webhooks are acknowledged.
            Self::Stored {
                scheme: Scheme::Adyen, ..
            } => answer::text(StatusCode::OK, "[accepted]"),
            Self::Stored { receipts, .. } => match receipts.as_slice() {
                [receipt] => answer::json(StatusCode::OK, receipt),
                receipts => answer::json(StatusCode::OK, &Receipts { receipts }),
            },
        }
    }
}

/// Takes a request in. Every receipt means that its event is stored.
pub fn receive<B: Read>(host: &impl Host, request: Request<B>) -> Result<Accepted, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let no_such_path = || Refusal::NoSuchPath { path: path.to_owned() };

    let segments = path::segments(path).ok_or_else(no_such_path)?;
    let segments: Vec<_> = segments.iter().map(String::as_str).collect();
    let (name, path_tenant) = match segments.as_slice() {
        ["webhooks", name] => (*name, None),
        ["webhooks", name, tenant] => (*name, Some(*tenant)),
        _ => return Err(no_such_path()),
    };
    if head.method != Method::POST && head.method != Method::GET {
        return Err(Refusal::MethodNotAllowed { method: head.method });
    }
    let source = find_source(host, name)?;
    let (too_many, too_few) = match path_tenant {
        Some(_) => (!source.tenant.has_path(), false),
        None => (false, source.tenant.needs_path()),
    };
    if too_many || too_few {
        return Err(no_such_path());
    }
    if head.method == Method::GET {
        return challenge(&source, head.uri.query()).ok_or(Refusal::MethodNotAllowed { method: head.method });
    }

    let body = read_body(&source, &head.headers, body)?;
    let webhook = Webhook {
        path_tenant,
        headers: &head.headers,
        body: &body,
    };
    let events = source.events(webhook, host.now())?;
    Ok(Accepted::Stored {
        scheme: source.scheme(),
        receipts: publish(host, events)?,
        exposed: source.secret_in_config.then_some(source.name),
    })
}

fn find_source(host: &impl Host, name: &str) -> Result<Source, Refusal> {
    let settings = host
        .settings()
        .map_err(|reason| Refusal::SettingsUnavailable { reason })?;
    let source = Source::find(&settings, name, host).map_err(Refusal::InvalidSettings)?;
    source.ok_or_else(|| Refusal::UnknownSource { name: name.to_owned() })
}

/// Braintree asks, when a webhook is set up, for the signature of a challenge in the query.
fn challenge(source: &Source, query: Option<&str>) -> Option<Accepted> {
    if source.scheme() != Scheme::Braintree {
        return None;
    }
    let query = form_urlencoded::parse(query?.as_bytes());
    let mut challenges = query.filter(|(name, _)| name == "bt_challenge").map(|(_, value)| value);
    let (challenge, None) = (challenges.next()?, challenges.next()) else {
        return None;
    };
    webhook_signature::braintree::answer_challenge(&source.keys, &challenge).map(Accepted::Challenge)
}

fn read_body(source: &Source, headers: &HeaderMap, body: impl Read) -> Result<Vec<u8>, Refusal> {
    let limit = source.max_body;
    let declared = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limit)) {
        return Err(Refusal::TooLarge { limit });
    }
    Ok(body::read(body, limit)?)
}

/// All of a webhook's events, or none. What a failure of the store leaves half done is a duplicate when the sender
/// repeats it.
fn publish(host: &impl Host, events: Vec<Event>) -> Result<Vec<Receipt>, Refusal> {
    if events.is_empty() {
        return Ok(Vec::new());
    }
    host.publish(events).map_err(Refusal::Publish)
}

/// Answers what was asked for, and says what the log should hold.
pub fn answer<B: Read>(host: &impl Host, request: Request<B>) -> (Response<Vec<u8>>, Option<Note>) {
    let at = request.uri().path().to_owned();
    let now = host.now();
    match receive(host, request) {
        Ok(accepted) => {
            let note = match &accepted {
                // A component has no memory in which to note that it has said so: it says so in one second of a minute.
                Accepted::Stored {
                    exposed: Some(source), ..
                } if now.rem_euclid(60) == 0 => Some(Note {
                    level: Level::Warning,
                    text: format!(
                        "the secret of source {source} is in the configuration, where whoever can read the lattice's \
                         configuration reads it: use source.{source}.secret-name and a secret of the manifest"
                    ),
                }),
                _ => None,
            };
            (accepted.answer(), note)
        }
        Err(refusal) => {
            let answer = refusal.answer();
            let level = match (refusal.concerns_operator(), refusal.is_of_a_stranger()) {
                // Without a memory, strangers can't be counted. What they cause is written in one second of ten, so that an
                // operator sees what goes on, and no one fills the log.
                (_, true) if now.rem_euclid(10) != 0 => Level::Debug,
                (true, _) => Level::Error,
                (false, _) => Level::Info,
            };
            let text = format!("{} at {}: {}", answer.status(), shown(&at), shown(&refusal.to_string()));
            (answer, Some(Note { level, text }))
        }
    }
}

/// Escaped, so that a sender can't write lines of its own into the log, and cut, so that it can't write long ones.
fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 500;
    let cut: String = text.chars().take(MAX_CHARS).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}

/// What the log should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How serious it is.
    pub level: Level,
    /// What it says.
    pub text: String,
}

/// How serious a note is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What anybody can cause.
    Debug,
    /// The sender's concern.
    Info,
    /// The operator should change something.
    Warning,
    /// The operator has to act.
    Error,
}

#[cfg(test)]
mod tests;
