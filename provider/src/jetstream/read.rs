//! A message on one of the bus's subjects, read as the event that it holds. Fanout writes attributes in headers; another
//! client of those subjects may write the whole event as JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use async_nats::{HeaderMap, HeaderName};
use bytes::Bytes;
use fanout_plan::structured::{self, Mode};
use fanout_plan::{Attributes, Code, Problem, SubjectTemplate, TenantId, envelope};

/// Says which mode a message is in.
const CONTENT_TYPE: &str = "content-type";

/// The event of a message. One in structured mode becomes what Fanout itself would have written, headers and payload, so
/// that nothing behind this knows of it.
///
/// # Errors
/// For what some other NATS client wrote there and is not an event of this subject. Then the message stays as it is.
pub(crate) fn event(
    template: &SubjectTemplate,
    subject: &str,
    headers: &mut Option<HeaderMap>,
    payload: &mut Bytes,
) -> Result<Attributes, Problem> {
    let (tenant, event_type) = template.parse_subject(subject).ok_or_else(|| {
        Problem::new(
            Code::InvalidAttribute,
            format!(
                "subject {subject:?} is no event's: a tenant and the segments of a type are written with letters, digits, `_` and `-`, and each other byte as `%` and two digits"
            ),
        )
    })?;
    let (tenant, event_type) = (tenant.as_str(), event_type.as_str());
    let pairs = pairs(headers.as_ref());
    let content_type = pairs
        .iter()
        .find(|(name, _)| name == CONTENT_TYPE)
        .map(|(_, value)| *value);
    let has_attributes = pairs.iter().any(|(name, _)| name.starts_with(envelope::PREFIX));
    match Mode::of(content_type, has_attributes)? {
        Mode::Binary => {
            let pairs = pairs.iter().map(|(name, value)| (&**name, *value));
            envelope::from_headers(tenant, Some(event_type), pairs)
        }
        Mode::Structured => {
            let (attributes, data) =
                structured::read(tenant, event_type, payload).map_err(|problem| match content_type {
                    Some(_) => problem,
                    None => Problem {
                        message: format!("it has no `ce-` headers, and {}", problem.message),
                        ..problem
                    },
                })?;
            *headers = Some(binary(headers.as_ref(), &attributes));
            *payload = data.into();
            Ok(attributes)
        }
    }
}

/// The event of headers that Fanout wrote, whose type is among them.
///
/// # Errors
/// The first attribute that is missing or not legal.
pub(crate) fn from_headers(tenant: &TenantId, headers: &HeaderMap) -> Result<Attributes, Problem> {
    let pairs = pairs(Some(headers));
    envelope::from_headers(
        tenant.as_str(),
        None,
        pairs.iter().map(|(name, value)| (&**name, *value)),
    )
}

/// The attributes in headers for a person, as they were before they were written, under their `ce-` names.
pub(super) fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    pairs(Some(headers))
        .into_iter()
        .filter(|(name, _)| name.starts_with(envelope::PREFIX))
        .map(|(name, value)| (name.into_owned(), envelope::shown_value(value)))
        .collect()
}

/// Writes an event's attributes into headers.
pub(super) fn write(attributes: &Attributes, headers: &mut HeaderMap) -> usize {
    let mut size = 0;
    for (name, value) in envelope::to_headers(attributes) {
        size += name.len() + value.len();
        match name {
            // Known names are not copied, nor checked once more.
            Cow::Borrowed(name) => headers.insert(HeaderName::from_static(name), value),
            Cow::Owned(name) => headers.insert(name, value),
        }
    }
    size
}

/// The headers of a message in binary mode that holds what one in structured mode held.
fn binary(structured: Option<&HeaderMap>, attributes: &Attributes) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in structured.iter().flat_map(|h| h.iter()) {
        let lower = lowercase(name.as_ref());
        if lower != CONTENT_TYPE && !lower.starts_with(envelope::PREFIX) {
            for value in values {
                headers.append(name.clone(), value.clone());
            }
        }
    }
    write(attributes, &mut headers);
    headers
}

/// Each value of each header, under its name in lower case: NATS tells `ce-id` and `CE-Id` apart, and CloudEvents does not.
fn pairs(headers: Option<&HeaderMap>) -> Vec<(Cow<'_, str>, &str)> {
    let headers = headers.iter().flat_map(|h| h.iter());
    headers
        .flat_map(|(name, values)| values.iter().map(|value| (lowercase(name.as_ref()), value.as_str())))
        .collect()
}

/// As the bus itself writes it, a name is lowercase already.
fn lowercase(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: &str = "payments.acme.webhook.invoice.paid";

    fn read(headers: &[(&str, &str)], payload: &str) -> (Result<Attributes, Problem>, Option<HeaderMap>, Bytes) {
        let template = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        let (mut headers, mut payload) = (Some(map), Bytes::from(payload.to_owned()));
        let attributes = event(&template, SUBJECT, &mut headers, &mut payload);
        (attributes, headers, payload)
    }

    #[test]
    fn a_structured_event_becomes_a_binary_one() {
        let json = r#"{"specversion":"1.0","id":"1","source":"/s","type":"invoice.paid","data":{"a":1}}"#;
        for content_type in [Some("application/cloudevents+json; charset=UTF-8"), None] {
            let mut headers = vec![("traceparent", "t"), ("Nats-Msg-Id", "m")];
            headers.extend(content_type.map(|c| ("Content-Type", c)));
            let (attributes, headers, payload) = read(&headers, json);
            let attributes = attributes.unwrap();
            assert_eq!((attributes.id(), &payload[..]), ("1", &br#"{"a":1}"#[..]));
            let headers = headers.unwrap();
            let value = |name: &str| headers.get(name).map(|v| v.as_str());
            assert_eq!(
                (value("ce-id"), value("ce-datacontenttype")),
                (Some("1"), Some("application/json"))
            );
            assert_eq!((value("traceparent"), value("Nats-Msg-Id")), (Some("t"), Some("m")));
            assert_eq!(value("Content-Type"), None);
            assert_eq!(from_headers(attributes.tenant(), &headers), Ok(attributes));
        }
    }

    #[test]
    fn an_attribute_that_comes_twice_is_refused_however_it_is_spelled() {
        for more in [("ce-id", "2"), ("CE-Id", "2"), ("Ce-Id", "1")] {
            let headers = [("ce-id", "1"), ("ce-source", "/s"), more];
            let (attributes, kept, _) = read(&headers, "x");
            assert_eq!(attributes.unwrap_err().code, Code::InvalidAttribute, "{more:?}");
            assert!(kept.is_some_and(|h| h.get("ce-id").is_some()), "it stays as it is");
        }
        let (attributes, ..) = read(
            &[("CE-ID", "1"), ("Ce-Source", "/s"), ("content-type", "text/plain")],
            "x",
        );
        assert_eq!(attributes.unwrap().id(), "1");
    }
}
