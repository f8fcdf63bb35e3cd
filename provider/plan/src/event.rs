//! A tenant's CloudEvent, checked once when it enters.

use crate::name::{is_text, shown};
use crate::{Code, EventType, Problem, TenantId, Timestamp};

/// CloudEvents attribute names that are not extensions (CloudEvents 1.0.2), and those that the envelope uses itself.
const RESERVED: &[&str] = &[
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    "partitionkey",
    "tenant",
];

/// The most extension attributes.
pub const MAX_EXTENSIONS: usize = 32;

/// The longest name of an extension attribute. CloudEvents advises 20 and forbids no more.
pub const MAX_EXTENSION_NAME: usize = 64;

/// The longest id, in bytes.
const MAX_ID: usize = 256;

/// The longest source, in bytes.
const MAX_SOURCE: usize = 1024;

/// An event before it is checked, as it came from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawEvent {
    /// Whose it is.
    pub tenant: String,
    /// CloudEvents `type`.
    pub event_type: String,
    /// CloudEvents `id`.
    pub id: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// CloudEvents `time`, nanoseconds since the Unix epoch.
    pub time: Option<Timestamp>,
    /// CloudEvents `datacontenttype`.
    pub data_content_type: Option<String>,
    /// CloudEvents `dataschema`.
    pub data_schema: Option<String>,
    /// Extension attributes.
    pub extensions: Vec<(String, String)>,
    /// CloudEvents `partitionkey`.
    pub ordering_key: Option<String>,
}

/// The attributes of an event, all legal. The payload travels beside it, so that no copy of it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub(crate) tenant: TenantId,
    pub(crate) event_type: EventType,
    pub(crate) raw: RawEvent,
}

impl Attributes {
    /// Whose event it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its type.
    pub fn event_type(&self) -> &EventType {
        &self.event_type
    }

    /// Bytes of all that is text in it: without the payload, and without what a format writes around each.
    pub fn bytes(&self) -> usize {
        let RawEvent {
            tenant,
            event_type,
            id,
            source,
            subject,
            time: _,
            data_content_type,
            data_schema,
            extensions,
            ordering_key,
        } = &self.raw;
        let always = [tenant, event_type, id, source].map(String::len);
        let optional =
            [subject, data_content_type, data_schema, ordering_key].map(|text| text.as_ref().map_or(0, String::len));
        let extensions = extensions.iter().map(|(name, value)| name.len() + value.len());
        always.into_iter().chain(optional).chain(extensions).sum()
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.raw.id
    }

    /// Its source.
    pub fn source(&self) -> &str {
        &self.raw.source
    }

