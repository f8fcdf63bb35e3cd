//! CloudEvents over HTTP: what a request holds, by its content type, its `ce-` headers and its body ("HTTP Protocol Binding
//! for CloudEvents" 1.0.2), in all three modes.
//!
//! Deliberately absent: whether the events are legal and permitted, which the contract's function judges.

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::envelope::{Given, PREFIX, Reading, decoded, invalid};
use crate::event::MAX_EXTENSIONS;
use crate::name::shown;
use crate::structured::{self, media_type};
use crate::{Code, Problem, RawEvent};

/// The most events of one request, and of one call of the contract.
pub const MAX_EVENTS: usize = 1_000;

/// The most `ce-` headers that are read: every attribute of the specification, the tenant, the ordering key, and extensions.
const MAX_HEADERS: usize = MAX_EXTENSIONS + 16;

/// An event of a request, whose attributes are not checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestEvent<'a> {
    /// Its attributes.
    pub event: RawEvent,
    /// Its payload; borrowed where it is the request's whole body.
    pub data: Cow<'a, [u8]>,
}

/// The events of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Events<'a> {
    /// One, in binary or structured mode.
    One(Box<RequestEvent<'a>>),
    /// A batch: each, or what keeps it from being an event. At most [`MAX_EVENTS`].
    Batch(Vec<Result<RequestEvent<'a>, Problem>>),
}

/// A request, as far as its events are concerned. Names of headers are in lower case.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The tenant that its path names, if it names one: an event that says another is refused.
    pub tenant: Option<&'a str>,
    /// `content-type`.
    pub content_type: Option<&'a [u8]>,
    /// The headers whose names begin with `ce-`, with what stands behind that.
    pub attributes: Vec<(&'a str, &'a [u8])>,
    /// Its body.
    pub body: &'a [u8],
}

/// How a request holds its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Binary,
    Structured,
    Batched,
}

impl<'a> Request<'a> {
    /// A request with these headers.
    pub fn new(
        tenant: Option<&'a str>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &'a [u8],
    ) -> Result<Self, Problem> {
        let mut request = Self {
            tenant,
            content_type: None,
            attributes: Vec::new(),
            body,
        };
        for (name, value) in headers {
            if name == "content-type" {
                if request.content_type.replace(value).is_some() {
                    return Err(media_type_problem("the request has two content types"));
                }
            } else if let Some(attribute) = name.strip_prefix(PREFIX) {
                if request.attributes.len() == MAX_HEADERS {
                    return Err(invalid(format!("it has more than {MAX_HEADERS} `{PREFIX}` headers")));
                }
                request.attributes.push((attribute, value));
            }
        }
        Ok(request)
    }

