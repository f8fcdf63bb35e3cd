//! What each operator accepts, and where values are looked for.

use super::matches;

/// Lists of values for the field `a` of the payload, with payloads that match and payloads that do not.
const AT_A_FIELD: &[(&str, &[&str], &[&str])] = &[
    (
        r#"["x"]"#,
        &[r#"{"a":"x"}"#, r#"{"a":["y","x"]}"#, r#"{"a":"\u0078"}"#],
        &[
            r#"{"a":"X"}"#,
            r#"{"a":"xx"}"#,
            "{}",
            r#"{"b":"x"}"#,
            r#"{"a":{"a":"x"}}"#,
        ],
    ),
    (r#"["x","y"]"#, &[r#"{"a":"y"}"#], &[r#"{"a":"z"}"#]),
    (r#"[""]"#, &[r#"{"a":""}"#], &[r#"{"a":" "}"#, r#"{"a":null}"#, "{}"]),
    (
        r#"["\ud83d\ude00"]"#,
        &["{\"a\":\"\u{1f600}\"}"],
        &[r#"{"a":"\ud83d"}"#],
    ),
    (
        "[null]",
        &[r#"{"a":null}"#, r#"{"a":[null]}"#],
        &[r#"{"a":"null"}"#, r#"{"a":""}"#, "{}", r#"{"a":[]}"#],
    ),
    (
        "[true]",
        &[r#"{"a":true}"#],
        &[r#"{"a":"true"}"#, r#"{"a":false}"#, r#"{"a":1}"#],
    ),
    (
        "[300]",
        &[r#"{"a":300}"#, r#"{"a":300.0}"#, r#"{"a":3.0e2}"#, r#"{"a":[1,3E2]}"#],
        &[r#"{"a":"300"}"#, r#"{"a":300.0000000000000000000001}"#],
    ),
    (
        "[9007199254740993]",
        &[r#"{"a":9007199254740993}"#],
        &[r#"{"a":9007199254740992}"#],
    ),
    (r#"["300"]"#, &[r#"{"a":"300"}"#], &[r#"{"a":300}"#]),
    (
        r#"[{"prefix":"ab"}]"#,
        &[r#"{"a":"ab"}"#, r#"{"a":"abc"}"#],
        &[r#"{"a":"a"}"#, r#"{"a":"xab"}"#, r#"{"a":"ABC"}"#, r#"{"a":1}"#],
    ),
    (
        r#"[{"prefix":""}]"#,
        &[r#"{"a":""}"#, r#"{"a":"x"}"#],
        &[r#"{"a":1}"#, "{}"],
    ),
    (
        r#"[{"prefix":{"equals-ignore-case":"aB"}}]"#,
        &[r#"{"a":"Abc"}"#],
        &[r#"{"a":"bab"}"#],
    ),
    (
        r#"[{"suffix":".png"}]"#,
        &[r#"{"a":"x.png"}"#],
        &[r#"{"a":"x.pngx"}"#, r#"{"a":"x.PNG"}"#],
    ),
    (
        r#"[{"suffix":{"equals-ignore-case":".png"}}]"#,
        &[r#"{"a":"x.PNG"}"#],
        &[r#"{"a":"x.jpg"}"#],
    ),
    (
        r#"[{"equals-ignore-case":"Paid"}]"#,
        &[r#"{"a":"pAID"}"#],
        &[r#"{"a":"paid "}"#, r#"{"a":1}"#],
    ),
    (
        r#"[{"wildcard":"in_*"}]"#,
        &[r#"{"a":"in_"}"#, r#"{"a":"in_1"}"#],
        &[r#"{"a":"xin_"}"#, r#"{"a":1}"#],
    ),
    (r#"[{"wildcard":"\\*"}]"#, &[r#"{"a":"*"}"#], &[r#"{"a":"x"}"#]),
    (
        r#"[{"anything-but":"x"}]"#,
        &[
            r#"{"a":"y"}"#,
            r#"{"a":1}"#,
            r#"{"a":null}"#,
            r#"{"a":true}"#,
            r#"{"a":["x","y"]}"#,
        ],
        &[r#"{"a":"x"}"#, "{}", r#"{"a":["x"]}"#, r#"{"a":[]}"#],
    ),
    (
        r#"[{"anything-but":300}]"#,
        &[r#"{"a":"300"}"#, r#"{"a":1}"#],
        &[r#"{"a":3e2}"#, "{}"],
    ),
    (r#"[{"anything-but":["x","y"]}]"#, &[r#"{"a":"z"}"#], &[r#"{"a":"y"}"#]),
    (r#"[{"anything-but":[1,2]}]"#, &[r#"{"a":3}"#], &[r#"{"a":2.0}"#]),
    (
        r#"[{"anything-but":{"prefix":"x"}}]"#,
        &[r#"{"a":"y"}"#, r#"{"a":7}"#, r#"{"a":null}"#],
        &[r#"{"a":"xy"}"#, "{}"],
    ),
    (
        r#"[{"anything-but":{"prefix":["x","y"]}}]"#,
        &[r#"{"a":"z"}"#],
        &[r#"{"a":"yy"}"#],
    ),
    (
        r#"[{"anything-but":{"suffix":"x"}}]"#,
        &[r#"{"a":"y"}"#],
        &[r#"{"a":"yx"}"#],
    ),
    (
        r#"[{"anything-but":{"suffix":["x","y"]}}]"#,
        &[r#"{"a":"z"}"#],
        &[r#"{"a":"ay"}"#],
    ),
    (
        r#"[{"anything-but":{"equals-ignore-case":"x"}}]"#,
        &[r#"{"a":"y"}"#],
        &[r#"{"a":"X"}"#],
    ),
    (
        r#"[{"anything-but":{"equals-ignore-case":["x",""]}}]"#,
        &[r#"{"a":"y"}"#],
        &[r#"{"a":""}"#],
    ),
    (
        r#"[{"anything-but":{"wildcard":"*/lib/*"}}]"#,
        &[r#"{"a":"/bin/x"}"#, r#"{"a":1}"#],
        &[r#"{"a":"/lib/x"}"#],
    ),
    (
        r#"[{"anything-but":{"wildcard":["a*","*z"]}}]"#,
        &[r#"{"a":"m"}"#],
        &[r#"{"a":"mz"}"#],
    ),
    (
        r#"[{"numeric":["=",0.1]}]"#,
        &[r#"{"a":1e-1}"#],
        &[r#"{"a":0.10000000000000001}"#, r#"{"a":"0.1"}"#],
    ),
    (
        r#"[{"numeric":[">",0,"<=",5]}]"#,
        &[r#"{"a":5}"#, r#"{"a":1e-300}"#],
        &[
            r#"{"a":0}"#,
            r#"{"a":-0.0}"#,
            r#"{"a":5.0001}"#,
            r#"{"a":"3"}"#,
            r#"{"a":null}"#,
        ],
    ),
    (
        r#"[{"numeric":["<",-1.5]}]"#,
        &[r#"{"a":-2}"#, r#"{"a":-1e400}"#],
        &[r#"{"a":-1.5}"#],
    ),
    (
        r#"[{"numeric":[">=",1000000]}]"#,
        &[r#"{"a":1e6}"#, r#"{"a":1e999999999999}"#],
        &[r#"{"a":999999.99}"#],
    ),
    (
        r#"[{"exists":true}]"#,
        &[r#"{"a":null}"#, r#"{"a":["x"]}"#, r#"{"a":""}"#],
        &["{}", r#"{"a":{}}"#, r#"{"a":[]}"#, r#"{"a":{"b":1}}"#],
    ),
    (
        r#"[{"exists":false}]"#,
        &["{}", r#"{"a":{}}"#, r#"{"a":[]}"#, r#"{"a":{"b":1}}"#, "[]", "5"],
        &[r#"{"a":null}"#, r#"{"a":[1]}"#, r#"[{"a":1},{"b":1}]"#],
    ),
    (r#"[{"exists":false},"x"]"#, &["{}", r#"{"a":"x"}"#], &[r#"{"a":"y"}"#]),
    (
        r#"[{"cidr":"10.0.0.0/24"}]"#,
        &[r#"{"a":"10.0.0.33"}"#],
        &[r#"{"a":"10.0.1.0"}"#, r#"{"a":"10.0.0.0/24"}"#, r#"{"a":10}"#],
    ),
    (
        r#"[{"cidr":"2001:db8::/32"}]"#,
        &[r#"{"a":"2001:0DB8::1"}"#],
        &[r#"{"a":"2001:db9::1"}"#],
    ),
];

#[test]
fn an_operator_accepts_what_it_says() {
    for (values, yes, no) in AT_A_FIELD {
        let pattern = format!(r#"{{"data":{{"a":{values}}}}}"#);
        for data in *yes {
            assert!(matches(&pattern, data), "{values} and {data}");
        }
        for data in *no {
            assert!(!matches(&pattern, data), "{values} and {data}");
        }
    }
}

/// Patterns of several fields, payloads, and whether they match.
const FIELDS: &[(&str, &str, bool)] = &[
    (r#"{"a":{"b":[1]}}"#, r#"{"a":{"b":1}}"#, true),
    (r#"{"a":{"b":[1]}}"#, r#"{"a":[{"b":2},{"b":1}]}"#, true),
    (r#"{"a":{"b":[1]}}"#, r#"{"a":[[{"b":2}],[{"b":1}]]}"#, true),
    (r#"{"a":{"b":[1]}}"#, r#"{"a":1}"#, false),
    (r#"{"a":{"b":[1],"c":[2]}}"#, r#"{"a":[{"b":1},{"c":2}]}"#, false),
    (r#"{"a":{"b":[1],"c":[2]}}"#, r#"{"a":[{"b":1},{"b":1,"c":2}]}"#, true),
    (
        r#"{"a":{"b":[1],"c":{"d":[2]}}}"#,
        r#"{"a":[{"b":1,"c":[{"d":1},{"d":2}]}]}"#,
        true,
    ),
    (
        r#"{"a":{"b":[1],"c":{"d":[2]}}}"#,
        r#"{"a":[{"b":1},{"c":[{"d":2}]}]}"#,
        false,
    ),
    (
        r#"{"a":{"b":{"c":[1],"d":[2]}}}"#,
        r#"{"a":[{"b":[{"c":1},{"d":2}]}]}"#,
        false,
    ),
    (
        r#"{"a":{"b":[1]},"c":{"d":[2]}}"#,
        r#"{"a":[{"b":1}],"c":[{"d":1},{"d":2}]}"#,
        true,
    ),
    (
        r#"{"a":{"b":[1],"c":[{"exists":false}]}}"#,
        r#"{"a":[{"b":1,"c":1},{"b":1}]}"#,
        true,
    ),
    (
        r#"{"a":{"b":[1],"c":[{"exists":false}]}}"#,
        r#"{"a":[{"b":1,"c":1},{"b":2}]}"#,
        false,
    ),
    (
        r#"{"a":{"b":[{"exists":false}],"c":[1]}}"#,
        r#"{"a":[{"b":1},{"c":1}]}"#,
        true,
    ),
    (r#"{"a":{"b":[{"exists":false}]}}"#, "{}", true),
    (r#"{"a":{"b":[{"exists":false}]}}"#, r#"{"a":5}"#, true),
    (
        r#"{"a":{"b":[{"exists":false}],"c":[{"exists":false}]}}"#,
        r#"{"a":[{"b":1},{}]}"#,
        false,
    ),
    (r#"{"a.b":[1]}"#, r#"{"a.b":1}"#, true),
    (r#"{"a.b":[1]}"#, r#"{"a":{"b":1}}"#, false),
    (r#"{"a":[1]}"#, r#"{"a":1,"a":2}"#, false),
    (r#"{"a":[2]}"#, r#"{"a":1,"a":2}"#, true),
    (r#"{"a":{"b":[1],"c":[2]}}"#, r#"{"a":{"b":1},"a":{"c":2}}"#, false),
    (r#"{"\u0061":[1]}"#, r#"{"a":1}"#, true),
    (r#"{"$or":[{"a":[1]},{"b":[2]}]}"#, r#"{"b":2}"#, true),
    (r#"{"$or":[{"a":[1]},{"b":[2]}]}"#, r#"{"a":2,"b":1}"#, false),
    (r#"{"c":[3],"$or":[{"a":[1]},{"b":[2]}]}"#, r#"{"a":1}"#, false),
    (r#"{"c":[3],"$or":[{"a":[1]},{"b":[2]}]}"#, r#"{"a":1,"c":3}"#, true),
    (
        r#"{"$or":[{"a":[1],"b":[1]},{"b":[2],"$or":[{"c":[1]},{"d":[1]}]}]}"#,
        r#"{"b":2,"d":1}"#,
        true,
    ),
    (
        r#"{"$or":[{"a":[1],"b":[1]},{"b":[2],"$or":[{"c":[1]},{"d":[1]}]}]}"#,
        r#"{"b":2,"a":1}"#,
        false,
    ),
    // Alternatives of one array are of one element, however far apart they are written.
    (
        r#"{"l":{"c":[3]},"$or":[{"l":{"a":[1]}},{"l":{"b":[2]}}]}"#,
        r#"{"l":[{"a":1},{"c":3}]}"#,
        false,
    ),
    (
        r#"{"l":{"c":[3]},"$or":[{"l":{"a":[1]}},{"l":{"b":[2]}}]}"#,
        r#"{"l":[{"a":1},{"c":3,"b":2}]}"#,
        true,
    ),
    (
        r#"{"l":{"c":[3],"$or":[{"a":[1]},{"b":[2]}]}}"#,
        r#"{"l":[{"a":1},{"b":2,"c":3}]}"#,
        true,
    ),
];

#[test]
fn fields_are_looked_for_where_they_belong() {
    for (pattern, data, is) in FIELDS {
        let pattern = format!(r#"{{"data":{pattern}}}"#);
        assert_eq!(matches(&pattern, data), *is, "{pattern} and {data}");
    }
}

#[test]
fn attributes_are_texts_beside_the_payload() {
    for (pattern, is) in [
        (r#"{"tenant":["acme"]}"#, true),
        (
            r#"{"type":[{"prefix":"invoice."}],"source":[{"suffix":"stripe"}]}"#,
            true,
        ),
        (r#"{"subject":["in_8"]}"#, false),
        (r#"{"id":["evt_1"]}"#, true),
        (r#"{"time":[{"prefix":"2026-01-01T00:00:00"}]}"#, true),
        (r#"{"region":[{"anything-but":"us-east"}]}"#, true),
        (r#"{"partitionkey":[{"exists":false}]}"#, true),
        (r#"{"partitionkey":[{"anything-but":"x"}]}"#, false),
        (r#"{"datacontenttype":[{"exists":false},"application/json"]}"#, true),
        (r#"{"data":[{"exists":false}]}"#, true),
        (r#"{"data":{"a":[{"exists":false}]}}"#, true),
        (r#"{"data":{"a":[1]}}"#, false),
    ] {
        assert_eq!(matches(pattern, ""), is, "{pattern}");
    }
}

#[test]
fn a_payload_that_is_no_json_matches_what_does_not_name_it() {
    for data in ["{", "<a/>", "{} {}", "{\"a\":01}", "nul", "\u{1}"] {
        assert!(matches(r#"{"tenant":["acme"]}"#, data), "{data}");
        assert!(!matches(r#"{"data":{"a":[{"exists":false}]}}"#, data), "{data}");
        assert!(
            !matches(r#"{"tenant":["acme"],"data":{"a":[{"exists":false}]}}"#, data),
            "{data}"
        );
        let one_does = r#"{"$or":[{"data":{"a":[1]}},{"subject":["in_7"]}]}"#;
        assert!(matches(one_does, data), "{data}");
    }
}

/// Each line of the table of operators in the documentation.
#[test]
fn the_page_of_patterns_is_right() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/patterns.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines: Vec<_> = page.lines().filter(|line| line.starts_with("| `[")).collect();
    assert!(lines.len() > 20, "{lines:?}");
    for line in lines {
        let cells: Vec<_> = line.split('`').skip(1).step_by(2).collect();
        let [list, yes, no] = cells[..] else { panic!("{line}") };
        let pattern = format!(r#"{{"data":{{"a":{list}}}}}"#);
        for (value, is) in [(yes, true), (no, false)] {
            assert_eq!(matches(&pattern, &format!(r#"{{"a":{value}}}"#)), is, "{line}: {value}");
        }
    }
}
