//! A verified webhook as an event.

use std::cell::OnceCell;

use http::HeaderMap;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use webhook_signature::Scheme;

use crate::{place::Place, refusal::Refusal, source::Source};

/// An event to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whose it is.
    pub tenant: String,
    /// What kind it is.
    pub event_type: String,
    /// Its id, by which the bus recognises a webhook that comes again.
    pub id: String,
    /// Where it came from.
    pub source: String,
    /// When it happened, as the sender says: nanoseconds since 1970.
    pub time: Option<i64>,
    /// What the payload is.
    pub data_content_type: Option<&'static str>,
    /// The raw body.
    pub data: Vec<u8>,
}

/// A webhook whose signature was verified.
pub struct Webhook<'a> {
    source: &'a Source,
    path_tenant: Option<&'a str>,
    headers: &'a HeaderMap,
    body: Vec<u8>,
    json: OnceCell<Result<Value, String>>,
}

impl<'a> Webhook<'a> {
    /// A webhook of a source; `path_tenant` is the tenant that its path names.
    pub fn new(source: &'a Source, path_tenant: Option<&'a str>, headers: &'a HeaderMap, body: Vec<u8>) -> Self {
        Self {
            source,
            path_tenant,
            headers,
            body,
            json: OnceCell::new(),
        }
    }

    /// Makes the event of it.
    pub fn into_event(self) -> Result<Event, Refusal> {
        let tenant = self.find("tenant", &self.source.tenant)?;
        if !self.source.allows(&tenant) {
            return Err(Refusal::TenantNotAllowed {
                name: self.source.name.clone(),
                tenant,
            });
        }
        Ok(Event {
            tenant,
            event_type: self.find("event-type", &self.source.event_type)?,
            id: self.find("event-id", &self.source.event_id)?,
            source: format!("/webhooks/{}", self.source.name),
            time: self.time(),
            data_content_type: self.content_type(),
            data: self.body,
        })
    }

    fn find(&self, what: &'static str, place: &Place) -> Result<String, Refusal> {
        let found = match place {
            Place::Path => self.path_tenant.map(str::to_owned),
            Place::Constant(value) => Some(value.clone()),
            Place::Header(name) => {
                let mut values = self.headers.get_all(name).iter();
                // Of two, which would be the right one?
                match (values.next(), values.next()) {
                    (Some(value), None) => value.to_str().ok().map(str::to_owned),
                    _ => None,
                }
            }
            Place::Pointer(pointer) => {
                let json = self
                    .json()
                    .as_ref()
                    .map_err(|error| Refusal::NotJson { error: error.clone() })?;
                match json.pointer(pointer) {
                    Some(Value::String(text)) => Some(text.clone()),
                    Some(Value::Number(number)) if !number.is_f64() => Some(number.to_string()),
                    _ => None,
                }
            }
        };
        found.filter(|text| !text.is_empty()).ok_or_else(|| Refusal::NotFound {
            what,
            place: place.clone(),
        })
    }

    fn json(&self) -> &Result<Value, String> {
        self.json
            .get_or_init(|| serde_json::from_slice(&self.body).map_err(|error| error.to_string()))
    }

    /// The time that the body gives, in seconds or in RFC 3339. A body without one has none: the event is no worse.
    fn time(&self) -> Option<i64> {
        let pointer = match self.source.scheme {
            Scheme::Stripe => "/created",
            Scheme::StandardWebhooks => "/timestamp",
            _ => return None,
        };
        match self.json().as_ref().ok()?.pointer(pointer)? {
            Value::Number(seconds) => seconds.as_i64()?.checked_mul(1_000_000_000),
            Value::String(text) => {
                let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
                i64::try_from(time.unix_timestamp_nanos()).ok()
            }
            _ => None,
        }
    }

    /// Stripe and Standard Webhooks send JSON. GitHub sends JSON or a form, and says which in a header.
    fn content_type(&self) -> Option<&'static str> {
        const JSON: &str = "application/json";
        const FORM: &str = "application/x-www-form-urlencoded";
        if self.source.scheme != Scheme::Github {
            return Some(JSON);
        }
        let header = self.headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
        let media_type = header.split(';').next().unwrap_or_default().trim();
        [JSON, FORM]
            .into_iter()
            .find(|known| media_type.eq_ignore_ascii_case(known))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn source(pairs: &[(&str, &str)]) -> Source {
        let settings = pairs
            .iter()
            .map(|(key, value)| (format!("source.s.{key}"), value.to_string()))
            .collect();
        Source::find(&settings, "s").unwrap().unwrap()
    }