    /// Its events.
    ///
    /// # Errors
    /// When it holds none in a way that is read. Nothing of it can be published then. The code is
    /// `unsupported-media-type` where another content type is what would help.
    pub fn events(&self) -> Result<Events<'a>, Problem> {
        let mode = self.mode()?;
        if mode != Mode::Binary && !self.attributes.is_empty() {
            return Err(invalid(format!(
                "its content type is that of a whole event, and it has `{PREFIX}` headers too, so that it is not known which are meant: leave out one of them"
            )));
        }
        let given = self.given();
        let structured = |document: &[u8]| {
            let (event, payload) = structured::take(given, document)?;
            RequestEvent::of(event, Cow::Owned(payload))
        };
        Ok(match mode {
            Mode::Binary => Events::One(Box::new(self.binary()?)),
            Mode::Structured => Events::One(Box::new(structured(self.body)?)),
            Mode::Batched => {
                let Batch { documents, count } = serde_json::from_slice(self.body)
                    .map_err(|e| invalid(format!("it is no batch of CloudEvents in JSON: {e}")))?;
                if count > MAX_EVENTS {
                    return Err(Problem::new(
                        Code::TooManyEvents,
                        format!(
                            "{count} events in one request: at most {MAX_EVENTS} are taken, and none of these was stored"
                        ),
                    ));
                }
                Events::Batch(documents.into_iter().map(|d| structured(d.get().as_bytes())).collect())
            }
        })
    }

    fn given(&self) -> Given<'a> {
        Given {
            tenant: self.tenant,
            event_type: None,
            by: "path",
        }
    }

    fn mode(&self) -> Result<Mode, Problem> {
        let content_type = match self.content_type {
            None => None,
            Some(bytes) => {
                Some(std::str::from_utf8(bytes).map_err(|_| media_type_problem("its content type is no text"))?)
            }
        };
        let media_type = content_type.map(media_type).unwrap_or_default();
        match media_type.strip_prefix("application/cloudevents") {
            Some("+json") => Ok(Mode::Structured),
            Some("-batch+json") => Ok(Mode::Batched),
            Some(_) => Err(media_type_problem(&format!(
                "its content type is {}",
                shown(&media_type)
            ))),
            // Without a word of a version it may be anything, posted to the wrong place.
            None if self.attributes.is_empty() => Err(media_type_problem(&match content_type {
                Some(_) => format!(
                    "its content type is {}, and it has no `{PREFIX}` headers",
                    shown(&media_type)
                ),
                None => format!("it has no content type, and no `{PREFIX}` headers"),
            })),
            None => Ok(Mode::Binary),
        }
    }

    fn binary(&self) -> Result<RequestEvent<'a>, Problem> {
        let mut event = Reading::new(self.given());
        for (name, value) in &self.attributes {
            let value = std::str::from_utf8(value).map_err(|_| {
                invalid(format!(
                    "header `{PREFIX}{}` is no UTF-8: percent-encode what is not printable ASCII",
                    shown(name).trim_matches('"')
                ))
            })?;
            event.attribute(name, decoded(name, value)?.into_owned())?;
        }
        event.requires(&["specversion", "type"])?;
        if let Some(content_type) = self.content_type {
            // Checked when the mode was found.
            event.attribute("datacontenttype", String::from_utf8_lossy(content_type).into_owned())?;
        }
        RequestEvent::of(event, Cow::Borrowed(self.body))
    }
}

impl<'a> RequestEvent<'a> {
    fn of(event: Reading<'_>, data: Cow<'a, [u8]>) -> Result<Self, Problem> {
        // Everything else about an event has a word for being absent; an id that is empty is refused as one.
        event.requires(&["id"])?;
        Ok(Self {
            event: event.into_raw()?,
            data,
        })
    }
}

fn media_type_problem(what: &str) -> Problem {
    Problem::new(
        Code::UnsupportedMediaType,
        format!(
            "{what}: send an event as `application/cloudevents+json`, many as `application/cloudevents-batch+json`, or one in `{PREFIX}` headers with the content type of its data"
        ),
    )
}

/// The documents of a batch, as they stand, and how many there are. No more than may be taken are kept.
struct Batch<'a> {
    documents: Vec<&'a RawValue>,
    count: usize,
}

