//! Where a part of the event is found in a webhook.

use std::{fmt, str::FromStr};

use http::HeaderName;

/// Where a part of the event is found in a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The last segment of the request's path.
    Path,
    /// A place in the JSON body, as a JSON pointer (RFC 6901).
    Pointer(String),
    /// A header.
    Header(HeaderName),
    /// Always this.
    Constant(String),
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "path" {
            return Ok(Self::Path);
        }
        match text.split_once(':') {
            Some(("pointer", pointer)) if is_pointer(pointer) => Ok(Self::Pointer(pointer.to_owned())),
            Some(("pointer", _)) => Err("is no JSON pointer: write one like pointer:/data/object/id"),
            Some(("header", name)) => match name.parse() {
                Ok(name) => Ok(Self::Header(name)),
                Err(_) => Err("names no header: write one like header:x-event-id"),
            },
            Some(("constant", value)) if !value.is_empty() => Ok(Self::Constant(value.to_owned())),
            Some(("constant", _)) => Err("is an empty constant: write one like constant:acme"),
            _ => Err("is none of path, pointer:…, header:… and constant:…"),
        }
    }
}

/// `/a/b`, where `~` only comes as `~0` or `~1`.
fn is_pointer(text: &str) -> bool {
    text.starts_with('/') && text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Path => f.write_str("path"),
            Place::Pointer(pointer) => write!(f, "pointer:{pointer}"),
            Place::Header(name) => write!(f, "header:{name}"),
            Place::Constant(value) => write!(f, "constant:{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_and_shown() {
        for text in [
            "path",
            "pointer:/data/object/id",
            "pointer:/a~1b/~0",
            "pointer:/",
            "header:x-id",
            "constant:a:b",
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-Id".parse::<Place>().unwrap().to_string(), "header:x-id");
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in [
            "",
            "Path",
            "pointer",
            "pointer:",
            "pointer:data",
            "pointer:/a~2",
            "pointer:/a~",
            "header:",
            "header:a b",
            "constant:",
            "body:/id",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
