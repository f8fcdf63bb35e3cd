//! Who published an event and by which proof, as the bus writes it beside the event: a line of a few words, and a tag that
//! nobody makes who lacks the secret that a bus's instances share. The tag is of the line and of the whole event, so that the line
//! of one event says nothing of another.
//!
//! Deliberately absent: the secret, and how a tag is made of it.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde::Serialize;

use crate::Attributes;
use crate::authority::{self, Identity};

/// The header of an event's message in which it stands.
pub const HEADER: &str = "fanout-publisher";

/// The most bytes of one word of the line. A longer name is cut.
const MAX_WORD: usize = 128;
/// The most bytes that the header takes, its name and what separates it included.
pub const MAX_BYTES: usize = 352;
/// What a name ends with that was cut.
const CUT: &str = "...";
/// The longest line that is read, its tag included. None that is written is as long.
const MAX_LINE: usize = 1 << 10;

/// What is escaped in a word. What is printable otherwise stays, for whoever reads the message with a client of NATS.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"').add(b'=');

/// By what a publisher was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// It is on the lattice, whose NATS account is all that is proved of it: component and link are what it says.
    Lattice,
    /// A URI of a client certificate.
    CertificateUri,
    /// A DNS name of one.
    CertificateDns,
    /// A common name of one.
    CertificateCn,
    /// A user of the machine.
    UnixUser,
    /// A process of the machine, on a listener that authenticates nobody.
    Loopback,
    /// A token, over HTTP.
    Token,
}

impl Proof {
    const ALL: [Self; 7] = [
        Self::Lattice,
        Self::CertificateUri,
        Self::CertificateDns,
        Self::CertificateCn,
        Self::UnixUser,
        Self::Loopback,
        Self::Token,
    ];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lattice => "lattice",
            Self::CertificateUri => "certificate-uri",
            Self::CertificateDns => "certificate-dns",
            Self::CertificateCn => "certificate-cn",
            Self::UnixUser => "unix-user",
            Self::Loopback => "loopback",
            Self::Token => "token",
        }
    }
}

/// Who published an event, by the name under which the bus judged its rights, and by which proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Publisher {
    /// A component's id, or `caller:NAME` of the policy's `callers`.
    pub by: String,
    /// The component's link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// By what it was known.
    pub proof: Proof,
    /// What was proved: a name of its certificate, a user's number, or how its token's SHA-256 begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Publisher {
    /// A component, by its link.
    #[must_use]
    pub fn component(id: &str, link: &str) -> Self {
        Self {
            by: shortened(id),
            link: Some(shortened(link)),
            proof: Proof::Lattice,
            name: None,
        }
    }

    /// A caller that is not on the lattice, by what its connection or its token proves.
    #[must_use]
    pub fn caller(id: &str, identity: &Identity) -> Self {
        let (proof, name) = match identity {
            Identity::CertificateUri(uri) => (Proof::CertificateUri, Some(shortened(uri))),
            Identity::CertificateDns(name) => (Proof::CertificateDns, Some(shortened(name))),
            Identity::CertificateCommonName(name) => (Proof::CertificateCn, Some(shortened(name))),
            Identity::UnixUser(uid) => (Proof::UnixUser, Some(uid.to_string())),
            Identity::Loopback => (Proof::Loopback, None),
            Identity::Token(hash) => (Proof::Token, Some(hash.to_string())),
        };
        Self {
            by: shortened(id),
            link: None,
            proof,
            name,
        }
    }

    /// The line, without a tag.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!("by={}", escaped(&self.by));
        for (word, value) in [("link", &self.link), ("name", &self.name)] {
            if let Some(value) = value {
                line.push_str(&format!(" {word}={}", escaped(value)));
            }
        }
        line.push_str(" proof=");
        line.push_str(self.proof.as_str());
        line
    }

    /// What a line without its tag says; `None` if this is no such line.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (mut by, mut link, mut name, mut proof) = (None, None, None, None);
        for word in line.split(' ') {
            let (word, value) = word.split_once('=')?;
            let value = percent_decode_str(value).decode_utf8().ok()?.into_owned();
            let place = match word {
                "by" => &mut by,
                "link" => &mut link,
                "name" => &mut name,
                "proof" => &mut proof,
                _ => return None,
            };
            *place = Some(value);
        }
        let proof = proof?;
        Some(Self {
            by: by?,
            link,
            name,
            proof: Proof::ALL.into_iter().find(|p| p.as_str() == proof)?,
        })
    }
}

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority::named(&self.by))?;
        if let Some(link) = &self.link {
            write!(f, " through link {link}")?;
        }
        let name = self.name.as_deref().unwrap_or_default();
        match self.proof {
            Proof::Lattice => f.write_str(", as it calls itself on the lattice"),
            Proof::CertificateUri => write!(f, ", by URI {name} of its certificate"),
            Proof::CertificateDns => write!(f, ", by DNS name {name} of its certificate"),
            Proof::CertificateCn => write!(f, ", by common name {name} of its certificate"),
            Proof::UnixUser => write!(f, ", by its user {name} on the bus's machine"),
            Proof::Loopback => f.write_str(", as a process of the bus's machine"),
            Proof::Token => write!(f, ", by the token whose SHA-256 begins with {name}"),
        }
    }
}

