//! The items of a webhook that holds many.

use std::{fmt, str::FromStr};

use serde_json::Value;

use crate::{document, place::is_pointer};

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
    /// The bytes of each item, as they came; in the order of [`Items::of`].
    pub(crate) fn raw<'a>(&self, json: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        document::raw_items(json, &self.list, &self.within)
    }

    /// Pointers to each item and what is there.
    pub(crate) fn of<'a>(&self, body: &'a Value) -> Result<Vec<(String, &'a Value)>, NoItems> {
        let list = match body.pointer(&self.list) {
            Some(Value::Array(list)) => list,
            _ => return Err(NoItems::NoList),
        };
        if list.len() > MAX_ITEMS {
            return Err(NoItems::TooMany(list.len()));
        }
        let item = |(index, entry): (usize, &'a Value)| {
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
    use serde_json::json;

    use super::*;

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
    fn each_item_is_pointed_to() {
        let body = json!({"items": [{"in": {"id": 1}}, {"in": 2}], "one": {"in": 3}, "bad": [{"in": 1}, {}]});
        let of = |text: &str| text.parse::<Items>().unwrap().of(&body);
        let found = of("/items/*/in").unwrap();
        assert_eq!(
            found,
            [
                ("/items/0/in".to_owned(), &json!({"id": 1})),
                ("/items/1/in".to_owned(), &json!(2))
            ]
        );
        assert!(
            found
                .iter()
                .all(|(pointer, value)| body.pointer(pointer) == Some(value))
        );
        assert_eq!(of("/one/*"), Err(NoItems::NoList));
        assert_eq!(of("/none/*"), Err(NoItems::NoList));
        assert_eq!(of("/bad/*/in"), Err(NoItems::NotThere(1)));
        let many = Value::Array(vec![Value::Null; MAX_ITEMS + 1]);
        assert_eq!("/*".parse::<Items>().unwrap().of(&many), Err(NoItems::TooMany(1_001)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[/*a~01]{0,8}", more in ".{0,12}") {
            let body = json!({"a": [[1], {"a": [2]}]});
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
