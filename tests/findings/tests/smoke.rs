//! The harness works: each experiment, at a size whose figures mean nothing, fills its page.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;
use std::process::Command;

fn page(name: &str) -> String {
    page_in(name, &format!("{name}.md"))
}

/// The same for an experiment that has a part of a page.
fn page_in(name: &str, file: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (out, raw) = (folder.path().join("pages"), folder.path().join("raw"));
    let program = Path::new(env!("CARGO_BIN_EXE_fanout-findings"));
    // `cargo test --workspace` builds it beside; on its own this package does not.
    let provider = program.with_file_name("fanout-provider");
    assert!(
        provider.exists(),
        "{} is not built: `cargo build --workspace`",
        provider.display()
    );
    let run = Command::new(program)
        .env("FANOUT_PROVIDER_BIN", provider)
        .env("RUST_LOG", "warn")
        .args([name, "--smoke", "--out"])
        .arg(&out)
        .arg("--raw")
        .arg(&raw)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    samples(&raw.join(format!("{name}.jsonl")));
    figures(&raw.join(format!("{name}.figures.json")), name);
    let page = std::fs::read_to_string(out.join(file)).unwrap();
    assert!(!page.contains("{{"), "a place is left: {page}");
    let plots = page
        .match_indices("](")
        .filter_map(|(at, _)| Some(page[at + 2..].split_once(')')?.0))
        .filter(|link| link.ends_with(".svg"));
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

/// What the summary tells of this experiment is among its figures.
fn figures(file: &Path, name: &str) {
    let ran: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let summary = include_str!("../pages/README.md");
    let places: Vec<_> = summary
        .split("{{")
        .skip(1)
        .filter_map(|after| after.split_once("}}")?.0.split_once(':'))
        .filter(|(experiment, _)| *experiment == name)
        .collect();
    assert!(!places.is_empty(), "the summary tells nothing of {name}");
    for (_, figure) in places {
        assert!(ran["figures"][figure].is_string(), "{figure} of {name}: {ran}");
    }
}

#[test]
fn subjects() {
    let page = page("subjects");
    assert!(page.contains("| per tenant | 50 | 50 |"), "{page}");
    // No figure, but what a quota promises: a loud tenant that has one is refused, and costs a quiet one no event.
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|l| l.starts_with("| with a quota |"))
        .map(|l| l.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 2, "{page}");
    for row in rows {
        assert_eq!((&row[7][..2], row[8]), ("0 ", "0 of 500"), "{row:?}");
        assert_ne!(row[10], "0", "{row:?}");
    }
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

/// Every row of a table whose second cell says who read.
fn read_by<'a>(page: &'a str, who: &str) -> Vec<Vec<&'a str>> {
    let rows = page.lines().map(|l| l.split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row.get(2) == Some(&who)).collect()
}

#[test]
fn leaf_through_fanout() {
    let page = page_in("leaf-fanout", "leaf.md");
    for who in ["bare mirror", "Fanout, at the other place"] {
        let rows = read_by(&page, who);
        assert_eq!(rows.len(), 2, "a lag and a catch-up: {page}");
        assert_eq!(
            (rows[0][1], rows[0][6]),
            ("hub to leaf", "0"),
            "nothing is missing: {page}"
        );
        assert_eq!(rows[1][4], "200", "{page}");
    }
}

#[test]
fn regions_through_fanout() {
    let page = page_in("regions-fanout", "regions.md");
    let rows = read_by(&page, "Fanout, at the other place");
    let routes: Vec<_> = rows.iter().map(|row| row[1]).collect();
    assert_eq!(routes, ["east to west", "west to leaf", "east to west"], "{page}");
    assert!(rows[..2].iter().all(|row| row[6] == "0"), "nothing is missing: {page}");
}

#[test]
fn migration() {
    let page = page("migration");
    assert!(page.contains("| the bus is at the new server | 2"), "{page}");
    let traffic = page.split("| published meanwhile |").nth(1).unwrap();
    let row: Vec<_> = traffic.lines().nth(2).unwrap().split('|').map(str::trim).collect();
    assert_ne!(row[1], "0", "{page}");
    assert_eq!(
        row[2..4],
        ["0", "0"],
        "nothing is lost, and nothing comes again: {page}"
    );
}

#[test]
fn transport() {
    let page = page("transport");
    let rows = page
        .lines()
        .filter(|l| l.contains(" ms | 0 % | ") || l.contains(" ms | 1 % | "));
    let rows: Vec<Vec<&str>> = rows.map(|l| l.split('|').map(str::trim).collect()).collect();
    assert_eq!(rows.len(), 3 * 3, "{page}");
    for row in rows {
        // A durable subscription loses nothing, whatever the line does.
        assert!(row[14].starts_with("0 /"), "{row:?}");
    }
}

#[test]
fn latency() {
    let page = page("latency");
    for need in [
        "queue",
        "durable",
        "backfill, once live",
        "JetStream's own client",
        "core NATS",
    ] {
        assert!(page.contains(&format!("| {need} | 90 % |")), "{need}: {page}");
    }
    assert!(page.contains("| 200 | "), "{page}");
}
