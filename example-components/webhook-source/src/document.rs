//! What a webhook says, as one tree that JSON pointers reach into, whatever it was written in.
//!
//! JSON stays itself. A form is an object of its fields. XML is an object of its root element; an element with elements
//! in it is an object of them (an array where a name comes more than once), any other is its text. So
//! `/notification/kind` is a place in Braintree's XML as `/type` is one in JSON.
//!
//! Read only after the signature was verified. Still every step is bounded: what is signed can be broken too.

use std::borrow::Cow;

use serde_json::{Map, Value, value::RawValue};

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

/// The deepest nesting of XML that is read; JSON's reader has the same limit of its own.
const MAX_DEPTH: u32 = 128;
/// The most elements, attributes and texts of an XML document, the most fields of a form.
const MAX_NODES: u32 = 100_000;

impl Format {
    /// The media type that names it.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Form => "application/x-www-form-urlencoded",
            Format::Xml => "application/xml",
        }
    }

    /// The format that a media type names.
    pub fn of(content_type: &str) -> Option<Self> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        [Format::Json, Format::Form, Format::Xml]
            .into_iter()
            .find(|format| media_type.eq_ignore_ascii_case(format.media_type()))
    }

    /// Reads a document. The error says what is wrong with its form, and holds none of it.
    pub fn read(self, bytes: &[u8]) -> Result<Value, String> {
        match self {
            Format::Json => serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}")),
            Format::Form => read_form(bytes),
            Format::Xml => read_xml(bytes),
        }
    }
}

fn read_form(bytes: &[u8]) -> Result<Value, String> {
    let mut fields = Map::new();
    for (index, (name, value)) in form_urlencoded::parse(bytes).enumerate() {
        if index >= MAX_NODES as usize {
            return Err("its form has too many fields".to_owned());
        }
        // Of two, which would be the right one?
        if fields.insert(name.into_owned(), value.into_owned().into()).is_some() {
            return Err("its form has a field twice".to_owned());
        }
    }
    Ok(Value::Object(fields))
}

fn read_xml(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no XML: it is not in UTF-8".to_owned())?;
    // A document type could define entities that grow without bound: none is allowed.
    let options = roxmltree::ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..Default::default()
    };
    // The reader's own message quotes the document.
    let document = roxmltree::Document::parse_with_options(text, options).map_err(|_| "it is no XML".to_owned())?;
    let root = document.root_element();
    let value = element(root, MAX_DEPTH).ok_or_else(|| format!("its XML is nested more than {MAX_DEPTH} deep"))?;
    Ok(Value::Object(Map::from_iter([(
        root.tag_name().name().to_owned(),
        value,
    )])))
}

fn element(node: roxmltree::Node<'_, '_>, depth: u32) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let mut children = Map::new();
    for child in node.children().filter(roxmltree::Node::is_element) {
        let value = element(child, depth)?;
        match children.get_mut(child.tag_name().name()) {
            None => {
                children.insert(child.tag_name().name().to_owned(), value);
            }
            Some(Value::Array(all)) => all.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    if children.is_empty() {
        Some(node.text().unwrap_or_default().trim().into())
    } else {
        Some(Value::Object(children))
    }
}

/// The bytes of each item of a list in a JSON document, exactly as they came: numbers keep their digits.
///
/// One pass over the document, however many items there are.
pub(crate) fn raw_items<'a>(json: &'a [u8], list: &str, within: &str) -> Option<Vec<&'a [u8]>> {
    let list = descend(serde_json::from_slice(json).ok()?, list)?;
    let list: Vec<&'a RawValue> = serde_json::from_str(list.get()).ok()?;
    let item = |entry: &'a RawValue| Some(descend(entry, within)?.get().as_bytes());
    list.into_iter().map(item).collect()
}

fn descend<'a>(mut part: &'a RawValue, pointer: &str) -> Option<&'a RawValue> {
    for segment in pointer.split('/').skip(1) {
        let segment = segment.replace("~1", "/").replace("~0", "~");
        part = match part.get().as_bytes().first()? {
            b'{' => {
                let fields: Fields<'a> = serde_json::from_str(part.get()).ok()?;
                fields.0.into_iter().rev().find(|(name, _)| *name == segment)?.1
            }
            b'[' => {
                let all: Vec<&RawValue> = serde_json::from_str(part.get()).ok()?;
                all.get(segment.parse::<usize>().ok()?).copied()?
            }
            _ => return None,
        };
    }
    Some(part)
}

