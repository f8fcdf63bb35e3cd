//! How an event says by what it was verified: CloudEvents extension attributes.
//!
//! | attribute | value |
//! |---|---|
//! | `webhookscheme` | the signature scheme, such as `stripe` |
//! | `webhookkey` | the key that matched: its configured name, or its place from 0 |
//! | `webhookverified` | when the ingress verified it, RFC 3339 |
//! | `webhooksigned` | when the sender signed it, where the signature covers a time |
//! | `webhookcovers` | what the signature proved: `body`, its `checksum`, `payload`, `fields` of an item, or only the `sender` |
//! | `webhookunsigned` | which of `tenant`, `event-type`, `event-id` and `event-time` come from where nothing is signed; absent if none |
//! | `webhookpart` | which part of the raw body the event is, as a JSON pointer; absent if it is the whole |
//! | `webhookevidence1`, … | with `evidence: keep`, the headers that were signed, as JSON cut into pieces |
//!
//! An attribute is what its publisher says. Only the bus's link decides who may publish, and only the evidence, checked
//! again by [`crate::recheck`], proves it to a consumer.

use std::fmt;

use http::HeaderMap;
use jiff::Timestamp;
use webhook_signature::{Coverage, Scheme};

use crate::source::{Evidence, Source};

/// What verified an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// The scheme.
    pub scheme: Scheme,
    /// The key that matched: its configured name, or its place from 0.
    pub key: String,
    /// When it was verified, in seconds since 1970.
    pub verified_at: i64,
    /// When it was signed, in seconds since 1970.
    pub signed_at: Option<i64>,
    /// What the signature proved.
    pub covers: Coverage,
    /// Which part of the raw body the event is, as a JSON pointer; empty if it is the whole.
    pub part: String,
    /// Which parts of the event somebody could have chosen who holds no key: `tenant`, `event-type`, `event-id` and
    /// `event-time`, where they come from the request's path or an unsigned header.
    pub unsigned: Vec<String>,
    /// The headers that were signed; nothing if they were not kept.
    pub evidence: Option<Headers>,
}

/// Names and values.
pub type Headers = Vec<(String, String)>;

const SCHEME: &str = "webhookscheme";
const KEY: &str = "webhookkey";
const VERIFIED: &str = "webhookverified";
const SIGNED: &str = "webhooksigned";
const COVERS: &str = "webhookcovers";
const PART: &str = "webhookpart";
const UNSIGNED: &str = "webhookunsigned";
const EVIDENCE: &str = "webhookevidence";

/// The longest value of an attribute.
const MAX_VALUE: usize = 1_024;
/// The most pieces of evidence: with the other attributes they stay below the 32 that an event may have.
const MAX_PIECES: usize = 20;
/// The longest evidence.
pub(crate) const MAX_EVIDENCE: usize = MAX_VALUE * MAX_PIECES;

/// Why an event has no provenance that could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoProvenance {
    /// An attribute is absent.
    #[error("the event has no attribute {0}")]
    Missing(&'static str),
    /// An attribute makes no sense.
    #[error("the event's attribute {0} makes no sense")]
    Senseless(&'static str),
}

impl Provenance {
    /// The attributes that say it.
    pub(crate) fn attributes(&self) -> Result<Vec<(String, String)>, TooLarge> {
        let mut attributes = vec![
            (SCHEME.to_owned(), self.scheme.name().to_owned()),
            (KEY.to_owned(), self.key.clone()),
            (VERIFIED.to_owned(), rfc3339(self.verified_at)),
            (COVERS.to_owned(), covers_name(self.covers).to_owned()),
        ];
        attributes.extend(self.signed_at.map(|time| (SIGNED.to_owned(), rfc3339(time))));
        if !self.part.is_empty() {
            attributes.push((PART.to_owned(), self.part.clone()));
        }
        if !self.unsigned.is_empty() {
            attributes.push((UNSIGNED.to_owned(), self.unsigned.join(" ")));
        }
        if let Some(headers) = &self.evidence {
            let text = ascii_json(headers);
            if text.len() > MAX_EVIDENCE {
                return Err(TooLarge);
            }
            for (index, piece) in text.as_bytes().chunks(MAX_VALUE).enumerate() {
                let piece = String::from_utf8_lossy(piece).into_owned();
                attributes.push((format!("{EVIDENCE}{}", index + 1), piece));
            }
        }
        Ok(attributes)
    }

    /// Reads what an event's attributes say, without believing it: [`crate::recheck`] does not have to.
    pub fn of(attributes: &[(&str, &str)]) -> Result<Self, NoProvenance> {
        let find = |name: &str| {
            attributes
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| *value)
        };
        let required = |name| find(name).ok_or(NoProvenance::Missing(name));
        let time = |name, text: &str| parse_rfc3339(text).ok_or(NoProvenance::Senseless(name));
        Ok(Self {
            scheme: required(SCHEME)?.parse().map_err(|_| NoProvenance::Senseless(SCHEME))?,
            key: required(KEY)?.to_owned(),
            verified_at: time(VERIFIED, required(VERIFIED)?)?,
            signed_at: find(SIGNED).map(|text| time(SIGNED, text)).transpose()?,
            covers: parse_covers(required(COVERS)?).ok_or(NoProvenance::Senseless(COVERS))?,
            part: find(PART).unwrap_or_default().to_owned(),
            unsigned: find(UNSIGNED)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            evidence: read_evidence(find)?,
        })
    }
}

