//! Lists in a body, of which no more is kept than shows that they are too long: a body of empty strings would become
//! many times its size.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::objects::Object;
use crate::contract::shapes::{MAX_IN_FILTER, MAX_ITEMS};

/// Items that a call takes, each an object, and one more where there are more: the contract refuses so many.
pub(super) fn items<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let items = at_most(deserializer, MAX_ITEMS + 1)?;
    Ok(items.into_iter().map(|Object(item)| item).collect())
}

/// Tenants or types of a filter, the same way.
pub(super) fn of_filter<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    at_most(deserializer, MAX_IN_FILTER as usize + 1)
}

fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D, kept: usize) -> Result<Vec<T>, D::Error> {
    struct Kept<T>(usize, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Kept<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while list.len() < self.0 {
                let Some(item) = seq.next_element()? else {
                    return Ok(list);
                };
                list.push(item);
            }
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Kept(kept, PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_shows_that_it_is_too_much() {
        let read = |items: usize, kept| {
            let body = serde_json::to_string(&vec![""; items]).unwrap();
            let list: Vec<String> = at_most(&mut serde_json::Deserializer::from_str(&body), kept).unwrap();
            list.len()
        };
        assert_eq!((read(0, 3), read(3, 3), read(100_000, 3)), (0, 3, 3));
    }
}