/// The fields of an object in order; of two with one name the last counts, as everywhere in `serde_json`.
struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> serde::de::Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A field's name, borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn raw_part<'a>(json: &'a [u8], pointer: &str) -> Option<&'a [u8]> {
        Some(descend(serde_json::from_slice(json).ok()?, pointer)?.get().as_bytes())
    }

    #[test]
    fn a_form_is_an_object_of_its_fields() {
        assert_eq!(
            Format::Form.read(b"a=1&b=x%20y+z&c="),
            Ok(json!({"a": "1", "b": "x y z", "c": ""}))
        );
        assert_eq!(
            Format::Form.read(b"a=1&a=2"),
            Err("its form has a field twice".to_owned())
        );
    }

    #[test]
    fn xml_is_an_object_of_its_elements() {
        let read = Format::Xml.read(
            b"<?xml version='1.0'?><notification><kind>check</kind><timestamp type='datetime'> 2026 </timestamp>\
              <subject><id>a</id><id>b</id><id>c</id><none/></subject></notification>",
        );
        let expected = json!({"notification": {
            "kind": "check", "timestamp": "2026", "subject": {"id": ["a", "b", "c"], "none": ""},
        }});
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn xml_is_bounded_and_quoted_nowhere() {
        let deep = format!("{}{}", "<a>".repeat(200), "</a>".repeat(200));
        assert_eq!(
            Format::Xml.read(deep.as_bytes()),
            Err("its XML is nested more than 128 deep".to_owned())
        );
        let entities = r#"<!DOCTYPE a [<!ENTITY b "topsecret">]><a>&b;</a>"#;
        for text in [entities, "<a>topsecret", "topsecret", ""] {
            assert_eq!(
                Format::Xml.read(text.as_bytes()),
                Err("it is no XML".to_owned()),
                "{text}"
            );
        }
        assert!(Format::Xml.read(b"<a>\xff</a>").is_err());
        let many = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES as usize));
        assert!(Format::Xml.read(many.as_bytes()).is_err());
    }

    #[test]
    fn a_media_type_names_a_format() {
        assert_eq!(Format::of("Application/JSON; charset=utf-8"), Some(Format::Json));
        assert_eq!(Format::of("application/x-www-form-urlencoded"), Some(Format::Form));
        assert_eq!(Format::of("text/plain"), None);
        assert_eq!(Format::of(""), None);
    }

    #[test]
    fn an_item_is_found_as_it_came() {
        let json = br#"{"all": [ {"in": 1.10}, {"in":  [ 1 ]} ], "none": {}}"#;
        let items = raw_items(json, "/all", "/in").unwrap();
        assert_eq!(items, [&b"1.10"[..], b"[ 1 ]"]);
        assert_eq!(raw_items(json, "/all", "").map(|items| items.len()), Some(2));
        assert_eq!(raw_items(json, "/all", "/other"), None);
        assert_eq!(raw_items(json, "/none", ""), None);
    }

    #[test]
    fn a_part_is_found_as_it_came() {
        let json =
            br#"{"a/b": [ {"n": 1.10,  "big": 123456789012345678901234567890 }, "x" ], "\u0063": 1, "d": 1, "d": 2}"#;
        let part = |pointer| raw_part(json, pointer).map(|part| std::str::from_utf8(part).unwrap());
        assert_eq!(
            part("/a~1b/0"),
            Some(r#"{"n": 1.10,  "big": 123456789012345678901234567890 }"#)
        );
        assert_eq!(part("/a~1b/0/n"), Some("1.10"));
        assert_eq!(part("/a~1b/1"), Some(r#""x""#));
        assert_eq!(part("/c"), Some("1"));
        assert_eq!(part("/d"), Some("2"));
        for pointer in ["/a~1b/2", "/a~1b/x", "/e", "/c/0"] {
            assert_eq!(part(pointer), None, "{pointer}");
        }
        assert_eq!(raw_part(b"[", "/0"), None);
        assert_eq!(raw_part(b"1", ""), Some(&b"1"[..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in any::<Vec<u8>>(), text in r#"[<>/a-c&;"'=!\[\]{}:,0-9 ]{0,60}"#) {
            for format in [Format::Json, Format::Form, Format::Xml] {
                drop(format.read(&bytes));
                drop(format.read(text.as_bytes()));
            }
        }

        /// A part that the tree has is a part of the text, and says the same.
        #[test]
        fn a_raw_part_says_what_the_tree_says(text in r#"\{"a":\[(1|2\.5|"x"|\{"b":[1-9][0-9]{0,2}\}|null)(,(1|"y"))?\]\}"#, pointer in "(/a|/0|/1|/b){0,3}") {
            let tree: Value = serde_json::from_str(&text).unwrap();
            let raw = raw_part(text.as_bytes(), &pointer).map(|raw| serde_json::from_slice::<Value>(raw).unwrap());
            prop_assert_eq!(raw.as_ref(), tree.pointer(&pointer));
        }
    }
}
