//! A matcher that writes everything out: each alternative of a pattern as a list of fields, an event as a list of values
//! with the elements of arrays that they stand in, and every choice of one value for each field. Slow, and plainly right.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Pattern, View};

type Path = Vec<String>;

/// The element of each array that a value stands in, by the array's number.
type Elements = BTreeMap<usize, usize>;

fn flattened(
    value: &Value,
    path: &Path,
    within: &Elements,
    arrays: &mut usize,
    all: &mut Vec<(Path, Value, Elements)>,
) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                let path = [path.as_slice(), std::slice::from_ref(key)].concat();
                flattened(member, &path, within, arrays, all);
            }
        }
        Value::Array(elements) => {
            let array = *arrays;
            *arrays += 1;
            for (i, element) in elements.iter().enumerate() {
                let mut within = within.clone();
                if element.is_object() || element.is_array() {
                    within.insert(array, i);
                }
                flattened(element, path, &within, arrays, all);
            }
        }
        scalar => all.push((path.clone(), scalar.clone(), within.clone())),
    }
}

/// Every alternative of an object, as fields with their lists.
fn alternatives(object: &Map<String, Value>, path: &Path) -> Vec<Vec<(Path, Vec<Value>)>> {
    let mut all = vec![Vec::new()];
    for (key, wanted) in object {
        let below = [path.as_slice(), std::slice::from_ref(key)].concat();
        let some: Vec<Vec<_>> = match wanted {
            Value::Array(objects) if key == "$or" => objects
                .iter()
                .flat_map(|o| alternatives(o.as_object().unwrap(), path))
                .collect(),
            Value::Array(values) => vec![vec![(below, values.clone())]],
            Value::Object(fields) => alternatives(fields, &below),
            other => panic!("{other}"),
        };
        all = all
            .iter()
            .flat_map(|a| some.iter().map(|b| [a.as_slice(), b.as_slice()].concat()))
            .collect();
    }
    all
}

fn accepts(wanted: &Value, value: &Value) -> bool {
    let Value::Object(operator) = wanted else {
        return match (wanted.as_f64(), value.as_f64()) {
            (Some(a), Some(b)) => a == b,
            _ => wanted == value,
        };
    };
    let (name, argument) = operator.iter().next().unwrap();
    let text = value.as_str();
    match (name.as_str(), argument) {
        ("exists", is) => is == true,
        ("prefix", Value::String(start)) => text.is_some_and(|text| text.starts_with(start)),
        ("suffix", Value::String(end)) => text.is_some_and(|text| text.ends_with(end)),
        ("equals-ignore-case", Value::String(same)) => text.is_some_and(|text| text.eq_ignore_ascii_case(same)),
        ("anything-but", Value::Array(but)) => !but.iter().any(|but| accepts(but, value)),
        ("anything-but", Value::Object(_)) => !accepts(argument, value),
        ("anything-but", one) => !accepts(one, value),
        ("numeric", Value::Array(bound)) => value.as_f64().is_some_and(|n| match bound[0].as_str() {
            Some(">") => n > bound[1].as_f64().unwrap(),
            _ => n <= bound[1].as_f64().unwrap(),
        }),
        other => panic!("{other:?}"),
    }
}

fn joined(mine: &Elements, theirs: &Elements) -> Option<Elements> {
    let agree = theirs
        .iter()
        .all(|(array, element)| mine.get(array).is_none_or(|e| e == element));
    agree.then(|| mine.iter().chain(theirs).map(|(a, e)| (*a, *e)).collect())
}

/// Whether some choice of values is in the same elements everywhere, and what is to be absent is so in those.
fn some_choice(
    fields: &[(Path, Vec<Value>)],
    values: &[(Path, Value, Elements)],
    within: &Elements,
    absent: &[Path],
) -> bool {
    let Some(((path, wanted), rest)) = fields.split_first() else {
        let stands_there = |path: &Path| values.iter().any(|(p, _, e)| p == path && joined(within, e).is_some());
        return !absent.iter().any(stands_there);
    };
    let by_value = values.iter().any(|(p, value, elements)| {
        p == path
            && wanted.iter().any(|w| accepts(w, value))
            && joined(within, elements).is_some_and(|within| some_choice(rest, values, &within, absent))
    });
    by_value
        || (wanted.contains(&json!({"exists": false}))
            && some_choice(rest, values, within, &[absent, std::slice::from_ref(path)].concat()))
}

fn naively(pattern: &Map<String, Value>, event: &Value) -> bool {
    let mut values = Vec::new();
    flattened(event, &Vec::new(), &Elements::new(), &mut 0, &mut values);
    alternatives(pattern, &Vec::new())
        .iter()
        .any(|fields| some_choice(fields, &values, &Elements::new(), &[]))
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(1)),
        Just(json!(2)),
        Just(json!("x")),
        Just(json!("xy")),
        Just(json!("Y")),
        Just(json!(null)),
        Just(json!(true))
    ]
}

fn payload() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 20, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            members(inner).prop_map(Value::Object),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    proptest::collection::btree_map("[abc]", value, 0..4).prop_map(|members| members.into_iter().collect())
}

fn wanted() -> impl Strategy<Value = Value> {
    let one = prop_oneof![
        4 => scalar(),
        1 => Just(json!({"prefix": "x"})),
        1 => Just(json!({"suffix": "y"})),
        1 => Just(json!({"equals-ignore-case": "y"})),
        1 => Just(json!({"anything-but": "x"})),
        1 => Just(json!({"anything-but": [1, 2]})),
        1 => Just(json!({"anything-but": {"prefix": "x"}})),
        1 => Just(json!({"numeric": [">", 1]})),
        1 => Just(json!({"exists": true})),
        3 => Just(json!({"exists": false})),
    ];
    proptest::collection::vec(one, 1..3).prop_map(Value::from)
}

fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let leaf = proptest::collection::btree_map("[abc]", wanted(), 1..3)
        .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>());
    leaf.prop_recursive(3, 12, 3, |inner| {
        let field = prop_oneof![wanted(), inner.clone().prop_map(Value::Object)];
        let choice = proptest::collection::vec(inner.prop_map(Value::Object), 2..3).prop_map(Value::from);
        (
            proptest::collection::btree_map("[abc]", field, 1..3),
            proptest::option::of(choice),
        )
            .prop_map(|(fields, choice)| {
                let choice = choice.map(|choice| ("$or".to_owned(), choice));
                fields.into_iter().chain(choice).collect()
            })
    })
}

/// Whether an alternative wants a value and fields of its own at one place. Such a pattern matches only by way of arrays, and an
/// array within that array is then a corner that is left open.
fn wants_both(pattern: &Map<String, Value>) -> bool {
    alternatives(pattern, &Vec::new()).iter().any(|fields| {
        fields
            .iter()
            .any(|(a, _)| fields.iter().any(|(b, _)| b.len() > a.len() && b.starts_with(a)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn it_matches_what_every_choice_written_out_matches(fields in fields(), payload in payload()) {
        let pattern = Map::from_iter([("data".to_owned(), Value::Object(fields))]);
        if wants_both(&pattern) {
            return Ok(());
        }
        // One that has a field twice in an alternative is refused.
        if let Ok(compiled) = Value::Object(pattern.clone()).to_string().parse::<Pattern>() {
            let data = payload.to_string();
            let event = super::event();
            let view = View { event: &event, data: data.as_bytes() };
            let is = naively(&pattern, &json!({"data": payload}));
            prop_assert_eq!(compiled.matches(view), is, "{} on {}", compiled, data);
            prop_assert_eq!(compiled.explain(view).is_none(), is);
        }
    }
}
