//! What a pattern finds where: attributes, a payload that is no JSON, and what is said of an event that does not match.

use super::{event, matches};
use crate::pattern::{Pattern, View};

/// A pattern may write a moment in any way that RFC 3339 has.
#[test]
fn a_time_is_a_moment() {
    // The event's is 2026-01-01T00:00:00Z.
    for (list, is) in [
        (r#"["2026-01-01T00:00:00Z"]"#, true),
        (r#"["2026-01-01T00:00:00.000Z"]"#, true),
        (r#"["2026-01-01T01:00:00+01:00"]"#, true),
        (r#"["2025-12-31t19:00:00.0-05:00"]"#, true),
        (r#"["2026-01-01T00:00:00.001Z"]"#, false),
        (r#"["2026-01-01T00:00:00+01:00"]"#, false),
        (r#"[{"exactly":"2026-01-01T00:00:00.0Z"}]"#, true),
        (r#"[{"equals-ignore-case":"2026-01-01t00:00:00.0z"}]"#, true),
        (r#"[{"anything-but":"2026-01-01T01:00:00+01:00"}]"#, false),
        (r#"[{"anything-but":["2026-01-01T01:00:00Z"]}]"#, true),
        (
            r#"[{"anything-but":{"equals-ignore-case":"2026-01-01T00:00:00.00Z"}}]"#,
            false,
        ),
        (r#"[{"prefix":"2026-01-01T"}]"#, true),
        (r#"[{"prefix":{"equals-ignore-case":"2026-01-01t"}}]"#, true),
        (r#"[{"suffix":":00Z"}]"#, true),
        (r#"[{"wildcard":"2026-*T00:*Z"}]"#, true),
        (r#"[{"anything-but":{"prefix":"2026-"}}]"#, false),
    ] {
        assert_eq!(matches(&format!(r#"{{"time":{list}}}"#), "{}"), is, "{list}");
    }
}

#[test]
fn a_text_that_no_time_has_is_refused_with_what_to_write() {
    for (list, says) in [
        (r#"["2026-01-01"]"#, "column 10"),
        (r#"["2026-01-01T00:00:00"]"#, "for a day, write"),
        (r#"["yesterday"]"#, "is no time"),
        (r#"["1500-01-01T00:00:00Z"]"#, "from 1677"),
        (r#"[""]"#, "is no time"),
        (r#"[{"exactly":"2026"}]"#, "is no time"),
        (r#"[{"equals-ignore-case":"2026"}]"#, "is no time"),
        (r#"[{"anything-but":"2026"}]"#, "is no time"),
        (r#"[{"anything-but":{"equals-ignore-case":["2026"]}}]"#, "is no time"),
        (r#"[{"prefix":"2026-01-01T00:00:00+"}]"#, "no part of any time"),
        (r#"[{"suffix":"+01:00"}]"#, "no part of any time"),
        (r#"[{"prefix":"2026-01-01 "}]"#, "no part of any time"),
        (r#"[{"wildcard":"*+01:00"}]"#, "no part of any time"),
        (r#"[{"anything-but":{"suffix":"+00:00"}}]"#, "no part of any time"),
    ] {
        let pattern = format!(r#"{{"time":{list}}}"#);
        let refused = pattern.parse::<Pattern>().expect_err(list).message;
        assert!(
            refused.contains(says) && refused.contains("`/time`"),
            "{list}: {refused}"
        );
        assert!(refused.contains("the bus writes a time like"), "{refused}");
    }
}

/// A type and a tenant are names, by which the store is asked; elsewhere an address is one however it is written.
#[test]
fn an_address_is_one_however_it_is_written_but_in_names() {
    let with = |pattern: &str, text: &str| {
        let mut event = event();
        event.event_type = text.into();
        event.subject = Some(text.into());
        event.extensions.push(("sourceip".into(), text.into()));
        let view = View {
            event: &event,
            data: b"",
        };
        pattern.parse::<Pattern>().unwrap().matches(view)
    };
    let long = "0:0:0:0:0:0:0:1";
    assert!(with(r#"{"sourceip":["::1"]}"#, long));
    assert!(with(r#"{"subject":["::1"]}"#, long));
    assert!(!with(r#"{"subject":[{"exactly":"::1"}]}"#, long));
    assert!(!with(r#"{"type":["::1"]}"#, long));
}

#[test]
fn a_payload_that_is_an_object_has_no_value_of_its_own() {
    for (list, data, is) in [
        (r#"[{"exists":false}]"#, "", true),
        (r#"[{"exists":false}]"#, "{}", true),
        (r#"[{"exists":false}]"#, r#"{"a":1}"#, true),
        (r#"[{"exists":false}]"#, r#"[{"a":1}]"#, true),
        (r#"[{"exists":false}]"#, "[]", true),
        (r#"[{"exists":false}]"#, "5", false),
        (r#"[{"exists":false}]"#, "null", false),
        (r#"[{"exists":false}]"#, "plain text", false),
        (r#"[{"exists":true}]"#, "", false),
        (r#"[{"exists":true}]"#, r#"{"a":1}"#, false),
        (r#"[{"exists":true}]"#, "5", true),
        (r#"[{"exists":true}]"#, "plain text", false),
        (r#"["x"]"#, r#"["w","x"]"#, true),
    ] {
        assert_eq!(matches(&format!(r#"{{"data":{list}}}"#), data), is, "{list} on {data}");
    }
}

/// What a payload is, its bytes say, and not what is written beside them.
#[test]
fn a_payload_is_json_if_it_reads_as_json() {
    let mut event = event();
    let pattern: Pattern = r#"{"data":{"a":[1]}}"#.parse().unwrap();
    for content_type in [
        None,
        Some("application/json"),
        Some("text/plain"),
        Some("application/xml"),
    ] {
        event.data_content_type = content_type.map(Into::into);
        let on = |data: &[u8]| pattern.matches(View { event: &event, data });
        assert!(on(br#"{"a":1}"#));
        assert!(on(b"\xef\xbb\xbf{\"a\":1}"), "behind the mark that some editors write");
        assert!(on(b"  \r\n{\"a\":1}\n"));
        for no_json in [
            &b"a: 1"[..],
            b"\xef\xbb\xbf\xef\xbb\xbf{\"a\":1}",
            b"\xff\xfe{\0\"\0a\0\"\0:\x001\0}\0",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":1} // one",
            b"{\"a\":NaN}",
            b"{\"a\":\xff1}",
        ] {
            assert!(!on(no_json), "{no_json:?}");
        }
    }
    let marked: Pattern = "\u{feff}{\"type\":[\"a\"]}".parse().unwrap();
    assert_eq!(marked.as_str(), r#"{"type":["a"]}"#);
}

/// What is said of an event that does not match is so.
#[test]
fn what_stops_an_event_is_said_as_it_is() {
    let many = (0..9).map(|i| format!("\"tag-{i}\"")).collect::<Vec<_>>().join(",");
    for (pattern, data, says) in [
        (
            r#"{"a":[2]}"#,
            r#"{"a":1}"#.to_owned(),
            "`/data/a` is 1, and the pattern wants [2]",
        ),
        (
            r#"{"a":[2]}"#,
            r#"{"a":[1,3]}"#.to_owned(),
            "`/data/a` is 1 and 3, and the pattern wants [2]",
        ),
        (
            r#"{"a":["x"]}"#,
            format!(r#"{{"a":[{many}]}}"#),
            r#"`/data/a` is "tag-0", "tag-1", "tag-2", "tag-3", "tag-4" and 4 more, and the pattern wants ["x"]"#,
        ),
        (
            r#"{"l":{"a":[2]}}"#,
            r#"{"l":[{"a":1},{"a":null},{}]}"#.to_owned(),
            "`/data/l/a` is 1 and null, and the pattern wants [2]",
        ),
        (
            r#"{"a":[2]}"#,
            "{}".to_owned(),
            "`/data/a` is not there, and the pattern wants [2]",
        ),
        (
            r#"{"a":[2]}"#,
            r#"{"a":{"b":2}}"#.to_owned(),
            "`/data/a` is an object, which has no value of its own",
        ),
        (
            r#"{"a":[2]}"#,
            r#"{"a":[[]]}"#.to_owned(),
            "`/data/a` is an empty array, which has no value of its own",
        ),
        (r#"{"a":[2]}"#, "a: 2".to_owned(), "the payload is no JSON"),
        (
            r#"{"l":{"a":[1],"b":[2]}}"#,
            r#"{"l":[{"a":1},{"b":2}]}"#.to_owned(),
            "`/data/l/a` and `/data/l/b` match, but not all in the same element of an array",
        ),
        // A key that comes twice is no array.
        (
            r#"{"a":[1],"b":[2]}"#,
            r#"{"a":1,"b":2,"a":5}"#.to_owned(),
            "`/data/a` is 5, and the pattern wants [1]",
        ),
        (
            r#"{"l":{"a":[1],"b":[2]}}"#,
            r#"{"l":{"a":1},"l":{"b":2}}"#.to_owned(),
            "`/data/l/a` is not there, and the pattern wants [1]",
        ),
        (
            r#"{"l":{"m":{"a":[1]}},"b":[2]}"#,
            r#"{"l":[{"m":{"a":1},"m":[]}],"b":2,"l":[{"m":{"a":7}}]}"#.to_owned(),
            "`/data/l/m/a` is 7, and the pattern wants [1]",
        ),
    ] {
        let pattern: Pattern = format!(r#"{{"data":{pattern}}}"#).parse().unwrap();
        let event = event();
        let view = View {
            event: &event,
            data: data.as_bytes(),
        };
        let mismatches = pattern
            .explain(view)
            .unwrap_or_else(|| panic!("{pattern} matches {data}"));
        let said = mismatches
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ");
        assert!(
            said.starts_with(says) || said.contains("payload") && said.contains(says),
            "{pattern} on {data}\n{said}\n{says}"
        );
    }
}

#[test]
fn what_was_found_is_said_to_programs_too() {
    let pattern: Pattern = r#"{"data":{"a":[9]}}"#.parse().unwrap();
    let event = event();
    let found = |data: &str| {
        let view = View {
            event: &event,
            data: data.as_bytes(),
        };
        serde_json::to_string(&pattern.explain(view).unwrap()[0].found).unwrap()
    };
    assert_eq!(found(r#"{"a":1}"#), r#"{"is":"value","value":"1"}"#);
    assert_eq!(
        found(r#"{"a":[1,2]}"#),
        r#"{"is":"values","value":{"first":["1","2"],"count":2}}"#
    );
    assert_eq!(found(r#"{"a":{}}"#), r#"{"is":"no-value","value":"an object"}"#);
    assert_eq!(found("{}"), r#"{"is":"missing"}"#);
    assert_eq!(found("{"), r#"{"is":"no-json"}"#);
}