/// A line with its tag and the name of the key that this was made with, as it stands in the header.
#[must_use]
pub fn with_tag(line: &str, key: &str, tag: &str) -> String {
    format!("{line} key={key} tag={tag}")
}

/// A header's value, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stated<'a> {
    /// What it says.
    pub line: &'a str,
    /// With which key it was tagged.
    pub key: &'a str,
    /// What proves it.
    pub tag: &'a str,
}

impl<'a> Stated<'a> {
    /// Takes a header's value apart; `None` where it is none of the bus's form.
    #[must_use]
    pub fn split(value: &'a str) -> Option<Self> {
        let (rest, tag) = value.rsplit_once(" tag=")?;
        let (line, key) = rest.rsplit_once(" key=")?;
        (value.len() <= MAX_LINE).then_some(Self { line, key, tag })
    }
}

/// All that a tag is made of, piece by piece: the line, and everything that is the event.
pub fn tagged(line: &str, event: &Attributes, data: &[u8], mut feed: impl FnMut(&[u8])) {
    let raw = event.raw();
    let mut text = |text: Option<&str>| {
        // With its length before it, none becomes longer at another's cost; what is absent is not what is empty.
        feed(&text.map_or(u64::MAX, |text| text.len() as u64).to_be_bytes());
        feed(text.unwrap_or_default().as_bytes());
    };
    for attribute in [line, &raw.tenant, &raw.event_type, &raw.id, &raw.source] {
        text(Some(attribute));
    }
    for attribute in [
        &raw.subject,
        &raw.data_content_type,
        &raw.data_schema,
        &raw.ordering_key,
    ] {
        text(attribute.as_deref());
    }
    text(raw.time.map(|time| time.nanoseconds().to_string()).as_deref());
    // Headers have no order.
    let mut extensions: Vec<_> = raw.extensions.iter().collect();
    extensions.sort();
    text(Some(&extensions.len().to_string()));
    for (name, value) in extensions {
        text(Some(name));
        text(Some(value));
    }
    feed(data);
}

/// Who published an event, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PublishedBy {
    /// The bus took the event from it.
    Known(Publisher),
    /// Nothing stands beside the event.
    Unknown,
    /// What stands there is not the bus's word for this event.
    NotBelieved,
    /// What stands there can't be judged.
    Unverified {
        /// Why not.
        reason: String,
    },
}

impl fmt::Display for PublishedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(publisher) => publisher.fmt(f),
            Self::Unknown => f.write_str(
                "unknown: another client of NATS put it there, or a release before this was kept",
            ),
            Self::NotBelieved => f.write_str(
                "unknown: what stands beside the event is not this bus's word for it, so another client of NATS put it there",
            ),
            Self::Unverified { reason } => {
                write!(f, "unknown: what the bus wrote beside the event can't be verified: {reason}")
            }
        }
    }
}

fn escaped(value: &str) -> String {
    utf8_percent_encode(value, ESCAPED).to_string()
}

