//! How an event is written on the wire: CloudEvents 1.0 in binary mode, one `ce-` header for each attribute and the
//! payload as it came, so that any NATS client can read it. What other clients write is read in binary and in
//! [structured](crate::structured) mode.
//!
//! Header values are percent-encoded as the CloudEvents HTTP binding says (3.1.3.2): NATS header values are ASCII
//! without line ends.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::event::{Attributes, RawEvent};
use crate::name::{digest, shown};
use crate::{Code, Problem, TenantId};

/// What is escaped: controls, space, the double quote and the escape character itself; everything beyond ASCII is too.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// The prefix of each attribute's header.
pub const PREFIX: &str = "ce-";

/// The one version of CloudEvents that is read.
pub(crate) const VERSION: &str = "1.0";

/// What makes an event one event: its tenant, its source and its id (CloudEvents 1.0.2: `source` and `id` identify an
/// event), as 43 characters that any name can hold. Who may publish one source can't write the key of another's event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(Box<str>);

impl EventKey {
    /// The key of an event.
    pub fn new(tenant: &TenantId, source: &str, id: &str) -> Self {
        Self(digest(&[tenant.as_str(), source, id]).into())
    }

    /// The key of an event.
    pub fn of(attributes: &Attributes) -> Self {
        Self::new(attributes.tenant(), attributes.source(), attributes.id())
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id by which the store recognises a repeat. The server compares ids within the whole stream (nats-server 2.15), and
/// two tenants, or two sources of one, may use the same one.
pub fn message_id(attributes: &Attributes) -> String {
    EventKey::of(attributes).0.into()
}

/// The headers of an event.
pub fn to_headers(attributes: &Attributes) -> Vec<(Cow<'static, str>, String)> {
    let raw = attributes.raw();
    let mut headers: Vec<(Cow<'static, str>, String)> = Vec::with_capacity(10 + raw.extensions.len());
    headers.extend([
        ("ce-specversion".into(), VERSION.to_owned()),
        ("ce-id".into(), escaped(&raw.id)),
        ("ce-source".into(), escaped(&raw.source)),
        ("ce-type".into(), escaped(&raw.event_type)),
        ("ce-tenant".into(), escaped(&raw.tenant)),
    ]);
    let mut optional = |name: &'static str, value: Option<String>| {
        headers.extend(value.map(|value| (name.into(), value)));
    };
    optional("ce-subject", raw.subject.as_deref().map(escaped));
    optional("ce-time", raw.time.map(|time| time.to_string()));
    optional("ce-datacontenttype", raw.data_content_type.as_deref().map(escaped));
    optional("ce-dataschema", raw.data_schema.as_deref().map(escaped));
    optional("ce-partitionkey", raw.ordering_key.as_deref().map(escaped));
    for (name, value) in &raw.extensions {
        headers.push((format!("{PREFIX}{name}").into(), escaped(value)));
    }
    headers
}

/// The event whose headers these are, names in lower case; headers of others are passed over. `tenant` and `event_type`
/// come from the subject, which alone is what authorises a reader; without a type from there, it is the headers'.
///
/// # Errors
/// The first attribute that is missing, comes twice, can't be read, is not legal, or is not what the subject says.
pub fn from_headers<'a>(
    tenant: &str,
    event_type: Option<&str>,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<Attributes, Problem> {
    let mut read = Reading::new(Given {
        tenant: Some(tenant),
        event_type,
        by: "subject",
    });
    for (name, value) in headers {
        if let Some(name) = name.strip_prefix(PREFIX) {
            read.attribute(name, decoded(name, value)?.into_owned())?;
        }
    }
    read.finish()
}

/// What is known of an event before its attributes are read; they have to say the same, or nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a> {
    pub(crate) tenant: Option<&'a str>,
    pub(crate) event_type: Option<&'a str>,
    /// Where that is known from, for messages: the subject of a message, the path of a request.
    pub(crate) by: &'static str,
}

/// An event whose attributes are read one by one.
pub(crate) struct Reading<'a> {
    given: Given<'a>,
    raw: RawEvent,
    version: Option<String>,
    tenant_written: Option<String>,
    type_written: Option<String>,
    id: Option<String>,
    source: Option<String>,
    time: Option<String>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(given: Given<'a>) -> Self {
        Self {
            given,
            raw: RawEvent::default(),
            version: None,
            tenant_written: None,
            type_written: None,
            id: None,
            source: None,
            time: None,
        }
    }

