//! `fanout match` on files: what they hold may be anything, and its exit code says which it was.

use fanout_tests::{Cli, fanout};

const PATTERN: &str = r#"{ "data": { "tags": ["b"] } }"#;
const EVENT: &str =
    r#"{ "tenant": "acme", "type": "a", "source": "/tests", "id": "1", "data": { "tags": ["a", "b"] } }"#;
const OTHER: &str =
    r#"{ "tenant": "acme", "type": "a", "source": "/tests", "id": "1", "data": { "tags": "a", "tags": ["c", "d"] } }"#;

#[test]
fn an_exit_code_says_what_a_file_was() {
    let cli = Cli::new("nats://127.0.0.1:9".to_owned());
    let folder = cli.policy("").parent().unwrap().to_path_buf();
    let tried = |pattern: &[u8], event: &[u8]| {
        let (pattern_file, event_file) = (folder.join("pattern.json"), folder.join("event.json"));
        std::fs::write(&pattern_file, pattern).unwrap();
        std::fs::write(&event_file, event).unwrap();
        fanout(&[
            "match",
            "--pattern",
            pattern_file.to_str().unwrap(),
            event_file.to_str().unwrap(),
        ])
    };
    let marked = |text: &str| [b"\xef\xbb\xbf", text.as_bytes()].concat();
    assert_eq!(tried(PATTERN.as_bytes(), EVENT.as_bytes()).0, 0);
    assert_eq!(tried(&marked(PATTERN), &marked(EVENT)).0, 0, "behind a byte order mark");
    let (code, out, _) = tried(PATTERN.as_bytes(), OTHER.as_bytes());
    assert_eq!(code, 1);
    assert!(
        out.contains(r#"`/data/tags` is "c" and "d", and the pattern wants ["b"]"#),
        "{out}"
    );

    let nested = |depth: usize| format!("{{\"data\":{}[1]{}}}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let long = format!("{{\"type\":[\"{}\"]}}", "x".repeat(64 << 10));
    for (pattern, says) in [
        (b"{\"type\":[\"\xe9\"]}".to_vec(), "no UTF-8 from byte 11 on"),
        (nested(33).into_bytes(), "nested deeper than 32 objects"),
        (nested(100_000).into_bytes(), "more than 65536 bytes"),
        (long.into_bytes(), "more than 65536 bytes"),
        (Vec::new(), "line 1, column 1"),
        (marked(""), "line 1, column 1"),
    ] {
        let (code, out, err) = tried(&pattern, EVENT.as_bytes());
        assert_eq!((code, out.as_str()), (2, ""), "{says}: {err}");
        assert!(err.contains(says) && err.contains("pattern.json"), "{says}: {err}");
    }
    for event in [&b""[..], b"[]", b"{}", b"\xff", EVENT.replace("acme", "").as_bytes()] {
        let (code, _, err) = tried(PATTERN.as_bytes(), event);
        assert_eq!(code, 2, "{event:?}");
        assert!(err.contains("event.json"), "{err}");
    }
    // What is nested as deep as a payload may be is read, and takes no stack.
    let deep = format!("{}\"b\"{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(
        tried(PATTERN.as_bytes(), EVENT.replace(r#"["a", "b"]"#, &deep).as_bytes()).0,
        0
    );
    let (code, _, err) = fanout(&["match", "--pattern", "/nowhere.json", "/nowhere.json"]);
    assert_eq!(code, 2, "a file that is not there says nothing of a match");
    assert!(err.contains("/nowhere.json: it can't be read"), "{err}");
    let (code, _, err) = fanout(&["match", "--pattern", "/dev/zero", "/dev/zero"]);
    assert_eq!(code, 2, "{err}");
}