/// A name as far as a word has room for it, escaped.
fn shortened(name: &str) -> String {
    let whole = utf8_percent_encode(name, ESCAPED).map(str::len).sum::<usize>();
    if whole <= MAX_WORD {
        return name.to_owned();
    }
    let (mut kept, mut taken) = (String::new(), CUT.len());
    for c in name.chars() {
        taken += utf8_percent_encode(c.encode_utf8(&mut [0; 4]), ESCAPED)
            .map(str::len)
            .sum::<usize>();
        if taken > MAX_WORD {
            break;
        }
        kept.push(c);
    }
    kept + CUT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::TokenHash;
    use crate::{RawEvent, Timestamp};

    fn event() -> RawEvent {
        RawEvent {
            tenant: "acme".into(),
            event_type: "invoice.paid".into(),
            id: "evt_1".into(),
            source: "/s".into(),
            extensions: vec![("a".into(), "1".into()), ("b".into(), "2".into())],
            ..RawEvent::default()
        }
    }

    fn fed(line: &str, event: RawEvent, data: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let event = Attributes::try_from(event).unwrap();
        tagged(line, &event, data, |piece| all.extend_from_slice(piece));
        all
    }

    #[test]
    fn a_line_is_read_as_it_is_written() {
        let token = Identity::Token(TokenHash::new([0xab; 32]));
        for (publisher, line) in [
            (
                Publisher::component("web=hook %\"ingress", "default"),
                "by=web%3Dhook%20%25%22ingress link=default proof=lattice",
            ),
            (
                Publisher::caller(
                    "caller:billing",
                    &Identity::certificate_uri("spiffe://example.org/billing"),
                ),
                "by=caller:billing name=spiffe://example.org/billing proof=certificate-uri",
            ),
            (
                Publisher::caller("caller:b", &token),
                "by=caller:b name=abababab proof=token",
            ),
            (
                Publisher::caller("caller:b", &Identity::UnixUser(7)),
                "by=caller:b name=7 proof=unix-user",
            ),
            (
                Publisher::caller("caller:b", &Identity::Loopback),
                "by=caller:b proof=loopback",
            ),
        ] {
            assert_eq!(publisher.line(), line);
            assert_eq!(Publisher::read(line), Some(publisher));
            let value = with_tag(line, "k", "xyz");
            let (key, tag) = ("k", "xyz");
            assert_eq!(Stated::split(&value), Some(Stated { line, key, tag }));
        }
        for none in [
            "",
            "by=a",
            "proof=lattice",
            "by=a proof=trust",
            "by=a proof=lattice more=1",
            "by=a%FF proof=lattice",
        ] {
            assert_eq!(Publisher::read(none), None, "{none}");
        }
        for none in [
            "by=a proof=lattice",
            "by=a proof=lattice tag=x",
            "by=a proof=lattice key=x",
        ] {
            assert_eq!(Stated::split(none), None, "{none}");
        }
        assert_eq!(Stated::split(&format!("by={} key=k tag=x", "a".repeat(MAX_LINE))), None);
    }

    #[test]
    fn a_line_has_a_bound_whoever_published() {
        for long in ["a".repeat(9_000), "é".repeat(9_000), "%".repeat(9_000)] {
            for publisher in [
                Publisher::component(&long, &long),
                Publisher::caller(&long, &Identity::certificate_uri(&long)),
            ] {
                let line = publisher.line();
                let taken = HEADER.len() + with_tag(&line, &"k".repeat(8), &"t".repeat(22)).len() + ": \r\n".len();
                assert!(taken <= MAX_BYTES, "{taken} bytes");
                assert!(
                    publisher.by.ends_with(CUT) && publisher.by.len() > 30,
                    "{}",
                    publisher.by
                );
                assert_eq!(Publisher::read(&line), Some(publisher));
            }
        }
        let fits = "a".repeat(MAX_WORD);
        assert_eq!(Publisher::component(&fits, "default").by, fits);
    }

    #[test]
    fn a_tag_is_of_the_line_and_of_everything_that_is_the_event() {
        let one = fed("by=a proof=lattice", event(), b"{}");
        let mut turned = event();
        turned.extensions.reverse();
        assert_eq!(fed("by=a proof=lattice", turned, b"{}"), one, "headers have no order");
        let with = |change: fn(&mut RawEvent)| {
            let mut changed = event();
            change(&mut changed);
            fed("by=a proof=lattice", changed, b"{}")
        };
        let others = [
            fed("by=b proof=lattice", event(), b"{}"),
            fed("by=a proof=lattice", event(), b"{ }"),
            with(|e| e.tenant = "globex".into()),
            with(|e| e.event_type = "invoice.voided".into()),
            with(|e| e.id = "evt_2".into()),
            with(|e| e.source = "/t".into()),
            with(|e| e.subject = Some("in_1".into())),
            with(|e| e.data_content_type = Some("in_1".into())),
            with(|e| e.data_schema = Some("in_1".into())),
            with(|e| e.ordering_key = Some("in_1".into())),
            with(|e| e.time = Some(Timestamp::EPOCH)),
            with(|e| e.extensions[0].1 = "3".into()),
            with(|e| e.extensions[0].0 = "c".into()),
            with(|e| drop(e.extensions.pop())),
        ];
        for (i, other) in others.iter().enumerate() {
            assert!(
                *other != one && others.iter().filter(|o| *o == other).count() == 1,
                "{i}"
            );
        }
    }
}
