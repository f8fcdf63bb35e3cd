//! Where a part of the event is found in a webhook.

use std::{fmt, str::FromStr};

use http::HeaderName;

/// Where a part of the event is found: in one place, or in several whose texts are joined; and where else, if it is not
/// there.
///
/// Written as the places one after the other, separated by white space: `pointer:/resource_type pointer:/action`. Between
/// alternatives stands ` || `: `pointer:/a || pointer:/b pointer:/c || constant:other`. The first alternative all of whose
/// places are there is the one that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places(Vec<Vec<Place>>);

/// The most places that are joined.
const MAX_PLACES: usize = 8;
/// The most alternatives.
const MAX_ALTERNATIVES: usize = 8;
/// What stands between two alternatives.
const OR: &str = "||";

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
    /// The id that the signature covers, wherever the webhook has it.
    SignedId,
    /// The name of the key that made the signature.
    Key,
}

const KINDS: &str = "is none of path, pointer:…, root:…, header:…, constant:…, digest, signed-id and key, nor several with || between them";

impl Places {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Place> {
        self.0.iter().flatten()
    }

    /// The alternatives, the first to be looked at first; each has at least one place.
    pub fn alternatives(&self) -> impl Iterator<Item = &[Place]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// Whether any alternative is of several places, whose texts are joined.
    pub(crate) fn may_join(&self) -> bool {
        self.alternatives().any(|joined| joined.len() > 1)
    }

    /// The same places, each changed.
    pub(crate) fn map(self, change: impl Fn(Place) -> Place) -> Self {
        let joined = |joined: Vec<Place>| joined.into_iter().map(&change).collect();
        Self(self.0.into_iter().map(joined).collect())
    }

    /// The headers among them.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.iter().filter_map(|place| match place {
            Place::Header(name) => Some(name),
            _ => None,
        })
    }

    /// True when the request's path is one of them.
    pub fn has_path(&self) -> bool {
        self.iter().any(|place| *place == Place::Path)
    }

    /// True when nothing can be found without the request's path.
    pub fn needs_path(&self) -> bool {
        self.0.iter().all(|joined| joined.contains(&Place::Path))
    }
}

impl From<Place> for Places {
    fn from(place: Place) -> Self {
        Self(vec![vec![place]])
    }
}

impl FromStr for Places {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let words: Vec<_> = text.split_whitespace().collect();
        if words.is_empty() {
            return Err(KINDS);
        }
        if words.iter().any(|word| *word != OR && word.contains(OR)) {
            return Err("has a || without blanks around it: write pointer:/a || pointer:/b");
        }
        let mut alternatives = Vec::new();
        for words in words.split(|word| *word == OR) {
            let joined = words.iter().map(|word| word.parse()).collect::<Result<Vec<_>, _>>()?;
            match joined.len() {
                0 => return Err("has no place before or after a ||"),
                1..=MAX_PLACES => alternatives.push(joined),
                _ => return Err("joins more than 8 places"),
            }
        }
        // What is joined with the path can't be told from it again.
        let joined_path = |joined: &Vec<Place>| joined.len() > 1 && joined.contains(&Place::Path);
        if alternatives.iter().any(joined_path) {
            return Err("joins the path with other places, and it can only stand by itself");
        }
        if alternatives.len() > MAX_ALTERNATIVES {
            return Err("has more than 8 alternatives");
        }
        Ok(Self(alternatives))
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, joined) in self.0.iter().enumerate() {
            if index > 0 {
                write!(f, " {OR} ")?;
            }
            for (index, place) in joined.iter().enumerate() {
                let separator = if index == 0 { "" } else { " " };
                write!(f, "{separator}{place}")?;
            }
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
            Place::SignedId => "signed-id",
            Place::Key => "key",
        }
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "path" => Ok(Self::Path),
            None if text == "digest" => Ok(Self::Digest),
            None if text == "signed-id" => Ok(Self::SignedId),
            None if text == "key" => Ok(Self::Key),
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
            _ => Err(KINDS),
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
            Place::Path | Place::Digest | Place::SignedId | Place::Key => f.write_str(self.kind()),
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
            "signed-id",
            "key",
            "pointer:/a || pointer:/b pointer:/c || path",
            "constant:| || constant:b",
        ] {
            assert_eq!(text.parse::<Places>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-Id".parse::<Places>().unwrap().to_string(), "header:x-id");
        let path = |text: &str| {
            let places: Places = text.parse().unwrap();
            (places.has_path(), places.needs_path())
        };
        assert_eq!(path("path"), (true, true));
        assert_eq!(path("pointer:/a || path"), (true, false));
        assert_eq!(path("header:path || constant:path"), (false, false));
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
            "path digest",
            "||",
            "digest ||",
            "|| digest",
            "digest || || digest",
            "pointer:/a||pointer:/b",
            "signed-id:",
            "key:a",
            &"digest ".repeat(MAX_PLACES + 1),
            &["digest"; MAX_ALTERNATIVES + 1].join(" || "),
        ] {
            assert!(text.parse::<Places>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_shown_as_it_was(text in "(path|digest|(pointer|root):(/[a-z~01]{0,3}){1,3}|header:[a-z-]{1,5}|constant:[a-z:]{1,5})( ([|][|] )?(path|digest|key|signed-id)){0,3}") {
            if let Ok(places) = text.parse::<Places>() {
                prop_assert_eq!(places.to_string(), text);
            }
        }
    }
}