    /// Whether a source and an id are legal, where they come without their event.
    ///
    /// # Errors
    /// Says what they may be.
    pub fn check_source_and_id(source: &str, id: &str) -> Result<(), Problem> {
        for (name, value, max) in [("source", source, MAX_SOURCE), ("id", id, MAX_ID)] {
            if !is_text(value, 1, max) {
                return Err(Problem::new(
                    Code::InvalidAttribute,
                    format!(
                        "{name} {} is not legal: it takes 1 to {max} bytes without control characters",
                        shown(value)
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Everything, as it came.
    pub fn into_raw(self) -> RawEvent {
        self.raw
    }

    /// Everything, as it came.
    pub fn raw(&self) -> &RawEvent {
        &self.raw
    }
}

impl TryFrom<RawEvent> for Attributes {
    type Error = Problem;

    /// The first rule that the event breaks.
    fn try_from(raw: RawEvent) -> Result<Self, Problem> {
        let tenant = raw.tenant.parse()?;
        let event_type = raw.event_type.parse()?;
        let tenant_name = &raw.tenant;
        let text = |name: &str, value: &str, min: usize, max: usize| {
            if is_text(value, min, max) {
                return Ok(());
            }
            Err(Problem::new(
                Code::InvalidAttribute,
                format!(
                    "attribute `{name}` of an event of tenant {tenant_name} is {} bytes, {}: it takes {min} to {max} bytes without control characters",
                    value.len(),
                    shown(value)
                ),
            ))
        };
        text("id", &raw.id, 1, MAX_ID)?;
        text("source", &raw.source, 1, MAX_SOURCE)?;
        // CloudEvents 1.0.2: an optional attribute that is there is not empty.
        for (name, value, max) in [
            ("subject", &raw.subject, 1024),
            ("datacontenttype", &raw.data_content_type, 256),
            ("dataschema", &raw.data_schema, 1024),
            ("partitionkey", &raw.ordering_key, 256),
        ] {
            if let Some(value) = value {
                text(name, value, 1, max).map_err(|p| Problem {
                    message: format!("{}, or is left out", p.message),
                    ..p
                })?;
            }
        }
        if raw.extensions.len() > MAX_EXTENSIONS {
            return Err(Problem::new(
                Code::InvalidAttribute,
                format!(
                    "an event of tenant {tenant_name} has {} extension attributes: at most {MAX_EXTENSIONS} are taken",
                    raw.extensions.len()
                ),
            ));
        }
        for (i, (name, value)) in raw.extensions.iter().enumerate() {
            let legal = (1..=MAX_EXTENSION_NAME).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && !RESERVED.contains(&name.as_str())
                && !raw.extensions[..i].iter().any(|(earlier, _)| earlier == name);
            if !legal {
                return Err(Problem::new(
                    Code::InvalidAttribute,
                    format!(
                        "extension attribute {} of an event of tenant {tenant_name} is not legal: use 1 to {MAX_EXTENSION_NAME} of a-z 0-9, each name once, none of CloudEvents' own",
                        shown(name)
                    ),
                ));
            }
            text(name, value, 0, 1024)?;
        }
        Ok(Self {
            tenant,
            event_type,
            raw,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn raw() -> RawEvent {
        RawEvent {
            tenant: "acme".into(),
            event_type: "invoice.paid".into(),
            id: "evt_1".into(),
            source: "/webhooks/stripe".into(),
            ..RawEvent::default()
        }
    }

    #[test]
    fn what_cloudevents_allows_is_taken() {
        let event = RawEvent {
            tenant: "eu.acme/é".into(),
            event_type: "com.github/push [v2]: a b c d e f g h.i.j.k.l.m.n.o.p".into(),
            // 21 letters, as Knative writes it.
            extensions: vec![
                ("knativekafkapartition".into(), "3".into()),
                ("x".repeat(MAX_EXTENSION_NAME), String::new()),
            ],
            ..raw()
        };
        let attributes = Attributes::try_from(event.clone()).unwrap();
        assert_eq!(attributes.into_raw(), event, "it stays as it came");
    }

    #[test]
    fn an_optional_attribute_is_absent_or_not_empty() {
        let empty = || Some(String::new());
        for (name, broken) in [
            (
                "subject",
                RawEvent {
                    subject: empty(),
                    ..raw()
                },
            ),
            (
                "datacontenttype",
                RawEvent {
                    data_content_type: empty(),
                    ..raw()
                },
            ),
            (
                "dataschema",
                RawEvent {
                    data_schema: empty(),
                    ..raw()
                },
            ),
            (
                "partitionkey",
                RawEvent {
                    ordering_key: empty(),
                    ..raw()
                },
            ),
        ] {
            let problem = Attributes::try_from(broken).unwrap_err();
            assert_eq!(problem.code, Code::InvalidAttribute);
            assert!(problem.message.contains(&format!("`{name}`")), "{problem}");
        }
    }

    #[test]
    fn every_attribute_is_checked() {
        assert!(Attributes::try_from(raw()).is_ok());
        let ext = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let long = "x".repeat(2000);
        for (broken, code) in [
            (
                RawEvent {
                    tenant: "a\r\nb".into(),
                    ..raw()
                },
                Code::InvalidTenant,
            ),
            (
                RawEvent {
                    event_type: "a\nb".into(),
                    ..raw()
                },
                Code::InvalidEventType,
            ),
            (
                RawEvent {
                    id: String::new(),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    id: "a\r\nb".into(),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    source: String::new(),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    subject: Some(long.clone()),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    data_content_type: Some("a\nb".into()),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    data_schema: Some(long.clone()),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    ordering_key: Some(long.clone()),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: ext("Upper", "v"),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: ext(&long[..MAX_EXTENSION_NAME + 1], "v"),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: ext("a", "b\u{fffe}"),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: ext("id", "v"),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: ext("a", &long),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
            (
                RawEvent {
                    extensions: [ext("a", "1"), ext("a", "2")].concat(),
                    ..raw()
                },
                Code::InvalidAttribute,
            ),
        ] {
            assert_eq!(
                Attributes::try_from(broken.clone()).unwrap_err().code,
                code,
                "{broken:?}"
            );
        }
    }
}
