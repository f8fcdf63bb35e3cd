//! A verified webhook as events.

use std::cell::OnceCell;

use http::HeaderMap;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use webhook_signature::{Coverage, Item, Proven, Verified};

use crate::{
    document::{Format, Node, Unreadable},
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

/// The longest id that the contract allows.
const MAX_ID: usize = 256;

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
    tree: OnceCell<Result<Node, Unreadable>>,
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
            format: source.format,
            tree: OnceCell::new(),
        }
    }

    fn events(&self, now: i64) -> Result<Vec<Event>, Refusal> {
        let evidence = provenance::evidence(self.source, self.webhook.headers);
        // Whether or not anything is read in it here, a consumer will read it, and must see what another one sees.
        if let Err(error) = self.read()
            && error.is_ambiguous()
        {
            return Err(malformed(error));
        }
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
        let parts = found.into_iter().enumerate().map(|(index, (pointer, node))| {
            let bytes = &self.payload[node.span.clone()];
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
        let found = self.find(Joint::Tenant, &source.tenant, part)?;
        let Some(tenant) = source.tenant_of(&found.text).map(str::to_owned) else {
            return Err(Refusal::TenantNotAllowed {
                name: source.name.clone(),
                tenant: found.text,
                signed: !found.unsigned,
            });
        };
        let event_type = self.find(Joint::Type, &source.event_type, part)?;
        let mut id = self.find(Joint::Id, &source.event_id, part)?;
        if id.text.len() > MAX_ID {
            // No reason to lose the event: its repeat makes the same.
            id.text = self.made_id(id.text.as_bytes());
        }
        for (joint, text, place) in [
            (Joint::Tenant, &tenant, &source.tenant),
            (Joint::Type, &event_type.text, &source.event_type),
            (Joint::Id, &id.text, &source.event_id),
        ] {
            if !rule::is_text(text) {
                return Err(Refusal::Illegal {
                    what: joint.what(),
                    place: place.clone(),
                    part: part.pointer.clone(),
                    rule: "a text without control characters",
                });
            }
        }
        let time = self.time(part);
        let decided = [
            (TENANT, found.unsigned),
            (TYPE, event_type.unsigned),
            (ID, id.unsigned),
            (TIME, time.is_some_and(|time| time.unsigned)),
        ];
        let unsigned = decided
            .into_iter()
            .filter(|(_, unsigned)| *unsigned)
            .map(|(part, _)| part);
        let provenance = Provenance {
            scheme: source.scheme(),
            key: self.key(part),
            verified_at: now,
            signed_at: self.verified.timestamp,
            covers: source.scheme().coverage(),
            part: part.pointer.clone(),
            unsigned: unsigned.map(str::to_owned).collect(),
            evidence,
        };
        let extensions = provenance.attributes().map_err(|_| Refusal::EvidenceTooLarge {
            limit: provenance::MAX_EVIDENCE,
        })?;
        let (format, data) = self.data(part);
        Ok(Event {
            tenant,
            event_type: event_type.text,
            id: id.text,
            source: source.event_source(),
            time: time.map(|time| time.nanoseconds),
            data_content_type: format.map(Format::media_type),
            extensions,
            data,
        })
    }

    /// The raw body where it is to be checked again; otherwise what the event is about. Nothing in the request says what it is
    /// written in: a body that can't be read as what it should be is of no known type.
    fn data(&self, part: &Part<'_>) -> (Option<Format>, Vec<u8>) {
        let readable = self.read().is_ok().then_some(self.format);
        if self.source.evidence == Evidence::Keep {
            let form = self.source.scheme().coverage() == Coverage::Payload;
            let format = if form { Some(Format::Form) } else { readable };
            (format, self.webhook.body.to_vec())
        } else {
            (readable, part.bytes.to_vec())
        }
    }

    /// What is at the first alternative all of whose places are there.
    fn find(&self, joint: Joint, places: &Places, part: &Part<'_>) -> Result<Found, Refusal> {
        let may_join = places.may_join();
        for joined in places.alternatives() {
            let texts = joined.iter().map(|place| self.text(place, part));
            let texts = texts.collect::<Result<Option<Vec<_>>, _>>()?;
            if let Some(texts) = texts.filter(|texts| texts.iter().all(|text| !text.is_empty())) {
                return Ok(Found {
                    text: joint.join(&texts, may_join),
                    unsigned: joined.iter().any(|place| self.source.is_unsigned(place)),
                });
            }
        }
        Err(Refusal::NotFound {
            what: joint.what(),
            place: places.clone(),
            part: part.pointer.clone(),
        })
    }

    fn text(&self, place: &Place, part: &Part<'_>) -> Result<Option<String>, Refusal> {
        Ok(match place {
            Place::Path => self.webhook.path_tenant.map(str::to_owned),
            Place::Constant(value) => Some(value.clone()),
            Place::Digest => Some(self.made_id(part.bytes)),
            Place::SignedId => self.verified.id.map(str::to_owned),
            Place::Key => Some(self.key(part)),
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
            Place::Pointer(pointer) => text_at(self.tree()?, &format!("{}{pointer}", part.pointer)),
            Place::Root(pointer) => text_at(self.tree()?, pointer),
        })
    }

    /// An id that is made here, and not by the sender: two sources make two of the same bytes.
    fn made_id(&self, bytes: &[u8]) -> String {
        format!("{}:{}", self.source.name, hex::encode(Sha256::digest(bytes)))
    }

    /// The name of the key that made the signature.
    fn key(&self, part: &Part<'_>) -> String {
        self.source
            .key_name(part.item.map_or(self.verified.key, |item| item.key))
    }

    fn read(&self) -> Result<&Node, &Unreadable> {
        self.tree.get_or_init(|| self.format.read(self.payload)).as_ref()
    }

    fn tree(&self) -> Result<&Node, Refusal> {
        self.read().map_err(malformed)
    }

    /// The time that the webhook gives. One without it has none: the event is no worse.
    fn time(&self, part: &Part<'_>) -> Option<Time> {
        let places = self.source.event_time.as_ref()?;
        // A time has one place in each alternative.
        let found = self.find(Joint::Time, places, part).ok()?;
        Some(Time {
            nanoseconds: nanoseconds(&found.text)?,
            unsigned: found.unsigned,
        })
    }
}

/// A part of an event that was found.
struct Found {
    text: String,
    /// Whether somebody could have chosen it who holds no key.
    unsigned: bool,
}

#[derive(Clone, Copy)]
struct Time {
    nanoseconds: i64,
    unsigned: bool,
}

const TENANT: &str = "tenant";
const TYPE: &str = "event-type";
const ID: &str = "event-id";
const TIME: &str = "event-time";

/// How the texts of several places are made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joint {
    Tenant,
    Type,
    Id,
    Time,
}

