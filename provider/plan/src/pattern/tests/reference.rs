//! The language as its reference implementation has it, in a table of its own; and where this one differs, and how.

use super::matches;
use crate::pattern::Pattern;

/// What is refused, and what matches and does not, a line each.
const TABLE: &str = include_str!("reference.txt");

#[test]
fn it_is_the_language_of_the_reference() {
    let mut cases = 0;
    for line in TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (kind, case) = line.split_at(1);
        let case = case.trim_start();
        cases += 1;
        if kind == "x" {
            let pattern = format!(r#"{{"data":{case}}}"#);
            assert!(pattern.parse::<Pattern>().is_err(), "{case} is taken");
            continue;
        }
        let (pattern, data) = case.split_once(" ~ ").unwrap_or_else(|| panic!("{line}"));
        let pattern = format!(r#"{{"data":{pattern}}}"#);
        assert_eq!(matches(&pattern, data), kind == "=", "{line}");
    }
    assert!(cases > 400, "{cases}");
}

/// Each of these the page of patterns names among the differences.
#[test]
fn it_differs_where_the_page_says_so() {
    for (pattern, data, is) in [
        // The reference compares numbers that a double holds, and no others.
        (r#"{"a":[{"numeric":[">",1]}]}"#, r#"{"a":9007199254740993}"#, true),
        (r#"{"a":[{"numeric":["<",-1.5]}]}"#, r#"{"a":-1e400}"#, true),
        (
            r#"{"a":[{"numeric":["=",9007199254740993]}]}"#,
            r#"{"a":9007199254740993.0}"#,
            true,
        ),
        (
            r#"{"a":[{"anything-but":9007199254740993}]}"#,
            r#"{"a":9007199254740993}"#,
            false,
        ),
        (r#"{"a":[9007199254740993]}"#, r#"{"a":9007199254740993.0}"#, true),
        // It takes `::ffff:10.0.0.1` for no address, and `0.0.0.0/0` for all addresses of IPv6, too.
        (r#"{"a":[{"cidr":"10.0.0.0/8"}]}"#, r#"{"a":"::ffff:10.0.0.1"}"#, true),
        (r#"{"a":[{"cidr":"0.0.0.0/0"}]}"#, r#"{"a":"::1"}"#, false),
        (r#"{"a":[{"cidr":"::/0"}]}"#, r#"{"a":"10.0.0.1"}"#, false),
        // It reads zeros before a number of an address.
        (r#"{"a":["10.0.0.1"]}"#, r#"{"a":"10.0.0.01"}"#, false),
        // It joins keys with dots.
        (r#"{"a.b":[1]}"#, r#"{"a":{"b":1}}"#, false),
        (r#"{"a":{"b":[1]}}"#, r#"{"a.b":1}"#, false),
        // It takes each of a key's values.
        (r#"{"a":[1]}"#, r#"{"a":1,"a":2}"#, false),
        (r#"{"a":[2]}"#, r#"{"a":1,"a":2}"#, true),
        (r#"{"a":{"b":[1],"c":[2]}}"#, r#"{"a":{"b":1},"a":{"c":2}}"#, false),
        (r#"{"a":[{"exists":true}]}"#, r#"{"a":1,"a":{}}"#, false),
        // What is absent beside a field that matches it judges by the names of both.
        (
            r#"{"l":{"c":[1],"b":[{"exists":false}]}}"#,
            r#"{"l":[{"c":1},{"b":1}]}"#,
            true,
        ),
        (
            r#"{"l":{"c":[1],"d":[{"exists":false}]}}"#,
            r#"{"l":[{"c":1},{"d":1}]}"#,
            true,
        ),
        // It takes this for a match.
        (
            r#"{"a":[{"wildcard":"*x*y*"},{"equals-ignore-case":"ß"}]}"#,
            r#"{"a":"x"}"#,
            false,
        ),
    ] {
        let pattern = format!(r#"{{"data":{pattern}}}"#);
        assert_eq!(matches(&pattern, data), is, "{pattern} on {data}");
    }
    for refused in [
        // Numbers that no double reaches.
        r#"{"a":[1e400]}"#,
        r#"{"a":[1e-325]}"#,
        // A key twice, of which the reference takes the last.
        r#"{"a":[1],"a":[2]}"#,
        r#"{"a":[1],"$or":[{"b":[1]},{"a":[2]}]}"#,
        // A field of the name `$or`.
        r#"{"$or":["x"]}"#,
        r#"{"$or":{"b":[1]}}"#,
        r#"{"$or":[{"prefix":"a"},{"suffix":"b"}]}"#,
    ] {
        let pattern = format!(r#"{{"data":{refused}}}"#);
        assert!(pattern.parse::<Pattern>().is_err(), "{refused}");
    }
}
