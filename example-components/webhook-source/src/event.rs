//! A verified webhook as events.

use std::cell::OnceCell;

use http::HeaderMap;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use webhook_signature::{Item, Proven, Scheme, Verified};

use crate::{
    document::Format,
    items::{Items, NoItems},
    place::{Place, Places},
    provenance::{self, Headers, Provenance},
    refusal::Refusal,
    rule,
    source::{Evidence, Source},
};

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
    /// What the data is.
    pub data_content_type: Option<&'static str>,
    /// By what it was verified.
    pub extensions: Vec<(String, String)>,
    /// The raw body, or the item, or the payload that the body held.
    pub data: Vec<u8>,
}

/// A webhook as it came.
#[derive(Clone, Copy, Debug)]
pub struct Webhook<'a> {
    /// The tenant that its path names, if it names one.
    pub path_tenant: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body, byte for byte.
    pub body: &'a [u8],
}

/// Where the items are that are signed one by one: Adyen's.
const SIGNED_ITEMS: &str = "/notificationItems/*/NotificationRequestItem";

/// The most that the events of one webhook may hold together. With `evidence: keep` each of them holds the whole body.
const MAX_TOTAL: usize = 32 << 20;

impl Source {
    /// Verifies a webhook and makes its events: all of them, or says why there are none. `now` is in seconds since 1970.
    pub fn events(&self, webhook: Webhook<'_>, now: i64) -> Result<Vec<Event>, Refusal> {
        let headers: Vec<_> = webhook
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let request = webhook_signature::Request::new(&headers, webhook.body);
        let verified =
            webhook_signature::verify(&self.keys, &request, now, self.tolerance).map_err(Refusal::Signature)?;
        // Only from here on is the body read as anything but bytes.
        Reader::new(self, webhook, &verified).events(now)
    }
}

/// A verified webhook, being read.
struct Reader<'a> {
    source: &'a Source,
    webhook: Webhook<'a>,
    verified: &'a Verified<'a>,
    /// What is proven, or at least known to come from the sender.
    payload: &'a [u8],
    format: Format,
    tree: OnceCell<Result<Value, String>>,
}

