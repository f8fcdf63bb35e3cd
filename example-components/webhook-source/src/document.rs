//! What a webhook says, as one tree that JSON pointers reach into, whatever it was written in.
//!
//! JSON stays itself ([`crate::json`] has the rules). A form is an object of its fields. XML is an object of its root
//! element; an element with elements in it is an object of them (a list where a name comes more than once), any other is
//! its text. So `/notification/kind` is a place in Braintree's XML as `/type` is one in JSON.
//!
//! What a body is written in is the source's setting or its scheme's rule, never the request's `Content-Type`, which
//! nobody signed: the same signed bytes read as a form could say something else.
//!
//! Read only after the signature was verified. Still every step is bounded: what is signed can be broken too.

use std::{borrow::Cow, collections::BTreeMap, fmt, ops::Range, str::FromStr};

use percent_encoding::percent_decode;

use crate::json;

/// How a webhook is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
    /// XML.
    Xml,
}

/// Why a document can't be read. Holds none of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// It is not JSON.
    #[error("it is no JSON, from byte {at} on")]
    NoJson {
        /// The first byte that is none of it.
        at: usize,
    },
    /// An object of it has a key twice: two readers could see two values.
    #[error("a key comes twice in an object of its JSON, the second time at byte {at}")]
    KeyTwice {
        /// Where the second one begins.
        at: usize,
    },
    /// It is not XML.
    #[error("it is no XML")]
    NoXml,
    /// A form has a field twice.
    #[error("its form has a field twice")]
    FieldTwice,
    /// It is nested too deep.
    #[error("it is nested more than {max} deep")]
    TooDeep {
        /// The deepest nesting that is read.
        max: u32,
    },
    /// It has too many values, elements or fields.
    #[error("it has more than {max} values")]
    TooMany {
        /// The most that are read.
        max: u32,
    },
}

impl Unreadable {
    /// Whether two readers could see two things in it: it is then no event, whether or not anything is read in it here.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::KeyTwice { .. } | Self::FieldTwice)
    }
}

/// A value in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub(crate) kind: Kind,
    /// Where it stands in the document; empty but in JSON.
    pub(crate) span: Range<usize>,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A text, if its bytes are UTF-8; a string without a text, if they are not.
    Text(Box<[u8]>),
    /// The digits of a whole number.
    Whole(Box<[u8]>),
    /// Another number, true, false or null.
    Other,
    /// A list.
    List(Vec<Node>),
    /// An object, by the bytes of its keys.
    Object(BTreeMap<Box<[u8]>, Node>),
}

impl Node {
    fn unplaced(kind: Kind) -> Self {
        Self { kind, span: 0..0 }
    }

    /// What a JSON pointer (RFC 6901) points to.
    pub fn pointer(&self, pointer: &str) -> Option<&Self> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |node, token| {
            let token = if token.contains('~') {
                Cow::Owned(token.replace("~1", "/").replace("~0", "~"))
            } else {
                Cow::Borrowed(token)
            };
            match &node.kind {
                Kind::Object(fields) => fields.get(token.as_bytes()),
                Kind::List(entries) => entries.get(index(&token)?),
                _ => None,
            }
        })
    }

    /// A text, or a whole number in its digits; anything else is no name for anything.
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(bytes) | Kind::Whole(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The entries of a list.
    pub(crate) fn list(&self) -> Option<&[Self]> {
        match &self.kind {
            Kind::List(entries) => Some(entries),
            _ => None,
        }
    }
}

/// An index has one spelling: no sign, no zeros in front.
fn index(token: &str) -> Option<usize> {
    let one_spelling = token == "0" || !token.starts_with(['0', '+']);
    if one_spelling { token.parse().ok() } else { None }
}

/// The most elements, attributes and texts of an XML document, the most fields of a form.
const MAX_NODES: u32 = 100_000;

/// What some senders put in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Format {
    /// The media type that names it.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Form => "application/x-www-form-urlencoded",
            Format::Xml => "application/xml",
        }
    }

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Form => "form",
            Format::Xml => "xml",
        }
    }

    /// Reads a document. A byte order mark in front of it is skipped.
    pub fn read(self, bytes: &[u8]) -> Result<Node, Unreadable> {
        let start = if bytes.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        match self {
            Format::Json => json::read(bytes, start),
            Format::Form => read_form(&bytes[start..]),
            Format::Xml => read_xml(&bytes[start..]),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Format::Json, Format::Form, Format::Xml]
            .into_iter()
            .find(|format| format.name() == text)
            .ok_or("is none of json, form and xml")
    }
}

/// A field that is no UTF-8 keeps its bytes and has no text: another character in its place could make two ids one.
fn read_form(bytes: &[u8]) -> Result<Node, Unreadable> {
    let mut fields = BTreeMap::new();
    let pairs = bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    for (count, pair) in (0..).zip(pairs) {
        if count >= MAX_NODES {
            return Err(Unreadable::TooMany { max: MAX_NODES });
        }
        let mut halves = pair.splitn(2, |byte| *byte == b'=');
        let (name, value) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        // Of two, which would be the right one?
        if fields
            .insert(decoded(name), Node::unplaced(Kind::Text(decoded(value))))
            .is_some()
        {
            return Err(Unreadable::FieldTwice);
        }
    }
    Ok(Node::unplaced(Kind::Object(fields)))
}

fn decoded(text: &[u8]) -> Box<[u8]> {
    let blanks: Vec<u8> = text
        .iter()
        .map(|byte| if *byte == b'+' { b' ' } else { *byte })
        .collect();
    percent_decode(&blanks).collect()
}

