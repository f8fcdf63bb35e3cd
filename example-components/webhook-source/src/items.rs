//! The items of a webhook that holds many.

use std::{fmt, str::FromStr};

use crate::{document::Node, place::is_pointer};

/// Where the items are: `/events/*`, or `/notificationItems/*/NotificationRequestItem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Items {
    list: String,
    within: String,
}

/// The most events that one webhook may hold: as many as the bus takes at once.
pub const MAX_ITEMS: usize = 1_000;

/// Why a body's items can't be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoItems {
    /// There is no list.
    NoList,
    /// One of them is not as it should be.
    NotThere(usize),
    /// There are too many.
    TooMany(usize),
}

impl Items {
    /// Pointers to each item and what is there.
    pub(crate) fn of<'a>(&self, body: &'a Node) -> Result<Vec<(String, &'a Node)>, NoItems> {
        let list = body.pointer(&self.list).and_then(Node::list).ok_or(NoItems::NoList)?;
        if list.len() > MAX_ITEMS {
            return Err(NoItems::TooMany(list.len()));
        }
        let item = |(index, entry): (usize, &'a Node)| {
            let found = entry.pointer(&self.within).ok_or(NoItems::NotThere(index))?;
            Ok((format!("{}/{index}{}", self.list, self.within), found))
        };
        list.iter().enumerate().map(item).collect()
    }
}

impl FromStr for Items {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "names no items: write /events/*, with one * for the index";
        let (list, within) = text.split_once("/*").ok_or(FORM)?;
        let pointer_or_nothing = |text: &str| text.is_empty() || is_pointer(text);
        if !pointer_or_nothing(list) || !pointer_or_nothing(within) || within.contains('*') || list.contains('*') {
            return Err(FORM);
        }
        Ok(Self {
            list: list.to_owned(),
            within: within.to_owned(),
        })
    }
}

impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/*{}", self.list, self.within)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::Format;

    #[test]
    fn items_are_read_and_shown() {
        for text in ["/*", "/events/*", "/a/b/*/c/d"] {
            assert_eq!(text.parse::<Items>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "*",
            "events/*",
            "/events",
            "/events/*a",
            "/*/*",
            "/a*/*",
            "/a/*/b~2",
        ] {
            assert!(text.parse::<Items>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn each_item_is_pointed_to_and_keeps_its_bytes() {
        let json = r#"{"items": [{"in": {"n":  1.10}}, {"in": 2}], "one": {"in": 3}, "bad": [{"in": 1}, {}]}"#;
        let body = Format::Json.read(json.as_bytes()).unwrap();
        let of = |text: &str| text.parse::<Items>().unwrap().of(&body);
        let found = of("/items/*/in").unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|(pointer, node)| (pointer.as_str(), &json[node.span.clone()]))
            .collect();
        assert_eq!(seen, [("/items/0/in", r#"{"n":  1.10}"#), ("/items/1/in", "2")]);
        assert!(found.iter().all(|(pointer, node)| body.pointer(pointer) == Some(node)));
        assert_eq!(of("/one/*"), Err(NoItems::NoList));
        assert_eq!(of("/none/*"), Err(NoItems::NoList));
        assert_eq!(of("/bad/*/in"), Err(NoItems::NotThere(1)));
        let many = format!("[{}0]", "0,".repeat(MAX_ITEMS));
        let many = Format::Json.read(many.as_bytes()).unwrap();
        assert_eq!("/*".parse::<Items>().unwrap().of(&many), Err(NoItems::TooMany(1_001)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[/*a~01]{0,8}", more in ".{0,12}") {
            let body = Format::Json.read(br#"{"a": [[1], {"a": [2]}]}"#).unwrap();
            for text in [text, more] {
                if let Ok(items) = text.parse::<Items>() {
                    prop_assert_eq!(items.to_string(), text);
                    for (pointer, value) in items.of(&body).unwrap_or_default() {
                        prop_assert_eq!(body.pointer(&pointer), Some(value));
                    }
                }
            }
        }
    }
}