/// The evidence is more than an event can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

/// The headers that have to be kept, so that the source's signatures can be checked and its events be told again.
pub(crate) fn evidence(source: &Source, headers: &HeaderMap) -> Option<Headers> {
    if source.evidence == Evidence::None {
        return None;
    }
    let mut wanted: Vec<_> = source.scheme().signed_headers().to_vec();
    let places = [Some(&source.tenant), Some(&source.event_type), Some(&source.event_id)];
    let named = places.into_iter().flatten().flat_map(|places| places.headers());
    wanted.extend(named.map(|name| name.as_str()));
    wanted.sort_unstable();
    wanted.dedup();
    let mut kept = Vec::new();
    for name in wanted {
        for value in headers.get_all(name) {
            kept.push((name.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        }
    }
    Some(kept)
}

fn read_evidence<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Headers>, NoProvenance> {
    let mut text = String::new();
    for index in 1..=MAX_PIECES {
        match find(&format!("{EVIDENCE}{index}")) {
            Some(piece) => text.push_str(piece),
            None => break,
        }
    }
    if text.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|_| NoProvenance::Senseless(EVIDENCE))
}

/// JSON in visible ASCII, which can be cut anywhere.
fn ascii_json(headers: &Headers) -> String {
    // Pairs of strings always serialise.
    let json = serde_json::to_string(headers).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for unit in json.chars() {
        if unit.is_ascii() && !unit.is_ascii_control() {
            text.push(unit);
        } else {
            for half in unit.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{half:04x}"));
            }
        }
    }
    text
}

fn covers_name(coverage: Coverage) -> &'static str {
    match coverage {
        Coverage::Body => "body",
        Coverage::Checksum => "checksum",
        Coverage::Payload => "payload",
        Coverage::Items => "fields",
        _ => "sender",
    }
}

fn parse_covers(text: &str) -> Option<Coverage> {
    let all = [
        Coverage::Body,
        Coverage::Checksum,
        Coverage::Payload,
        Coverage::Items,
        Coverage::Sender,
    ];
    all.into_iter().find(|coverage| covers_name(*coverage) == text)
}

fn rfc3339(seconds: i64) -> String {
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_string()
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().ok()?.as_second())
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {}, {}", self.scheme, self.key, rfc3339(self.verified_at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn provenance(evidence: Option<Headers>) -> Provenance {
        Provenance {
            scheme: Scheme::Stripe,
            key: "2026-11".to_owned(),
            verified_at: 1_767_225_600,
            signed_at: Some(1_767_225_599),
            covers: Coverage::Body,
            part: String::new(),
            unsigned: vec!["tenant".to_owned(), "event-id".to_owned()],
            evidence,
        }
    }

    fn read(attributes: &[(String, String)]) -> Result<Provenance, NoProvenance> {
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Provenance::of(&attributes)
    }

    #[test]
    fn it_is_said_in_attributes() {
        let headers = vec![("stripe-signature".to_owned(), "t=1,v1=00".to_owned())];
        let attributes = provenance(Some(headers)).attributes().unwrap();
        let said: Vec<_> = attributes
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            said,
            [
                "webhookscheme=stripe",
                "webhookkey=2026-11",
                "webhookverified=2026-01-01T00:00:00Z",
                "webhookcovers=body",
                "webhooksigned=2025-12-31T23:59:59Z",
                "webhookunsigned=tenant event-id",
                r#"webhookevidence1=[["stripe-signature","t=1,v1=00"]]"#,
            ]
        );
    }

    #[test]
    fn what_is_missing_or_senseless_is_named() {
        let whole = provenance(Some(vec![("a".to_owned(), "b".to_owned())]))
            .attributes()
            .unwrap();
        for (index, (name, _)) in whole.iter().enumerate() {
            let mut less = whole.clone();
            less.remove(index);
            let optional = [SIGNED, UNSIGNED].contains(&name.as_str()) || name.starts_with(EVIDENCE);
            assert_eq!(read(&less).is_ok(), optional, "{name}");
            let mut other = whole.clone();
            other[index].1 = "\u{1}".to_owned();
            let any_text = [KEY, UNSIGNED].contains(&name.as_str());
            assert_eq!(read(&other).is_ok(), any_text, "{name}");
        }
        assert_eq!(Provenance::of(&[]), Err(NoProvenance::Missing(SCHEME)));
    }

    #[test]
    fn what_is_too_large_is_said() {
        let headers = |length| Some(vec![("a".to_owned(), "b".repeat(length))]);
        let attributes = provenance(headers(MAX_EVIDENCE - 11)).attributes();
        assert!(attributes.is_ok_and(|attributes| attributes.len() <= 32));
        assert_eq!(provenance(headers(MAX_EVIDENCE)).attributes(), Err(TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_said_is_read(headers in prop::collection::vec(("[a-z-]{1,20}", ".{0,600}"), 0..5)) {
            let whole = provenance(Some(headers.clone()));
            let attributes = whole.attributes().unwrap();
            for (name, value) in &attributes {
                prop_assert!((1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{name}");
                prop_assert!(value.len() <= MAX_VALUE && !value.chars().any(char::is_control));
            }
            prop_assert_eq!(read(&attributes), Ok(whole));
        }
    }
}