/// One event's part of the webhook.
struct Part<'a> {
    /// Where it is in the body; empty for the whole.
    pointer: String,
    /// Its bytes.
    bytes: &'a [u8],
    /// What its signature covers, if it has one of its own.
    item: Option<&'a Item<'a>>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source, webhook: Webhook<'a>, verified: &'a Verified<'a>) -> Self {
        Self {
            source,
            webhook,
            verified,
            payload: verified.proven.bytes().unwrap_or(webhook.body),
            format: match verified.proven {
                Proven::Payload(_) => Format::Xml,
                Proven::Items(_) => Format::Json,
                _ => declared_format(source, webhook.headers).unwrap_or(Format::Json),
            },
            tree: OnceCell::new(),
        }
    }

    fn events(&self, now: i64) -> Result<Vec<Event>, Refusal> {
        let evidence = provenance::evidence(self.source, self.webhook.headers);
        let parts = self.parts()?;
        let mut total = 0_usize;
        let mut events = Vec::with_capacity(parts.len());
        for part in &parts {
            let event = self.event(part, evidence.clone(), now)?;
            total += event.data.len();
            if total > MAX_TOTAL {
                return Err(Refusal::EvidenceTooLarge { limit: MAX_TOTAL });
            }
            events.push(event);
        }
        Ok(events)
    }

    fn parts(&self) -> Result<Vec<Part<'a>>, Refusal> {
        // The signature says where its items are; their bytes are found by the same rule as those of any others.
        let signed = match &self.verified.proven {
            Proven::Items(items) => Some(items),
            _ => None,
        };
        let items = match (signed, &self.source.items) {
            (Some(_), _) => SIGNED_ITEMS.parse::<Items>().ok(),
            (None, items) => items.clone(),
        };
        let Some(items) = items else {
            return Ok(vec![Part {
                pointer: String::new(),
                bytes: self.payload,
                item: None,
            }]);
        };
        let no_items = |index| Refusal::NoItems {
            items: items.to_string(),
            index,
        };
        let found = items.of(self.tree()?).map_err(|error| match error {
            NoItems::NoList => no_items(None),
            NoItems::NotThere(index) => no_items(Some(index)),
            NoItems::TooMany(count) => Refusal::TooManyItems { count },
        })?;
        let bytes = items.raw(self.payload).filter(|bytes| bytes.len() == found.len());
        let bytes = bytes.ok_or_else(|| no_items(None))?;
        let parts = found
            .into_iter()
            .zip(bytes)
            .enumerate()
            .map(|(index, ((pointer, _), bytes))| {
                let item = signed.map(|items| items.get(index).filter(|item| item.pointer == pointer));
                match item {
                    // Every item is signed, or none is accepted.
                    Some(None) => Err(no_items(None)),
                    item => Ok(Part {
                        pointer,
                        bytes,
                        item: item.flatten(),
                    }),
                }
            });
        parts.collect()
    }

    fn event(&self, part: &Part<'_>, evidence: Option<Headers>, now: i64) -> Result<Event, Refusal> {
        let source = self.source;
        let found = self.find("tenant", &source.tenant, part, ".")?;
        let tenant = match source.tenant_of(&found) {
            Some(tenant) => tenant.to_owned(),
            None => {
                return Err(Refusal::TenantNotAllowed {
                    name: source.name.clone(),
                    tenant: found,
                });
            }
        };
        let illegal = |what, place: &Places, rule| Refusal::Illegal {
            what,
            place: place.clone(),
            part: part.pointer.clone(),
            rule,
        };
        if !rule::is_tenant(&tenant) {
            let rule = "1 to 64 characters out of A-Z a-z 0-9 _ -; `tenants` can map it: FOUND=TENANT";
            return Err(illegal("tenant", &source.tenant, rule));
        }
        // Shopify's topics have slashes: orders/create.
        let event_type = self
            .find("event-type", &source.event_type, part, ".")?
            .replace('/', ".");
        if !rule::is_event_type(&event_type) {
            let rule = "1 to 8 segments of A-Z a-z 0-9 _ - joined by dots, at most 128 characters";
            return Err(illegal("event-type", &source.event_type, rule));
        }
        let id = self.find("event-id", &source.event_id, part, "/")?;
        if !rule::is_event_id(&id) {
            let rule = "1 to 256 bytes without control characters";
            return Err(illegal("event-id", &source.event_id, rule));
        }
        let provenance = Provenance {
            scheme: source.scheme(),
            key: source.key_name(part.item.map_or(self.verified.key, |item| item.key)),
            verified_at: now,
            signed_at: self.verified.timestamp,
            covers: source.scheme().coverage(),
            part: part.pointer.clone(),
            evidence,
        };
        let extensions = provenance.attributes().map_err(|_| Refusal::EvidenceTooLarge {
            limit: provenance::MAX_EVIDENCE,
        })?;
        let (format, data) = self.data(part);
        Ok(Event {
            tenant,
            event_type,
            id,
            source: format!("/webhooks/{}", source.name),
            time: self.time(part),
            data_content_type: format.map(Format::media_type),
            extensions,
            data,
        })
    }

    /// The raw body where it is to be checked again; otherwise what the event is about.
    fn data(&self, part: &Part<'_>) -> (Option<Format>, Vec<u8>) {
        if self.source.evidence == Evidence::Keep {
            let format = declared_format(self.source, self.webhook.headers);
            (format, self.webhook.body.to_vec())
        } else if part.pointer.is_empty() {
            (self.whole_format(), part.bytes.to_vec())
        } else {
            (Some(Format::Json), part.bytes.to_vec())
        }
    }

    fn whole_format(&self) -> Option<Format> {
        match self.verified.proven {
            Proven::Payload(_) => Some(self.format),
            _ => declared_format(self.source, self.webhook.headers),
        }
    }

    fn find(&self, what: &'static str, places: &Places, part: &Part<'_>, separator: &str) -> Result<String, Refusal> {
        let mut joined = String::new();
        for (index, place) in places.iter().enumerate() {
            let text = self.text(place, part)?.filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| Refusal::NotFound {
                what,
                place: places.clone(),
                part: part.pointer.clone(),
            })?;
            if index > 0 {
                joined.push_str(separator);
            }
            joined.push_str(&text);
        }
        Ok(joined)
    }

    fn text(&self, place: &Place, part: &Part<'_>) -> Result<Option<String>, Refusal> {
        Ok(match place {
            Place::Path => self.webhook.path_tenant.map(str::to_owned),
            Place::Constant(value) => Some(value.clone()),
            Place::Digest => Some(hex::encode(Sha256::digest(part.bytes))),
            Place::Header(name) => {
                let mut values = self.webhook.headers.get_all(name).iter();
                // Of two, which would be the right one?
                match (values.next(), values.next()) {
                    (Some(value), None) => value.to_str().ok().map(str::to_owned),
                    _ => None,
                }
            }
            // Of a signed item only what its signature covers.
            Place::Pointer(pointer) if part.item.is_some() => {
                part.item.and_then(|item| item.get(pointer)).map(str::to_owned)
            }
            Place::Pointer(pointer) => scalar(self.tree()?.pointer(&format!("{}{pointer}", part.pointer))),
            Place::Root(pointer) => scalar(self.tree()?.pointer(pointer)),
        })
    }

    fn tree(&self) -> Result<&Value, Refusal> {
        self.tree
            .get_or_init(|| self.format.read(self.payload))
            .as_ref()
            .map_err(|error| Refusal::Malformed { error: error.clone() })
    }

    /// The time that the webhook gives, in seconds or in RFC 3339. One without it has none: the event is no worse.
    fn time(&self, part: &Part<'_>) -> Option<i64> {
        let place = self.source.event_time.as_ref()?.iter().next()?;
        let text = self.text(place, part).ok()??;
        if let Ok(seconds) = text.parse::<i64>() {
            return seconds.checked_mul(1_000_000_000);
        }
        let time = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
        i64::try_from(time.unix_timestamp_nanos()).ok()
    }
}

/// A text, or a whole number in its digits; anything else is no name for anything.
fn scalar(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// What the sender says that the body is. GitHub lets its users choose, all others send JSON unless they say otherwise.
fn declared_format(source: &Source, headers: &HeaderMap) -> Option<Format> {
    let declared = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let known = declared.and_then(Format::of);
    if source.scheme() == Scheme::Github {
        known
    } else {
        Some(known.unwrap_or(Format::Json))
    }
}

#[cfg(test)]
mod tests;
