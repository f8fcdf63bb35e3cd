//! The harness works: each experiment, at a size whose figures mean nothing, fills its page.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;
use std::process::Command;

fn page(name: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (out, raw) = (folder.path().join("pages"), folder.path().join("raw"));
    let run = Command::new(env!("CARGO_BIN_EXE_fanout-findings"))
        .args([name, "--smoke", "--out"])
        .arg(&out)
        .arg("--raw")
        .arg(&raw)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    samples(&raw.join(format!("{name}.jsonl")));
    let page = std::fs::read_to_string(out.join(format!("{name}.md"))).unwrap();
    assert!(!page.contains("{{"), "a place is left: {page}");
    let plots = page
        .match_indices("](")
        .filter_map(|(at, _)| Some(page[at + 2..].split_once(')')?.0));
    for plot in plots {
        let svg = std::fs::read_to_string(out.join(plot)).unwrap();
        assert!(svg.trim_end().ends_with("</svg>"), "{plot}");
    }
    page
}

/// Every line is a sample that says which part of the experiment it belongs to.
fn samples(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.is_empty());
    for line in text.lines() {
        let sample: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(sample["part"].is_string(), "{line}");
    }
}

#[test]
fn subjects() {
    let page = page("subjects");
    assert!(page.contains("| per tenant | 50 | 50 |"), "{page}");
}

#[test]
fn retention() {
    let page = page("retention");
    // No figure, but what the server promises: an interest stream keeps nothing for a consumer that is not there yet.
    assert!(
        page.contains("| not made yet when events come | interest | 50 | 0 | 0 | 0 | 50 |"),
        "{page}"
    );
}

#[test]
fn leaf() {
    let page = page("leaf");
    let outbox = page
        .lines()
        .find(|l| l.contains("an outbox that the hub sources"))
        .unwrap();
    assert!(outbox.contains("| 250 | 0 | 250 | 0 | 0 |"), "{outbox}");
}

#[test]
fn regions() {
    let page = page("regions");
    let after = page.split("## Afterwards").nth(1).unwrap();
    let rows: Vec<_> = after.lines().filter(|l| l.starts_with("| every one")).collect();
    assert_eq!(rows.len(), 3, "{after}");
    for row in rows {
        let missing = row.split('|').nth(5).unwrap().trim();
        assert_eq!(missing, "0", "{row}");
    }
}
