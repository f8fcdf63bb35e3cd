//! Where a part of the event is found in a webhook.

use std::{fmt, str::FromStr};

use http::HeaderName;

/// Where a part of the event is found: in one place, or in several whose texts are joined.
///
/// Written as the places one after the other, separated by white space: `pointer:/resource_type pointer:/action`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<Place>);

/// The most places that are joined.
const MAX_PLACES: usize = 8;

/// One place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The last segment of the request's path.
    Path,
    /// A place in the item, or in the whole body if it has no items, as a JSON pointer (RFC 6901).
    Pointer(String),
    /// A place in the whole body, also where it has items.
    Root(String),
    /// A header.
    Header(HeaderName),
    /// Always this.
    Constant(String),
    /// The SHA-256 of what was signed, in hexadecimal.
    Digest,
}

impl Places {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.iter()
    }

    /// The headers among them.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.iter().filter_map(|place| match place {
            Place::Header(name) => Some(name),
            _ => None,
        })
    }

    /// True when the request's path is one of them.
    pub fn has_path(&self) -> bool {
        self.0.contains(&Place::Path)
    }
}

impl From<Place> for Places {
    fn from(place: Place) -> Self {
        Self(vec![place])
    }
}

impl FromStr for Places {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let places = text.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?;
        match places.len() {
            0 => Err("is none of path, pointer:…, root:…, header:…, constant:… and digest"),
            1..=MAX_PLACES => Ok(Self(places)),
            _ => Err("joins more than 8 places"),
        }
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, place) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{place}")?;
        }
        Ok(())
    }
}

impl Place {
    /// What comes before the colon.
    pub fn kind(&self) -> &'static str {
        match self {
            Place::Path => "path",
            Place::Pointer(_) => "pointer",
            Place::Root(_) => "root",
            Place::Header(_) => "header",
            Place::Constant(_) => "constant",
            Place::Digest => "digest",
        }
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "path" => Ok(Self::Path),
            None if text == "digest" => Ok(Self::Digest),
            Some(("pointer", pointer)) if is_pointer(pointer) => Ok(Self::Pointer(pointer.to_owned())),
            Some(("pointer", _)) => Err("is no JSON pointer: write one like pointer:/data/object/id"),
            Some(("root", pointer)) if is_pointer(pointer) => Ok(Self::Root(pointer.to_owned())),
            Some(("root", _)) => Err("is no JSON pointer: write one like root:/account"),
            Some(("header", name)) => match name.parse() {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err("names no header: write one like header:x-event-id"),
            },
            Some(("constant", value)) if !value.is_empty() => Ok(Self::Constant(value.to_owned())),
            Some(("constant", _)) => Err("is an empty constant: write one like constant:acme"),
            _ => Err("is none of path, pointer:…, root:…, header:…, constant:… and digest"),
        }
    }
}

/// `/a/b`, where `~` only comes as `~0` or `~1`.
pub(crate) fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path | Place::Digest => f.write_str(self.kind()),
            Place::Pointer(text) | Place::Root(text) | Place::Constant(text) => write!(f, "{}:{text}", self.kind()),
            Place::Header(name) => write!(f, "{}:{name}", self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn places_are_read_and_shown() {
        for text in [
            "path",
            "digest",
            "pointer:/data/object/id",
            "pointer:/a~1b/~0",
            "pointer:/",
            "root:/account",
            "header:x-id",
            "constant:a:b",
            "pointer:/a pointer:/b header:x-id digest",
        ] {
            assert_eq!(text.parse::<Places>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-Id".parse::<Places>().unwrap().to_string(), "header:x-id");
        assert!("path digest".parse::<Places>().unwrap().has_path());
        assert!(!"header:path".parse::<Places>().unwrap().has_path());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            " ",
            "Path",
            "pointer",
            "pointer:",
            "pointer:data",
            "pointer:/a~2",
            "pointer:/a~",
            "root:",
            "root:a",
            "header:",
            "header:a\u{b}b:",
            "constant:",
            "body:/id",
            "digest:",
            "path pointer",
            &"path ".repeat(MAX_PLACES + 1),
        ] {
            assert!(text.parse::<Places>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_as_it_was(text in "(path|digest|(pointer|root):(/[a-z~01]{0,3}){1,3}|header:[a-z-]{1,5}|constant:[a-z:]{1,5})( (path|digest))?") {
            if let Ok(places) = text.parse::<Places>() {
                prop_assert_eq!(places.to_string(), text);
            }
        }
    }
}
