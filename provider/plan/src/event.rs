//! A tenant's CloudEvent, checked once when it enters.

use crate::name::shown;
use crate::{Code, EventType, Problem, TenantId};

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
    pub time: Option<i64>,
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

    /// Its id.
    pub fn id(&self) -> &str {
        &self.raw.id
    }

    /// Whether an id is legal, where it comes without its event.
    ///
    /// # Errors
    /// Says what it may be.
    pub fn check_id(id: &str) -> Result<(), Problem> {
        if (1..=256).contains(&id.len()) && !id.chars().any(char::is_control) {
            return Ok(());
        }
        Err(Problem::new(
            Code::InvalidAttribute,
            format!(
                "id {} is not legal: it takes 1 to 256 bytes without control characters",
                shown(id)
            ),
        ))
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
            if value.len() < min || value.len() > max || value.chars().any(char::is_control) {
                return Err(Problem::new(
                    Code::InvalidAttribute,
                    format!(
                        "attribute `{name}` of an event of tenant {tenant_name} is {} bytes, {}: it takes {min} to {max} bytes without control characters",
                        value.len(),
                        shown(value)
                    ),
                ));
            }
            Ok(())
        };
        text("id", &raw.id, 1, 256)?;
        text("source", &raw.source, 1, 1024)?;
        text("subject", raw.subject.as_deref().unwrap_or_default(), 0, 1024)?;
        text(
            "datacontenttype",
            raw.data_content_type.as_deref().unwrap_or_default(),
            0,
            256,
        )?;
        text("dataschema", raw.data_schema.as_deref().unwrap_or_default(), 0, 1024)?;
        text("partitionkey", raw.ordering_key.as_deref().unwrap_or_default(), 0, 256)?;
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
            let legal = (1..=20).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
                && !RESERVED.contains(&name.as_str())
                && !raw.extensions[..i].iter().any(|(earlier, _)| earlier == name);
            if !legal {
                return Err(Problem::new(
                    Code::InvalidAttribute,
                    format!(
                        "extension attribute {} of an event of tenant {tenant_name} is not legal: use 1 to 20 of a-z 0-9, each name once, none of CloudEvents' own",
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
    fn every_attribute_is_checked() {
        assert!(Attributes::try_from(raw()).is_ok());
        let ext = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let long = "x".repeat(2000);
        for (broken, code) in [
            (
                RawEvent {
                    tenant: "a.b".into(),
                    ..raw()
                },
                Code::InvalidTenant,
            ),
            (
                RawEvent {
                    event_type: "a b".into(),
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
