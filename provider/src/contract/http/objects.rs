//! Objects in a body, which are objects alone: what serde derives for a struct reads a list of its members' values as well, and
//! takes them by their places.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

/// A value that is written as a JSON object.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// The same, of a member.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        name: String,
        #[serde(deserialize_with = "object")]
        part: Part,
        #[serde(deserialize_with = "crate::contract::http::lists::items")]
        parts: Vec<Part>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Part {
        number: u32,
    }

    #[test]
    fn a_list_is_no_object_wherever_it_stands() {
        let read = |text: &str| serde_json::from_str::<Object<Whole>>(text).map(|Object(whole)| whole);
        let whole = read(r#"{"name":"a","part":{"number":1},"parts":[{"number":2},{}]}"#).unwrap();
        let expected = Whole {
            name: "a".into(),
            part: Part { number: 1 },
            parts: vec![Part { number: 2 }, Part { number: 0 }],
        };
        assert_eq!(whole, expected);
        for bad in [
            r#"["a",{"number":1},[]]"#,
            r#"{"name":"a","part":[1],"parts":[]}"#,
            r#"{"name":"a","part":{"number":1},"parts":[[2]]}"#,
            r#"{"name":"a","part":[],"parts":[]}"#,
            r#"{"name":"a","part":{"number":1},"parts":[[]]}"#,
            "[]",
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("expected an object"), "{bad}: {error}");
        }
        assert!(
            read(r#"{"name":"a","part":{"numbers":1},"parts":[]}"#).is_err(),
            "unknown members are refused"
        );
    }
}