impl<'de> Deserialize<'de> for Batch<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Documents;

        impl<'de> Visitor<'de> for Documents {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON array of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut batch = Batch {
                    documents: Vec::new(),
                    count: 0,
                };
                while batch.count < MAX_EVENTS {
                    let Some(document) = seq.next_element()? else {
                        return Ok(batch);
                    };
                    batch.documents.push(document);
                    batch.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    batch.count += 1;
                }
                Ok(batch)
            }
        }

        deserializer.deserialize_seq(Documents)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");
    const BATCHED: (&str, &str) = ("content-type", "application/cloudevents-batch+json");
    const BINARY: [(&str, &str); 5] = [
        ("ce-specversion", "1.0"),
        ("ce-id", "evt_1"),
        ("ce-source", "/s"),
        ("ce-type", "invoice.paid"),
        ("ce-tenant", "acme"),
    ];

    fn check<'a>(
        tenant: Option<&'a str>,
        headers: &'a [(&'a str, &'a str)],
        body: &'a str,
    ) -> Result<Events<'a>, Problem> {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        Request::new(tenant, headers, body.as_bytes())?.events()
    }

    fn one<'a>(headers: &'a [(&'a str, &'a str)], body: &'a str) -> RequestEvent<'a> {
        match check(None, headers, body).expect("an event") {
            Events::One(event) => *event,
            Events::Batch(_) => panic!("a batch"),
        }
    }

    fn code(headers: &[(&str, &str)], body: &str) -> Code {
        check(None, headers, body).expect_err("it is refused").code
    }

    fn document(more: &str) -> String {
        format!(r#"{{"specversion":"1.0","id":"evt_1","source":"/s","type":"invoice.paid","tenant":"acme"{more}}}"#)
    }

    #[test]
    fn an_event_is_the_same_in_every_mode() {
        let more = [
            ("ce-subject", "Euro%20%E2%82%AC"),
            ("ce-time", "2026-11-28T10:00:00Z"),
            ("ce-partitionkey", "k"),
            ("ce-flag", "true"),
            ("ce-count", "-3"),
            ("content-type", "application/json"),
        ];
        let headers = [&BINARY[..], &more[..]].concat();
        let binary = one(&headers, r#"{"amount":1.10}"#);
        let text = document(
            r#","subject":"Euro €","time":"2026-11-28T10:00:00Z","partitionkey":"k","flag":true,"count":-3,
               "datacontenttype":"application/json","data":{"amount":1.10}"#,
        );
        let structured = one(&[STRUCTURED], &text);
        assert_eq!(binary, structured);
        assert_eq!(binary.event.subject.as_deref(), Some("Euro €"));
        let batch = format!("[{text},{text}]");
        let Ok(Events::Batch(batch)) = check(None, &[BATCHED], &batch) else {
            panic!("no batch")
        };
        assert_eq!(batch, [Ok(structured.clone()), Ok(structured)]);
    }

    #[test]
    fn data_is_written_so_that_it_is_read_as_it_came() {
        for (content_type, payload) in [
            (None, "{\"amount\": 1.10,\n \"big\":12345678901234567890}"),
            (None, "not json"),
            (None, " {} "),
            (None, "null"),
            (Some("application/json"), "\"text\""),
            (Some("application/json"), "{broken"),
            (Some("application/vnd.x+json"), "[1]"),
            (Some("text/plain"), "a\nb \"c\""),
            (Some("application/xml"), "<a/>"),
            (Some("image/png"), "hi"),
        ] {
            let mut text = document("");
            text.pop();
            if let Some(content_type) = content_type {
                text.push_str(&format!(r#","datacontenttype":"{content_type}""#));
            }
            text.push_str(&match structured::data(content_type, payload.as_bytes()) {
                structured::Data::Json(json) => format!(r#","data":{}}}"#, json.get()),
                structured::Data::Text(text) => format!(r#","data":{}}}"#, serde_json::to_string(text).unwrap()),
                structured::Data::Base64(base64) => format!(r#","data_base64":"{base64}"}}"#),
            });
            assert_eq!(one(&[STRUCTURED], &text).data.as_ref(), payload.as_bytes(), "{text}");
        }
    }

    #[test]
    fn a_tenant_is_in_the_path_or_in_the_event_and_never_two() {
        let Ok(Events::One(event)) = check(Some("acme"), &BINARY[..4], "") else {
            panic!("no event")
        };
        assert_eq!(event.event.tenant, "acme");
        assert!(check(Some("acme"), &BINARY, "").is_ok());
        let problem = check(Some("globex"), &BINARY, "").unwrap_err();
        assert_eq!(problem.code, Code::InvalidAttribute);
        assert!(problem.message.contains("its path says \"globex\""), "{problem}");
        // The contract's function refuses what has none.
        assert_eq!(one(&BINARY[..4], "").event.tenant, "");
    }

    #[test]
    fn what_is_no_event_is_refused_as_a_whole() {
        let with = |header: (&'static str, &'static str)| [&BINARY[..], &[header]].concat();
        for bad in [
            ("ce-specversion", "1.0"),
            ("ce-id", "evt_2"),
            ("ce-time", "yesterday"),
            ("ce-subject", "%FF"),
            ("ce-subject", "%2"),
            ("ce-subject", "100%"),
        ] {
            assert_eq!(code(&with(bad), ""), Code::InvalidAttribute, "{bad:?}");
        }
        for missing in ["ce-specversion", "ce-id", "ce-type"] {
            let headers: Vec<_> = BINARY.into_iter().filter(|(name, _)| *name != missing).collect();
            assert_eq!(code(&headers, ""), Code::InvalidAttribute, "{missing}");
        }
        let headers: Vec<_> = BINARY.into_iter().skip(1).chain([("ce-specversion", "0.3")]).collect();
        assert_eq!(code(&headers, ""), Code::InvalidAttribute);
        let bytes = Request::new(None, [("ce-subject", &b"\xff\xfe"[..])].into_iter(), b"")
            .unwrap()
            .events();
        assert!(bytes.unwrap_err().message.contains("no UTF-8"));
        // Both modes at once.
        assert_eq!(code(&with(STRUCTURED), &document("")), Code::InvalidAttribute);
        assert_eq!(code(&[STRUCTURED, BINARY[1]], &document("")), Code::InvalidAttribute);
        assert_eq!(code(&[BATCHED, BINARY[1]], "[]"), Code::InvalidAttribute);
        for unread in [
            "application/cloudevents",
            "application/cloudevents+xml",
            "application/cloudevents-batch",
            "application/json",
            "text/plain",
            "",
        ] {
            assert_eq!(
                code(&[("content-type", unread)], "{}"),
                Code::UnsupportedMediaType,
                "{unread}"
            );
        }
        assert_eq!(code(&[], "{}"), Code::UnsupportedMediaType);
        assert_eq!(code(&[STRUCTURED, STRUCTURED], ""), Code::UnsupportedMediaType);
        for bad in ["", "null", "[]", "1", "{}", "{\"id\":\"1\",\"id\":\"1\"}"] {
            assert_eq!(code(&[STRUCTURED], bad), Code::InvalidAttribute, "{bad}");
        }
        for bad in ["", "null", "{}", "[", "[1", &document("")] {
            assert_eq!(code(&[BATCHED], bad), Code::InvalidAttribute, "{bad}");
        }
        let many: Vec<_> = (0..100).map(|i| (format!("ce-e{i}"), "x".to_owned())).collect();
        let headers = many.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        assert!(Request::new(None, headers, b"").is_err());
    }

    #[test]
    fn a_batch_is_bounded_and_each_event_of_it_stands_for_itself() {
        assert_eq!(check(None, &[BATCHED], "[]"), Ok(Events::Batch(Vec::new())));
        let mixed = format!("[{},1,{},null,{{}}]", document(""), document(r#","time":"soon""#));
        let Ok(Events::Batch(events)) = check(None, &[BATCHED], &mixed) else {
            panic!("no batch")
        };
        let are_events: Vec<_> = events.iter().map(Result::is_ok).collect();
        assert_eq!(are_events, [true, false, false, false, false]);
        let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
        assert!(check(None, &[BATCHED], &many(MAX_EVENTS)).is_ok());
        for count in [MAX_EVENTS + 1, 100_001] {
            let problem = check(None, &[BATCHED], &many(count)).unwrap_err();
            assert_eq!(problem.code, Code::TooManyEvents);
            assert!(problem.message.starts_with(&count.to_string()), "{problem}");
        }
        let deep = format!("[{}{}]", "[".repeat(100_000), "]".repeat(100_000));
        drop(check(None, &[BATCHED], &deep));
    }

    proptest! {
        #[test]
        fn no_request_panics(text in "\\PC{0,200}", value in "\\PC{0,40}") {
            for header in [STRUCTURED, BATCHED, ("content-type", value.as_str()), ("ce-subject", value.as_str())] {
                drop(check(Some("acme"), &[header], &text));
                drop(check(None, &[BINARY[0], BINARY[1], BINARY[3], header], &text));
            }
        }
    }
}
