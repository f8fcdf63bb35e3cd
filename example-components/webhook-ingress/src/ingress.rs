//! From a request to an answer.

use std::io::Read;

use component_support::{
    answer::{self, Answer},
    body, path,
};
use http::{HeaderMap, Method, Request, StatusCode, header::CONTENT_LENGTH};

use crate::{
    event::{Event, Webhook},
    place::Place,
    publish::{PublishError, Receipt},
    refusal::Refusal,
    setting::Settings,
    source::Source,
};

/// What the component needs of its host.
pub trait Host {
    /// The component's configuration.
    fn settings(&self) -> Result<Settings, String>;

    /// The time in seconds since 1970.
    fn now(&self) -> i64;

    /// Publishes an event.
    fn publish(&self, event: Event) -> Result<Receipt, PublishError>;
}

/// The answer to a webhook that was accepted.
pub fn answer(receipt: &Receipt) -> Answer {
    answer::json(StatusCode::OK, receipt)
}

/// Takes a webhook in. A receipt means that its event is stored.
pub fn receive<B: Read>(host: &impl Host, request: Request<B>) -> Result<Receipt, Refusal> {
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
    if head.method != Method::POST {
        return Err(Refusal::MethodNotAllowed { method: head.method });
    }
    let source = find_source(host, name)?;
    let names_tenant = source.tenant == Place::Path;
    if names_tenant != path_tenant.is_some() {
        return Err(no_such_path());
    }

    let body = read_body(&source, &head.headers, body)?;
    verify(&source, &head.headers, &body, host.now())?;
    // Only from here on is the body read as anything but bytes.
    let event = Webhook::new(&source, path_tenant, &head.headers, body).into_event()?;
    host.publish(event).map_err(Refusal::Publish)
}

fn find_source(host: &impl Host, name: &str) -> Result<Source, Refusal> {
    let settings = host
        .settings()
        .map_err(|reason| Refusal::SettingsUnavailable { reason })?;
    let source = Source::find(&settings, name).map_err(Refusal::InvalidSettings)?;
    source.ok_or_else(|| Refusal::UnknownSource { name: name.to_owned() })
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

fn verify(source: &Source, headers: &HeaderMap, body: &[u8], now: i64) -> Result<(), Refusal> {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let request = webhook_signature::Request::new(&headers, body);
    let verified = webhook_signature::verify(&source.keys, &request, now, source.tolerance);
    verified.map(drop).map_err(Refusal::Signature)
}

#[cfg(test)]
mod tests;