    /// Takes an attribute.
    pub(crate) fn attribute(&mut self, name: &str, value: String) -> Result<(), Problem> {
        let place = match name {
            "specversion" => &mut self.version,
            "type" => &mut self.type_written,
            "tenant" => &mut self.tenant_written,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "subject" => &mut self.raw.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.raw.data_content_type,
            "dataschema" => &mut self.raw.data_schema,
            "partitionkey" => &mut self.raw.ordering_key,
            extension => {
                // One that comes twice is refused with the others.
                self.raw.extensions.push((extension.to_owned(), value));
                return Ok(());
            }
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(invalid(format!(
                "attribute `{name}` comes twice, so that it is not known which is meant"
            ))),
        }
    }

    /// Of an attribute that is not there yet.
    pub(crate) fn imply_content_type(&mut self, content_type: &str) {
        self.raw
            .data_content_type
            .get_or_insert_with(|| content_type.to_owned());
    }

    /// The media type of its data, if it says one.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.raw.data_content_type.as_deref()
    }

    /// Refuses an event that does not say its version, or its type where nothing else does.
    pub(crate) fn requires(&self, attributes: &[&str]) -> Result<(), Problem> {
        for name in attributes {
            let is_there = match *name {
                "specversion" => self.version.is_some(),
                "type" => self.type_written.is_some(),
                "id" => self.id.is_some(),
                _ => true,
            };
            if !is_there {
                return Err(invalid(format!("it is no CloudEvent: `{name}` is missing")));
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Attributes, Problem> {
        Attributes::try_from(self.into_raw()?)
    }

    /// The event as it came: its attributes are those of one event, and not all of them need be legal.
    pub(crate) fn into_raw(mut self) -> Result<RawEvent, Problem> {
        let Given { tenant, event_type, by } = self.given;
        if let Some(version) = self.version.filter(|v| v != VERSION) {
            return Err(invalid(format!(
                "it is an event of CloudEvents {}: {VERSION} is read",
                shown(&version)
            )));
        }
        for (name, written, given) in [
            ("type", &self.type_written, event_type),
            ("tenant", &self.tenant_written, tenant),
        ] {
            if let (Some(written), Some(given)) = (written, given)
                && written != given
            {
                return Err(invalid(format!(
                    "its attribute `{name}` is {} and its {by} says {}: publish it on the {by} of its own {name}",
                    shown(written),
                    shown(given)
                )));
            }
        }
        if let Some(time) = self.time {
            self.raw.time = Some(time.parse().map_err(|_| {
                invalid(format!(
                    "attribute `time` is {}, which is no RFC 3339 time of the years 1678 to 2261",
                    shown(&time)
                ))
            })?);
        }
        let one = |given: Option<&str>, written: Option<String>| match given {
            Some(given) => given.to_owned(),
            None => written.unwrap_or_default(),
        };
        self.raw.tenant = one(tenant, self.tenant_written);
        self.raw.event_type = one(event_type, self.type_written);
        self.raw.id = self.id.unwrap_or_default();
        self.raw.source = self.source.unwrap_or_default();
        Ok(self.raw)
    }
}

pub(crate) fn invalid(message: String) -> Problem {
    Problem::new(Code::InvalidAttribute, message)
}

fn escaped(value: &str) -> String {
    utf8_percent_encode(value, ESCAPED).to_string()
}

/// A header's value, for a person: as it was before it was written, or as it stands where it can't be read.
pub fn shown_value(value: &str) -> String {
    decoded("", value).map_or_else(|_| value.to_owned(), Cow::into_owned)
}

/// A header's value as the HTTP binding reads it: one round of percent-decoding, of a value that older writers may have put
/// in double quotes. Nothing is read as something else than what it was: half an escape, or bytes that are no UTF-8, are
/// refused.
pub(crate) fn decoded<'a>(name: &str, value: &'a str) -> Result<Cow<'a, str>, Problem> {
    let value = unquoted(value);
    let escapes = value.split('%').skip(1);
    let whole = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    let refuse = |why| {
        invalid(format!(
            "attribute `{name}` is {} in its header, {why}: percent-encode space, double quote, percent sign and everything that is not printable ASCII",
            shown(&value)
        ))
    };
    if !escapes.clone().all(whole) {
        return Err(refuse(
            "with a percent sign that is not followed by two hexadecimal digits",
        ));
    }
    if escapes.count() == 0 {
        return Ok(value);
    }
    match percent_decode_str(&value).decode_utf8() {
        Ok(text) => Ok(Cow::Owned(text.into_owned())),
        Err(_) => Err(refuse("whose escapes are no UTF-8")),
    }
}

