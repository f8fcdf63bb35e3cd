//! What is no pattern, and how that is said.

use crate::Code;
use crate::pattern::{MAX_BYTES, MAX_COMPARISONS, MAX_DEPTH, Pattern};

fn refusal(pattern: &str) -> String {
    let problem = pattern.parse::<Pattern>().expect_err(pattern);
    assert_eq!(problem.code, Code::InvalidPattern);
    problem.message
}

#[test]
fn what_is_no_pattern_is_refused_with_its_place() {
    for (pattern, place, why) in [
        ("", "line 1, column 1", "no JSON"),
        ("[1]", "line 1, column 1", "a pattern is an object"),
        ("{", "line 1, column 1", "no JSON"),
        ("{}", "line 1, column 1", "would match everything"),
        (
            r#"{"data":{}}"#,
            "line 1, column 9, in `/data`",
            "would match everything",
        ),
        (
            r#"{"data":{"a":[]}}"#,
            "line 1, column 14, in `/data/a`",
            "would match nothing",
        ),
        (r#"{"data":{"a":1}}"#, "line 1, column 14, in `/data/a`", "write [ ]"),
        (r#"{"data":{"a":[[1]]}}"#, "line 1, column 15", "no array"),
        (
            "{\n  \"data\": {\n    \"é\": [{\"numerc\": [\">\", 1]}]\n  }\n}",
            "line 3, column 12, in `/data/é`",
            "did you mean `numeric`?",
        ),
        (
            r#"{"data":{"a":[{"x":1}]}}"#,
            "line 1, column 16",
            "there are `anything-but`",
        ),
        (r#"{"data":{"a":[{}]}}"#, "line 1, column 16", "holds one operator"),
        (
            r#"{"data":{"a":[{"prefix":"x","suffix":"y"}]}}"#,
            "line 1, column 29",
            "stands alone",
        ),
        (r#"{"data":{"a":[{"prefix":3}]}}"#, "line 1, column 25", "takes a text"),
        (
            r#"{"data":{"a":[{"prefix":["x"]}]}}"#,
            "line 1, column 25",
            "takes a text",
        ),
        (
            r#"{"data":{"a":[{"prefix":{"x":"y"}}]}}"#,
            "line 1, column 26",
            "equals-ignore-case",
        ),
        (
            r#"{"data":{"a":[{"equals-ignore-case":["x"]}]}}"#,
            "line 1, column 37",
            "takes a text",
        ),
        (
            r#"{"data":{"a":[{"wildcard":"a**b"}]}}"#,
            "line 1, column 27",
            "has `**`",
        ),
        (
            r#"{"data":{"a":[{"wildcard":"a\\b"}]}}"#,
            "line 1, column 27",
            "backslash",
        ),
        (
            r#"{"data":{"a":[{"cidr":"10.0.0.0/32"}]}}"#,
            "line 1, column 23",
            "0 to 31 bits",
        ),
        (
            r#"{"data":{"a":[{"exists":"true"}]}}"#,
            "line 1, column 25",
            "true or false",
        ),
        (
            r#"{"data":{"a":[{"anything-but":[]}]}}"#,
            "line 1, column 31",
            "at least one",
        ),
        (
            r#"{"data":{"a":[{"anything-but":["x",1]}]}}"#,
            "line 1, column 36",
            "not both",
        ),
        (
            r#"{"data":{"a":[{"anything-but":null}]}}"#,
            "line 1, column 31",
            "takes texts, or numbers",
        ),
        (
            r#"{"data":{"a":[{"anything-but":{"numeric":["=",1]}}]}}"#,
            "line 1, column 32",
            "takes texts, or numbers",
        ),
        (
            r#"{"data":{"a":[{"anything-but":{"prefix":""}}]}}"#,
            "line 1, column 41",
            "nothing would match",
        ),
        (
            r#"{"data":{"a":[{"anything-but":{"prefix":["x",""]}}]}}"#,
            "line 1, column 46",
            "nothing would match",
        ),
        (
            r#"{"data":{"a":[{"anything-but":{"wildcard":["x","**"]}}]}}"#,
            "line 1, column 48",
            "has `**`",
        ),
        (
            r#"{"data":{"a":[{"numeric":5}]}}"#,
            "line 1, column 26",
            "takes an array",
        ),
        (
            r#"{"data":{"a":[{"numeric":[]}]}}"#,
            "line 1, column 27",
            "before its number",
        ),
        (
            r#"{"data":{"a":[{"numeric":["="]}]}}"#,
            "line 1, column 30",
            "takes a number",
        ),
        (
            r#"{"data":{"a":[{"numeric":["==",1]}]}}"#,
            "line 1, column 27",
            "before its number",
        ),
        (
            r#"{"data":{"a":[{"numeric":["<",1,">",0]}]}}"#,
            "line 1, column 33",
            "then an upper one",
        ),
        (
            r#"{"data":{"a":[{"numeric":[">",1,"<",1]}]}}"#,
            "line 1, column 37",
            "not below",
        ),
        (
            r#"{"data":{"a":[{"numeric":["=",1,"=",1]}]}}"#,
            "line 1, column 33",
            "alone",
        ),
        (
            r#"{"data":{"a":[{"numeric":[">",1,"<",3,"<",2]}]}}"#,
            "line 1, column 39",
            "then an upper one",
        ),
        (
            r#"{"data":{"a":[{"numeric":["=",1e-325]}]}}"#,
            "line 1, column 31",
            "1e-324",
        ),
        (r#"{"data":{"a":[1e309]}}"#, "line 1, column", "out of range"),
        (r#"{"data":{"a":["\ud800"]}}"#, "line 1, column", "no JSON"),
        (r#"{"data":{"a":[1],"a":[2]}}"#, "line 1, column 18", "comes twice"),
        (
            r#"{"data":{"a":[1],"$or":[{"b":[1]},{"a":[2]}]}}"#,
            "line 1, column 36, in `/data/a`",
            "written twice",
        ),
        (r#"{"$or":[{"type":["a"]}]}"#, "line 1, column 2", "at least two"),
        (
            r#"{"$or":{"type":["a"]}}"#,
            "line 1, column 8",
            "an array of at least two",
        ),
        (
            r#"{"$or":[{"type":["a"]},[1]]}"#,
            "line 1, column 24",
            "objects of fields",
        ),
        (
            r#"{"$or":[{"type":["a"]},{}]}"#,
            "line 1, column 24",
            "would match everything",
        ),
        (
            r#"{"data":{"$or":[{"numeric":[">",0]},{"numeric":["<",9]}]}}"#,
            "line 1, column 18",
            "is an operator",
        ),
        (
            r#"{"detail-type":["x"]}"#,
            "line 1, column 2",
            "no event has an attribute",
        ),
        (
            r#"{"detail":{"state":["x"]}}"#,
            "line 1, column 11",
            "only `data` has fields",
        ),
        (r#"{"type":[1]}"#, "line 1, column 10", "in quotes"),
        (r#"{"type":[null]}"#, "line 1, column 10", "in quotes"),
        (r#"{"subject":[{"numeric":["=",1]}]}"#, "in `/subject`", "in quotes"),
    ] {
        let message = refusal(pattern);
        assert!(
            message.contains(place) && message.contains(why),
            "{pattern}\n{message}\n{place}; {why}"
        );
    }
}

#[test]
fn a_pattern_is_bounded() {
    let nested = |depth: usize| format!("{{\"data\":{}[1]{}}}", "{\"a\":".repeat(depth), "}".repeat(depth));
    assert!(nested(MAX_DEPTH - 1).parse::<Pattern>().is_ok());
    assert!(refusal(&nested(MAX_DEPTH)).contains("nested deeper"));
    assert!(refusal(&nested(10_000)).contains("no JSON: recursion limit"));
    assert!(refusal(&format!("{{\"type\":[\"{}\"]}}", "x".repeat(MAX_BYTES))).contains("bytes"));
    let comparisons = |count| format!("{{\"type\":[{}]}}", vec![r#"{"prefix":"a"}"#; count].join(","));
    assert!(comparisons(MAX_COMPARISONS).parse::<Pattern>().is_ok());
    assert!(refusal(&comparisons(MAX_COMPARISONS + 1)).contains("comparisons"));
    let fields = |count| {
        let fields: Vec<_> = (0..count).map(|i| format!("\"k{i}\":[1]")).collect();
        format!("{{\"data\":{{{}}}}}", fields.join(","))
    };
    assert!(fields(999).parse::<Pattern>().is_ok());
    assert!(refusal(&fields(1_000)).contains("more than 1000 fields"));
}

/// `$or` in `$or`: the number of alternatives is known before any is made.
#[test]
fn alternatives_are_counted_before_they_are_made() {
    let choice = |key: usize, branches: usize| {
        let fields: Vec<_> = (0..branches).map(|i| format!("{{\"k{key}\":[{i}]}}")).collect();
        format!("{{\"$or\":[{}]}}", fields.join(","))
    };
    let all = |choices: usize, branches: usize| {
        let fields: Vec<_> = (0..choices)
            .map(|i| format!("\"f{i}\":{}", choice(i, branches)))
            .collect();
        format!("{{\"data\":{{{}}}}}", fields.join(","))
    };
    assert!(all(3, 10).parse::<Pattern>().is_ok(), "1000 alternatives");
    assert!(
        refusal(&all(2, 40)).contains("1600 alternatives of 84 fields")
            || refusal(&all(2, 40)).contains("1600 alternatives")
    );
    assert!(refusal(&all(60, 10)).contains("alternatives"), "ten to the sixtieth");
}

#[test]
fn two_patterns_are_one_if_they_are_written_alike() {
    let one: Pattern = "{ \"type\" : [ \"a b\\\" \", 'x' ] }"
        .replace('\'', "\"")
        .parse()
        .unwrap();
    assert_eq!(one.as_str(), r#"{"type":["a b\" ","x"]}"#);
    assert_eq!(one, one.as_str().parse().unwrap());
    assert_ne!(one, r#"{"type":["a b"]}"#.parse().unwrap());
    let stored = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Pattern>(&stored).unwrap(), one);
}