fn read_xml(bytes: &[u8]) -> Result<Node, Unreadable> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unreadable::NoXml)?;
    // A document type could define entities that grow without bound: none is allowed.
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..Default::default()
    };
    // The reader's own message quotes the document.
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|_| Unreadable::NoXml)?;
    let root = document.root_element();
    let value = element(root, json::MAX_DEPTH).ok_or(Unreadable::TooDeep { max: json::MAX_DEPTH })?;
    Ok(Node::unplaced(Kind::Object(BTreeMap::from([(name_of(root), value)]))))
}

fn name_of(node: roxmltree::Node<'_, '_>) -> Box<[u8]> {
    node.tag_name().name().as_bytes().into()
}

fn element(node: roxmltree::Node<'_, '_>, depth: u32) -> Option<Node> {
    let depth = depth.checked_sub(1)?;
    let mut children: BTreeMap<Box<[u8]>, Vec<Node>> = BTreeMap::new();
    for child in node.children().filter(roxmltree::Node::is_element) {
        children.entry(name_of(child)).or_default().push(element(child, depth)?);
    }
    let kind = if children.is_empty() {
        Kind::Text(node.text().unwrap_or_default().trim().as_bytes().into())
    } else {
        let one_or_all = |(name, mut all): (Box<[u8]>, Vec<Node>)| match (all.pop(), all.is_empty()) {
            (Some(only), true) => (name, only),
            (last, _) => {
                all.extend(last);
                (name, Node::unplaced(Kind::List(all)))
            }
        };
        Kind::Object(children.into_iter().map(one_or_all).collect())
    };
    Some(Node::unplaced(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(format: Format, bytes: &[u8], expected: &[(&str, Option<&str>)]) {
        let node = format.read(bytes).unwrap();
        for (pointer, text) in expected {
            assert_eq!(node.pointer(pointer).and_then(Node::text), *text, "{pointer}");
        }
    }

    #[test]
    fn a_form_is_an_object_of_its_fields() {
        check(
            Format::Form,
            b"a=1&b=x%20y+z&c=&&d&e=%ff&f=%2B=%",
            &[
                ("/a", Some("1")),
                ("/b", Some("x y z")),
                ("/c", Some("")),
                ("/d", Some("")),
                ("/e", None),
                ("/f", Some("+=%")),
                ("/g", None),
            ],
        );
        for twice in [&b"a=1&a=2"[..], b"a=1&%61=1"] {
            assert_eq!(Format::Form.read(twice), Err(Unreadable::FieldTwice));
        }
    }

    #[test]
    fn xml_is_an_object_of_its_elements() {
        check(
            Format::Xml,
            b"\xef\xbb\xbf<?xml version='1.0'?><notification><kind>check</kind><timestamp type='datetime'> 2026 </timestamp>\
              <subject><id>a</id><id>b</id><id>c</id><none/></subject></notification>",
            &[
                ("/notification/kind", Some("check")),
                ("/notification/timestamp", Some("2026")),
                ("/notification/subject/id/0", Some("a")),
                ("/notification/subject/id/2", Some("c")),
                ("/notification/subject/id/3", None),
                ("/notification/subject/id", None),
                ("/notification/subject/none", Some("")),
                ("/notification", None),
            ],
        );
    }

    #[test]
    fn xml_is_bounded_and_quoted_nowhere() {
        let deep = format!("{}{}", "<a>".repeat(200), "</a>".repeat(200));
        assert_eq!(Format::Xml.read(deep.as_bytes()), Err(Unreadable::TooDeep { max: 128 }));
        let entities = r#"<!DOCTYPE a [<!ENTITY b "topsecret">]><a>&b;</a>"#;
        for text in [entities, "<a>topsecret", "topsecret", ""] {
            assert_eq!(Format::Xml.read(text.as_bytes()), Err(Unreadable::NoXml), "{text}");
        }
        assert!(Format::Xml.read(b"<a>\xff</a>").is_err());
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES as usize));
        assert!(Format::Xml.read(many.as_bytes()).is_err());
        let many = "a&".repeat(MAX_NODES as usize + 1);
        assert!(Format::Form.read(many.as_bytes()).is_err());
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_spans_count_it() {
        let node = Format::Json.read(b"\xef\xbb\xbf{\"a\":[ 1 ]}").unwrap();
        assert_eq!(node.pointer("/a").map(|node| node.span.clone()), Some(8..13));
        assert_eq!(node.pointer("/a/0").and_then(Node::text), Some("1"));
        assert!(Format::Json.read(b"\xef\xbb\xbf\xef\xbb\xbf{}").is_err());
    }

    #[test]
    fn a_format_is_called_by_its_name() {
        for format in [Format::Json, Format::Form, Format::Xml] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert!("JSON".parse::<Format>().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), text in r#"[<>/a-c&;"'=!\[\]{}:,0-9%+ ]{0,60}"#, pointer in "[/~01a]{0,6}") {
            for format in [Format::Json, Format::Form, Format::Xml] {
                for bytes in [&bytes[..], text.as_bytes()] {
                    if let Ok(node) = format.read(bytes) {
                        prop_assert_eq!(node.pointer(""), Some(&node));
                        prop_assert!(node.pointer(&pointer).is_none_or(|found| found.text().is_none_or(|text| text.len() <= bytes.len())));
                    }
                }
            }
        }
    }
}