impl Joint {
    fn what(self) -> &'static str {
        match self {
            Self::Tenant => TENANT,
            Self::Type => TYPE,
            Self::Id => ID,
            Self::Time => TIME,
        }
    }

    /// Joins texts. Two different lists never make one tenant, nor one id: what separates them is escaped in them, also in a list
    /// of one where another alternative may be a joined one (`may_join`). Elsewhere all lists are of one, and stay as they are.
    pub(crate) fn join(self, texts: &[String], may_join: bool) -> String {
        let separator = if self == Self::Id { "/" } else { "." };
        if !may_join {
            return texts.concat();
        }
        let escaped = |text: &String| match self {
            Self::Tenant => text.replace('%', "%25").replace('.', "%2E"),
            Self::Id => text.replace('%', "%25").replace('/', "%2F"),
            Self::Type | Self::Time => text.clone(),
        };
        texts.iter().map(escaped).collect::<Vec<_>>().join(separator)
    }
}

fn malformed(error: &Unreadable) -> Refusal {
    Refusal::Malformed {
        error: error.to_string(),
    }
}

fn text_at(tree: &Node, pointer: &str) -> Option<String> {
    tree.pointer(pointer).and_then(Node::text).map(str::to_owned)
}

/// A time in RFC 3339, or a number since 1970: of seconds, or of milliseconds or microseconds where as many seconds were
/// thousands of years.
fn nanoseconds(text: &str) -> Option<i64> {
    const YEAR_5138_S: u64 = 100_000_000_000;
    if let Ok(number) = text.parse::<i64>() {
        let factor = match number.unsigned_abs() {
            0..YEAR_5138_S => 1_000_000_000,
            number if number < YEAR_5138_S * 1_000 => 1_000_000,
            number if number < YEAR_5138_S * 1_000_000 => 1_000,
            _ => return None,
        };
        return number.checked_mul(factor);
    }
    i64::try_from(text.parse::<Timestamp>().ok()?.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests;