/// A value without the double quotes around it, if it is in quotes; a backslash in there stands for what follows it.
fn unquoted(value: &str) -> Cow<'_, str> {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return Cow::Borrowed(value);
    };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            // The quotes at both ends are no pair.
            '"' => return Cow::Borrowed(value),
            '\\' => match chars.next() {
                Some(c) => text.push(c),
                None => return Cow::Borrowed(value),
            },
            c => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Timestamp;

    fn text() -> impl Strategy<Value = String> {
        "\\PC{1,40}"
    }

    fn read(headers: &[(&str, &str)]) -> Result<Attributes, Problem> {
        from_headers("acme", Some("invoice.paid"), headers.iter().copied())
    }

    const REQUIRED: [(&str, &str); 2] = [("ce-id", "1"), ("ce-source", "/s")];

    #[test]
    fn a_value_is_decoded_once_and_never_guessed() {
        for (written, meant) in [
            ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
            ("100%25", "100%"),
            ("%2525", "%25"),
            ("a b", "a b"),
            ("\"a b\"", "a b"),
            ("\"a \\\"b\\\" %25\"", "a \"b\" %"),
            ("\"", "\""),
            ("%22quoted%22", "\"quoted\""),
        ] {
            let event = read(&[REQUIRED[0], REQUIRED[1], ("ce-subject", written)]).unwrap();
            assert_eq!(event.raw().subject.as_deref(), Some(meant), "{written}");
        }
        for bad in [
            "%",
            "100%",
            "%2",
            "a%zzb",
            "%C3",
            "%FF",
            "%ED%A0%80",
            "%C0%AF",
            "%0D%0A",
            "%00",
            "",
        ] {
            let problem = read(&[REQUIRED[0], REQUIRED[1], ("ce-subject", bad)]).unwrap_err();
            assert_eq!(problem.code, Code::InvalidAttribute, "{bad}");
            assert!(problem.message.contains("`subject`"), "{problem}");
        }
    }

    #[test]
    fn an_event_is_the_one_that_its_subject_says() {
        let with = |more: &[(&'static str, &'static str)]| read(&[&REQUIRED[..], more].concat());
        assert!(
            with(&[
                ("ce-type", "invoice.paid"),
                ("ce-tenant", "acme"),
                ("ce-specversion", "1.0")
            ])
            .is_ok()
        );
        assert!(with(&[]).is_ok());
        for bad in [
            ("ce-type", "invoice.voided"),
            ("ce-tenant", "globex"),
            ("ce-specversion", "0.3"),
            ("ce-time", "yesterday"),
            ("ce-id", "2"),
            ("ce-source", "/s"),
        ] {
            let problem = with(&[bad]).unwrap_err();
            assert_eq!(problem.code, Code::InvalidAttribute, "{bad:?}");
        }
    }

    #[test]
    fn an_event_is_one_by_tenant_source_and_id() {
        let key = |tenant: &str, source: &str, id: &str| EventKey::new(&tenant.parse().unwrap(), source, id);
        let mine = key("acme", "/webhooks/stripe", "evt_9");
        assert_eq!(mine, key("acme", "/webhooks/stripe", "evt_9"));
        for other in [
            key("globex", "/webhooks/stripe", "evt_9"),
            key("acme", "/notes", "evt_9"),
            key("acme", "/webhooks/stripe", "evt_8"),
            key("acme/", "webhooks/stripe", "evt_9"),
            key("acme", "/webhooks/stripe/", "evt_9"),
            key("acme", "/webhooks", "stripeevt_9"),
            key("acme", "evt_9", "/webhooks/stripe"),
        ] {
            assert_ne!(mine, other);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            tenant in text(), event_type in text(),
            id in text(), source in text(), subject in proptest::option::of(text()),
            time in proptest::option::of((0i64..4_102_444_800_000_000_000).prop_map(Timestamp::from_nanoseconds)),
            key in proptest::option::of(text()), value in text(),
        ) {
            let raw = RawEvent {
                tenant, event_type, id, source, subject, time,
                data_content_type: Some("application/json; charset=utf-8".into()),
                data_schema: None, extensions: vec![("region".into(), value)], ordering_key: key,
            };
            let attributes = Attributes::try_from(raw).unwrap();
            let headers = to_headers(&attributes);
            for (name, value) in &headers {
                prop_assert!(value.bytes().all(|b| (0x21..0x7f).contains(&b)), "{name}: {value}");
            }
            let pairs = || headers.iter().map(|(n, v)| (&**n, v.as_str()));
            let raw = attributes.raw();
            let back = from_headers(&raw.tenant, Some(&raw.event_type), pairs()).unwrap();
            prop_assert_eq!(&back, &attributes);
            prop_assert_eq!(&from_headers(&raw.tenant, None, pairs()).unwrap(), &attributes);
            let id = message_id(&attributes);
            prop_assert!(id.len() == 43 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)));
        }

        #[test]
        fn no_value_is_read_as_another(value in "([a%2\"\\\\ é]|%[0-9A-F]{2}){0,8}") {
            if let Ok(read) = decoded("x", &value) {
                let again = escaped(&read);
                prop_assert_eq!(decoded("x", &again).unwrap(), read);
            }
        }
    }
}
