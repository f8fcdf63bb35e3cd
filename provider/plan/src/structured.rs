//! A CloudEvent in structured mode: attributes and payload in one JSON document (CloudEvents 1.0.2, "JSON Event Format").
//! Other clients of the bus's subjects may write them, and callers over HTTP; [`data`] is how Fanout writes a payload there.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::envelope::{Given, Reading, invalid};
use crate::event::MAX_EXTENSIONS;
use crate::name::shown;
use crate::{Attributes, Problem};

/// The media type of JSON, which data has that says nothing else ("JSON Event Format", 3.1).
const JSON: &str = "application/json";

/// The most members of a document: every attribute, every extension, and the data.
const MAX_MEMBERS: usize = MAX_EXTENSIONS + 16;

/// How a message holds its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Attributes in headers, the payload as it is.
    Binary,
    /// Everything in one document.
    Structured,
}

impl Mode {
    /// As a message says with its `content-type`. A message that says nothing and holds no attribute is structured: the
    /// binding for NATS knew no headers at first (1.0.2).
    ///
    /// # Errors
    /// For a mode that is not read, with what to do instead.
    pub fn of(content_type: Option<&str>, has_attributes: bool) -> Result<Self, Problem> {
        let Some(content_type) = content_type else {
            return Ok(if has_attributes { Self::Binary } else { Self::Structured });
        };
        let media_type = media_type(content_type);
        match media_type.strip_prefix("application/cloudevents") {
            None => Ok(Self::Binary),
            Some("" | "+json") => Ok(Self::Structured),
            Some(batch) if batch.starts_with("-batch") => Err(invalid(format!(
                "its content type is {}, a batch: publish each event in a message of its own",
                shown(content_type)
            ))),
            Some(_) => Err(invalid(format!(
                "its content type is {}: events are read as `application/cloudevents+json`, or from `ce-` headers",
                shown(content_type)
            ))),
        }
    }
}

/// A content type without its parameters, in lower case.
pub(crate) fn media_type(content_type: &str) -> String {
    let end = content_type.find(';').unwrap_or(content_type.len());
    content_type[..end].trim().to_ascii_lowercase()
}

/// Whether data of this content type is JSON: `text/json`, `application/json` and every `+json`.
fn is_json(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type
        .split_once('/')
        .is_some_and(|(_, sub)| sub == "json" || sub.ends_with("+json"))
}

/// The event of a document, and its payload. `tenant` and `event_type` come from the subject, and what the document says
/// of them must be the same.
///
/// # Errors
/// What keeps it from being one event of its subject.
pub fn read(tenant: &str, event_type: &str, document: &[u8]) -> Result<(Attributes, Vec<u8>), Problem> {
    let given = Given {
        tenant: Some(tenant),
        event_type: Some(event_type),
        by: "subject",
    };
    let (event, payload) = take(given, document)?;
    Ok((event.finish()?, payload))
}

/// The event of a document that stands alone, such as a file that a person wrote: its tenant and its type are its own, and
/// `specversion` may be left out.
///
/// # Errors
/// What keeps it from being an event.
pub fn read_alone(document: &[u8]) -> Result<(Attributes, Vec<u8>), Problem> {
    let document = Document::of(document)?;
    let (tenant, event_type) = (document.needed("tenant")?, document.needed("type")?);
    let given = Given {
        tenant: Some(&tenant),
        event_type: Some(&event_type),
        by: "document",
    };
    let (event, payload) = document.take(given)?;
    Ok((event.finish()?, payload))
}

/// The attributes of a document, not yet checked, and its payload.
pub(crate) fn take<'a>(given: Given<'a>, document: &[u8]) -> Result<(Reading<'a>, Vec<u8>), Problem> {
    let document = Document::of(document)?;
    document.needed("specversion")?;
    document.needed("type")?;
    document.take(given)
}

/// A payload as a member of a document.
#[derive(Clone, Debug)]
pub enum Data<'a> {
    /// `data`: JSON, as it came.
    Json(&'a RawValue),
    /// `data`: a text.
    Text(&'a str),
    /// `data_base64`.
    Base64(String),
}

/// How a payload is written: JSON as it stands where its content type says JSON, or says nothing; a text where that says
/// text or XML; else as Base64. Whoever reads the document has the payload as it came.
pub fn data<'a>(content_type: Option<&str>, payload: &'a [u8]) -> Data<'a> {
    let base64 = || Data::Base64(STANDARD.encode(payload));
    let Ok(text) = std::str::from_utf8(payload) else {
        return base64();
    };
    match content_type {
        Some(written) if !is_json(written) => match is_text(written) {
            true => Data::Text(text),
            false => base64(),
        },
        // `null` is as if it were left out ("JSON Event Format", 2.4).
        _ if text.trim() == "null" => base64(),
        _ => match serde_json::from_str::<&RawValue>(text) {
            // Without the blanks around it, it would be another payload.
            Ok(json) if json.get().len() == text.len() => Data::Json(json),
            _ => base64(),
        },
    }
}

