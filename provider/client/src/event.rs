//! Events and receipts, as a program sees them.

use std::fmt;

use bytes::Bytes;

use fanout_wit::types as wit;

/// A tenant's event: a CloudEvent. The bus says what each attribute may hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// Whose event this is.
    pub tenant: String,
    /// CloudEvents `type`, such as `invoice.paid`.
    pub event_type: String,
    /// CloudEvents `id`: the idempotency key within the tenant and source.
    pub id: String,
    /// CloudEvents `source`; empty for the publisher's own.
    pub source: String,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
    /// CloudEvents `time`: when it happened, nanoseconds since 1970-01-01T00:00:00Z.
    pub time: Option<i64>,
    /// CloudEvents `datacontenttype`.
    pub data_content_type: Option<String>,
    /// CloudEvents `dataschema`.
    pub data_schema: Option<String>,
    /// CloudEvents extension attributes, by name.
    pub extensions: Vec<(String, String)>,
    /// Events of one tenant with one key belong together.
    pub ordering_key: Option<String>,
    /// The payload.
    pub data: Bytes,
    /// The W3C trace context (`traceparent`) that it is published in; of a delivery, that it was published in. It is no
    /// attribute of the event: who publishes one anew from a delivery carries the trace on by keeping it.
    pub traceparent: Option<String>,
}

impl Event {
    /// An event without a payload, from its publisher's own source, which the bus fills in.
    pub fn new(tenant: impl Into<String>, event_type: impl Into<String>, id: impl Into<String>) -> Self {
        Self {
            tenant: tenant.into(),
            event_type: event_type.into(),
            id: id.into(),
            ..Self::default()
        }
    }

    /// With a payload.
    #[must_use]
    pub fn data(mut self, data: impl Into<Bytes>) -> Self {
        self.data = data.into();
        self
    }

    /// With a payload of a media type.
    #[must_use]
    pub fn typed_data(mut self, content_type: impl Into<String>, data: impl Into<Bytes>) -> Self {
        self.data_content_type = Some(content_type.into());
        self.data(data)
    }

    /// From a source. One source's id is one event: publishers of a tenant that share a source share its ids.
    #[must_use]
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.source = source.into();
        self
    }

    /// With a key that it is ordered by.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>) -> Self {
        self.ordering_key = Some(key.into());
        self
    }

    /// In a W3C trace context, as a `traceparent` header has it.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// Bytes on the wire, counted generously.
    pub(crate) fn size(&self) -> usize {
        let optional = [
            &self.subject,
            &self.data_content_type,
            &self.data_schema,
            &self.ordering_key,
        ];
        let fixed = self.tenant.len() + self.event_type.len() + self.id.len() + self.source.len() + 64;
        let optional: usize = optional.iter().filter_map(|o| o.as_ref()).map(String::len).sum();
        let extensions: usize = self.extensions.iter().map(|(n, v)| n.len() + v.len() + 8).sum();
        fixed + optional + extensions + self.data.len()
    }
}

/// Where an event stands in the bus's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition of the log, from 0.
    pub partition: u32,
    /// The place within it, from 1.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

/// Proof that an event is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// Where; for a duplicate, where the first copy is.
    pub position: Position,
    /// This tenant, source and id were stored before: nothing was added.
    pub duplicate: bool,
    /// How many durable subscriptions it matches now.
    pub durable_subscriptions: u32,
}

/// Proof that an event is kept and will be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Scheduled {
    /// When, nanoseconds since 1970-01-01T00:00:00Z.
    pub due: i64,
    /// This tenant, source and id was to be published later before: nothing changed, `due` is what was said then.
    pub duplicate: bool,
}

impl From<&Event> for wit::Event {
    fn from(e: &Event) -> Self {
        Self {
            tenant: e.tenant.clone(),
            event_type: e.event_type.clone(),
            id: e.id.clone(),
            source: e.source.clone(),
            subject: e.subject.clone(),
            time: e.time,
            data_content_type: e.data_content_type.clone(),
            data_schema: e.data_schema.clone(),
            extensions: e
                .extensions
                .iter()
                .map(|(name, value)| wit::Attribute {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
            ordering_key: e.ordering_key.clone(),
            data: e.data.clone(),
        }
    }
}

impl From<wit::Event> for Event {
    fn from(e: wit::Event) -> Self {
        Self {
            tenant: e.tenant,
            event_type: e.event_type,
            id: e.id,
            source: e.source,
            subject: e.subject,
            time: e.time,
            data_content_type: e.data_content_type,
            data_schema: e.data_schema,
            extensions: e.extensions.into_iter().map(|a| (a.name, a.value)).collect(),
            ordering_key: e.ordering_key,
            data: e.data,
            traceparent: None,
        }
    }
}

impl From<wit::Position> for Position {
    fn from(p: wit::Position) -> Self {
        Self {
            partition: p.partition,
            offset: p.offset,
        }
    }
}

impl From<wit::Receipt> for Receipt {
    fn from(r: wit::Receipt) -> Self {
        Self {
            position: r.position.into(),
            duplicate: r.duplicate,
            durable_subscriptions: r.durable_subscriptions,
        }
    }
}