    fn stripe(tenant: &str) -> Source {
        source(&[
            ("scheme", "stripe"),
            ("secret", "a"),
            ("tenant", tenant),
            ("tenants", "acme,7"),
        ])
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            headers.append(name, value);
        }
        headers
    }

    fn read(
        source: &Source,
        path_tenant: Option<&str>,
        sent: &[(&'static str, &'static str)],
        body: &str,
    ) -> Result<Event, Refusal> {
        Webhook::new(source, path_tenant, &headers(sent), body.as_bytes().to_vec()).into_event()
    }

    #[test]
    fn a_stripe_event_is_read() {
        let body = r#"{"id":"evt_1","type":"invoice.paid","created":1767225600,"data":{"object":{"metadata":{"tenant":"acme"}}}}"#;
        let event = read(&stripe("pointer:/data/object/metadata/tenant"), None, &[], body);
        let expected = Event {
            tenant: "acme".to_owned(),
            event_type: "invoice.paid".to_owned(),
            id: "evt_1".to_owned(),
            source: "/webhooks/s".to_owned(),
            time: Some(1_767_225_600_000_000_000),
            data_content_type: Some("application/json"),
            data: body.as_bytes().to_vec(),
        };
        assert_eq!(event, Ok(expected));
    }

    #[test]
    fn a_standard_webhook_is_read() {
        let source = source(&[
            ("scheme", "standard-webhooks"),
            ("secret", "AAEC"),
            ("tenant", "constant:acme"),
        ]);
        let body = r#"{"type":"contact.created","timestamp":"2022-11-03T20:26:10.344522Z","data":{}}"#;
        let event = read(&source, None, &[("webhook-id", "msg_1")], body).unwrap();
        assert_eq!(
            (event.tenant.as_str(), event.event_type.as_str(), event.id.as_str()),
            ("acme", "contact.created", "msg_1")
        );
        assert_eq!(event.time, Some(1_667_507_170_344_522_000));
    }

    #[test]
    fn a_github_webhook_is_read_without_its_body() {
        let source = source(&[("scheme", "github"), ("secret", "a"), ("tenant", "path")]);
        let sent = [
            ("x-github-event", "push"),
            ("x-github-delivery", "72d3162e"),
            ("content-type", "Application/X-WWW-Form-Urlencoded; charset=utf-8"),
        ];
        let event = read(&source, Some("acme"), &sent, "payload=%7B%7D").unwrap();
        assert_eq!(
            (event.event_type.as_str(), event.id.as_str(), event.time),
            ("push", "72d3162e", None)
        );
        assert_eq!(event.data_content_type, Some("application/x-www-form-urlencoded"));
        assert_eq!(
            read(&source, Some("acme"), &sent[..2], "{}").unwrap().data_content_type,
            None
        );
    }

    #[test]
    fn a_number_is_an_id_and_nothing_else_is() {
        let id = |id: &str| {
            read(
                &stripe("path"),
                Some("acme"),
                &[],
                &format!(r#"{{"id":{id},"type":"t"}}"#),
            )
            .map(|event| event.id)
        };
        assert_eq!(id("42"), Ok("42".to_owned()));
        for text in ["4.2", "null", "true", "[]", "{}", r#""""#] {
            let place = Place::Pointer("/id".to_owned());
            assert_eq!(
                id(text),
                Err(Refusal::NotFound {
                    what: "event-id",
                    place
                }),
                "{text}"
            );
        }
    }

    #[test]
    fn a_source_speaks_for_its_tenants_only() {
        let body = r#"{"id":"evt_1","type":"t","account":7}"#;
        assert_eq!(read(&stripe("pointer:/account"), None, &[], body).unwrap().tenant, "7");
        let refused = read(&stripe("path"), Some("other"), &[], body);
        assert_eq!(
            refused,
            Err(Refusal::TenantNotAllowed {
                name: "s".to_owned(),
                tenant: "other".to_owned()
            })
        );
    }

    #[test]
    fn what_is_not_there_is_named() {
        let missing = |what, place: &str| {
            Err(Refusal::NotFound {
                what,
                place: place.parse().unwrap(),
            })
        };
        let source_ = stripe("pointer:/account");
        assert_eq!(read(&source_, None, &[], "{}"), missing("tenant", "pointer:/account"));
        assert_eq!(
            read(&source_, None, &[], r#"{"account":"acme"}"#),
            missing("event-type", "pointer:/type")
        );
        assert!(matches!(
            read(&source_, None, &[], "not json"),
            Err(Refusal::NotJson { .. })
        ));

        let source = source(&[("scheme", "github"), ("secret", "a"), ("tenant", "constant:acme")]);
        assert_eq!(
            read(&source, None, &[], ""),
            missing("event-type", "header:x-github-event")
        );
        let twice = [("x-github-event", "push"), ("x-github-event", "ping")];
        assert_eq!(
            read(&source, None, &twice, ""),
            missing("event-type", "header:x-github-event")
        );
    }

    #[test]
    fn a_time_that_is_none_is_no_reason_to_refuse() {
        for created in ["null", r#""yesterday""#, "9223372036854775807", "1.5", "{}"] {
            let body = format!(r#"{{"id":"evt_1","type":"t","created":{created}}}"#);
            assert_eq!(
                read(&stripe("path"), Some("acme"), &[], &body).unwrap().time,
                None,
                "{created}"
            );
        }
    }
}