/// Whether data of this content type is text or XML, which a JSON string can hold.
fn is_text(content_type: &str) -> bool {
    let media_type = media_type(content_type);
    media_type
        .split_once('/')
        .is_some_and(|(kind, sub)| kind == "text" || (kind == "application" && (sub == "xml" || sub.ends_with("+xml"))))
}

/// An attribute as text ("Type System", the canonical forms).
fn attribute(json: &str) -> Option<String> {
    match json {
        "true" | "false" => Some(json.to_owned()),
        _ if json.starts_with('"') => serde_json::from_str(json).ok(),
        number => number.parse::<i32>().ok().map(|n| n.to_string()),
    }
}

/// The payload of `data`: JSON as it stands, or a text.
fn of_data(content_type: &str, json: &str) -> Option<Vec<u8>> {
    if json.starts_with('"') && !is_json(content_type) {
        return serde_json::from_str::<String>(json).ok().map(String::into_bytes);
    }
    Some(json.as_bytes().to_vec())
}

fn of_base64(json: &str) -> Option<Vec<u8>> {
    STANDARD.decode(serde_json::from_str::<String>(json).ok()?).ok()
}

/// The members of a JSON object, in their order.
struct Document<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Document<'a> {
    fn of(document: &'a [u8]) -> Result<Self, Problem> {
        serde_json::from_slice(document).map_err(|e| invalid(format!("it is no CloudEvent in JSON: {e}")))
    }

    /// An attribute that it has to have.
    fn needed(&self, name: &str) -> Result<String, Problem> {
        match self
            .0
            .iter()
            .find(|(member, value)| member == name && value.get() != "null")
        {
            Some((_, value)) => text_of(name, value.get()),
            None => Err(invalid(format!("it is no CloudEvent in JSON: `{name}` is missing"))),
        }
    }

    fn take<'g>(self, given: Given<'g>) -> Result<(Reading<'g>, Vec<u8>), Problem> {
        let mut event = Reading::new(given);
        let mut data = None;
        for (name, value) in self.0 {
            let text = value.get();
            match name.as_str() {
                // As if it were left out ("JSON Event Format", 2.4).
                _ if text == "null" => {}
                "data" | "data_base64" => {
                    if data.replace((name, value)).is_some() {
                        return Err(invalid(
                            "it has both `data` and `data_base64`: it may have one".to_owned(),
                        ));
                    }
                }
                _ => event.attribute(&name, text_of(&name, text)?)?,
            }
        }
        let payload = match &data {
            None => Vec::new(),
            Some((name, value)) => {
                event.imply_content_type(JSON);
                let bytes = if name == "data" {
                    of_data(event.content_type().unwrap_or(JSON), value.get())
                } else {
                    of_base64(value.get())
                };
                bytes.ok_or_else(|| invalid(format!("its `{name}` is no text, or no Base64, as it should be")))?
            }
        };
        Ok((event, payload))
    }
}

