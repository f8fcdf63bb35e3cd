//! How an event is written on the wire: CloudEvents 1.0 in binary mode, one `ce-` header for each attribute and the
//! payload as it came, so that any NATS client can read it.
//!
//! Header values are percent-encoded as the CloudEvents HTTP binding says (3.1.3.2): NATS header values are ASCII
//! without line ends.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::Problem;
use crate::event::{Attributes, RawEvent};
use crate::timestamp;

/// What is escaped: controls, space, the double quote and the escape character itself; everything beyond ASCII is too.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The prefix of each attribute's header.
const PREFIX: &str = "ce-";

/// The id by which the store recognises a repeat. It is qualified by the tenant because the server compares ids
/// within the whole stream (nats-server 2.15), and two tenants may use the same one.
pub fn message_id(attributes: &Attributes) -> String {
    format!("{}/{}", attributes.tenant, escaped(attributes.id()))
}

/// The headers of an event.
pub fn to_headers(attributes: &Attributes) -> Vec<(Cow<'static, str>, String)> {
    let raw = attributes.raw();
    let mut headers: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(10 + raw.extensions.len());
    headers.extend([
        ("ce-specversion".into(), "1.0".to_owned()),
        ("ce-id".into(), escaped(&raw.id)),
        ("ce-source".into(), escaped(&raw.source)),
        ("ce-type".into(), raw.event_type.clone()),
        ("ce-tenant".into(), raw.tenant.clone()),
    ]);
    let mut optional = |name: &'static str, value: Option<String>| {
        headers.extend(value.map(|value| (name.into(), value)));
    };
    optional("ce-subject", raw.subject.as_deref().map(escaped));
    optional("ce-time", raw.time.map(timestamp::to_rfc3339));
    optional("ce-datacontenttype", raw.data_content_type.as_deref().map(escaped));
    optional("ce-dataschema", raw.data_schema.as_deref().map(escaped));
    optional("ce-partitionkey", raw.ordering_key.as_deref().map(escaped));
    for (name, value) in &raw.extensions {
        headers.push((format!("{PREFIX}{name}").into(), escaped(value)));
    }
    headers
}

/// The event whose headers these are; headers of others are passed over. `tenant` and `event_type` come from the
/// subject, which alone is what authorises a reader.
///
/// # Errors
/// The first attribute that is missing or not legal.
pub fn from_headers<'a>(
    tenant: &str,
    event_type: &str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Attributes, Problem> {
    let mut raw = RawEvent {
        tenant: tenant.to_owned(),
        event_type: event_type.to_owned(),
        ..RawEvent::default()
    };
    for (name, value) in headers {
        let Some(name) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        match name {
            "specversion" | "type" | "tenant" => {}
            "id" => raw.id = value,
            "source" => raw.source = value,
            "subject" => raw.subject = Some(value),
            "time" => raw.time = timestamp::from_rfc3339(&value),
            "datacontenttype" => raw.data_content_type = Some(value),
            "dataschema" => raw.data_schema = Some(value),
            "partitionkey" => raw.ordering_key = Some(value),
            extension => raw.extensions.push((extension.to_owned(), value)),
        }
    }
    Attributes::try_from(raw)
}

fn escaped(value: &str) -> String {
    utf8_percent_encode(value, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = String> {
        "\\PC{1,40}"
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            id in text(), source in text(), subject in proptest::option::of(text()),
            time in proptest::option::of(0i64..4_102_444_800_000_000_000),
            key in proptest::option::of(text()), value in text(),
        ) {
            let raw = RawEvent {
                tenant: "acme".into(), event_type: "invoice.paid".into(), id, source, subject, time,
                data_content_type: Some("application/json; charset=utf-8".into()),
                data_schema: None, extensions: vec![("region".into(), value)], ordering_key: key,
            };
            let attributes = Attributes::try_from(raw).unwrap();
            let headers = to_headers(&attributes);
            for (name, value) in &headers {
                prop_assert!(value.bytes().all(|b| (0x21..0x7f).contains(&b)), "{name}: {value}");
            }
            let back = from_headers("acme", "invoice.paid", headers.iter().map(|(n, v)| (&**n, v.as_str()))).unwrap();
            prop_assert_eq!(back, attributes);
        }

        #[test]
        fn ids_of_two_tenants_never_meet(a in text(), b in text()) {
            let event = |tenant: &str, id: &str| Attributes::try_from(RawEvent {
                tenant: tenant.into(), event_type: "t".into(), id: id.into(), source: "s".into(), ..RawEvent::default()
            }).unwrap();
            prop_assert_ne!(message_id(&event("acme", &a)), message_id(&event("acme-b", &b)));
            prop_assert_eq!(message_id(&event("acme", &a)) == message_id(&event("acme", &b)), a == b);
        }
    }
}