/// An attribute as text.
fn text_of(name: &str, json: &str) -> Result<String, Problem> {
    attribute(json).ok_or_else(|| {
        invalid(format!(
            "attribute {} is neither a string, nor true or false, nor a whole number of 32 bits",
            shown(name)
        ))
    })
}

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Document<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error;
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if members.len() == MAX_MEMBERS {
                        return Err(A::Error::custom(format!("more than {MAX_MEMBERS} members")));
                    }
                    if members.iter().any(|(earlier, _)| *earlier == name) {
                        return Err(A::Error::custom(format!("member {} comes twice", shown(&name))));
                    }
                    members.push((name, map.next_value()?));
                }
                Ok(Document(members))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Code, Timestamp};

    fn event(more: &str) -> Result<(Attributes, Vec<u8>), Problem> {
        let document =
            format!(r#"{{"specversion":"1.0","id":"evt_1","source":"/webhooks/stripe","type":"invoice.paid"{more}}}"#);
        read("acme", "invoice.paid", document.as_bytes())
    }

    #[test]
    fn a_mode_is_what_the_message_says() {
        for structured in [
            "application/cloudevents+json",
            "application/cloudevents+json; charset=utf-8",
            "Application/CloudEvents+JSON",
            "application/cloudevents",
        ] {
            assert_eq!(Mode::of(Some(structured), true), Ok(Mode::Structured), "{structured}");
        }
        assert_eq!(Mode::of(Some("application/json"), false), Ok(Mode::Binary));
        assert_eq!(Mode::of(None, true), Ok(Mode::Binary));
        assert_eq!(Mode::of(None, false), Ok(Mode::Structured));
        for (unread, why) in [
            ("application/cloudevents-batch+json", "message of its own"),
            ("application/cloudevents+avro", "application/cloudevents+json"),
        ] {
            let problem = Mode::of(Some(unread), true).unwrap_err();
            assert_eq!(problem.code, Code::InvalidAttribute);
            assert!(problem.message.contains(why), "{problem}");
        }
    }

    #[test]
    fn a_document_is_the_event_that_it_says() {
        let (attributes, payload) = event(
            r#","subject":"in_1","time":"2026-11-28T10:00:00Z","dataschema":null,"tenant":"acme","partitionkey":"k",
              "flag":true,"count":-3,"note":"é","data":{"amount": 1.10, "big":12345678901234567890}"#,
        )
        .unwrap();
        let raw = attributes.raw();
        assert_eq!((raw.id.as_str(), raw.source.as_str()), ("evt_1", "/webhooks/stripe"));
        assert_eq!(
            (raw.subject.as_deref(), raw.ordering_key.as_deref()),
            (Some("in_1"), Some("k"))
        );
        assert_eq!(raw.time, Some(Timestamp::from_nanoseconds(1_795_860_000_000_000_000)));
        assert_eq!(
            (raw.data_schema.as_deref(), raw.data_content_type.as_deref()),
            (None, Some(JSON))
        );
        let extensions = [("flag", "true"), ("count", "-3"), ("note", "é")];
        let extensions = extensions.map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(raw.extensions, extensions);
        assert_eq!(
            payload, br#"{"amount": 1.10, "big":12345678901234567890}"#,
            "not one digit is another"
        );
    }

    #[test]
    fn data_is_what_its_content_type_says() {
        for (more, payload) in [
            ("", ""),
            (r#","data":null"#, ""),
            (r#","data":"text""#, "\"text\""),
            (r#","datacontenttype":"text/plain","data":"a\nb""#, "a\nb"),
            (
                r#","datacontenttype":"application/vnd.x+json; v=1","data":"a""#,
                "\"a\"",
            ),
            (r#","datacontenttype":"text/xml","data":{"a":1}"#, "{\"a\":1}"),
            (r#","datacontenttype":"image/png","data_base64":"aGk=""#, "hi"),
        ] {
            assert_eq!(event(more).unwrap().1, payload.as_bytes(), "{more}");
        }
        assert_eq!(event("").unwrap().0.raw().data_content_type, None);
    }

    #[test]
    fn what_is_not_one_event_of_its_subject_is_refused() {
        for bad in [
            r#","data":1,"data_base64":"aGk=""#,
            r#","data_base64":"?""#,
            r#","data_base64":1"#,
            r#","id":"evt_2""#,
            r#","tenant":"globex""#,
            r#","subject":"""#,
            r#","Upper":"x""#,
            r#","a_b":"x""#,
            r#","list":[1]"#,
            r#","number":1.5"#,
            r#","number":4294967296"#,
            r#","time":"soon""#,
            r#","text":"a\u0000b""#,
            r#","lone":"\ud800""#,
        ] {
            assert_eq!(event(bad).map_err(|p| p.code), Err(Code::InvalidAttribute), "{bad}");
        }
        let many: String = (0..100).map(|i| format!(r#","e{i}":"x""#)).collect();
        assert!(event(&many).is_err());
        let full = r#"{"specversion":"1.0","id":"1","source":"/s","type":"invoice.paid"}"#;
        assert!(read("acme", "invoice.paid", full.as_bytes()).is_ok());
        assert!(read("acme", "invoice.voided", full.as_bytes()).is_err());
        for bad in [
            "",
            "null",
            "[]",
            "1",
            "{}",
            r#"{"id":"1","source":"/s","type":"invoice.paid"}"#,
            r#"{"specversion":"0.3","id":"1","source":"/s","type":"invoice.paid"}"#,
            r#"{"specversion":"1.0","source":"/s","type":"invoice.paid"}"#,
            r#"{"specversion":"1.0","id":"1","source":"/s"}"#,
            r#"{"specversion":"1.0","id":"1","type":"invoice.paid"}"#,
            &full[..full.len() - 1],
        ] {
            assert!(read("acme", "invoice.paid", bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = format!(r#","data":{}{}"#, "[".repeat(100_000), "]".repeat(100_000));
        drop(event(&deep));
    }

    proptest! {
        #[test]
        fn no_document_panics(text in "\\PC{0,200}") {
            drop(read("acme", "invoice.paid", text.as_bytes()));
            drop(event(&text));
        }
    }
}
