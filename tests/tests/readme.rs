//! What the documents show and name is there.

use std::collections::BTreeSet;
use std::process::Command;

use fanout_tests::{Transcript, beside_the_tests, blocks};

fn page(name: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::fs::read_to_string(root.join(name)).unwrap()
}

/// The sessions that are run: the page, the heading that they stand below, and the ports that they name.
const SESSIONS: &[(&str, &str, &[u16])] = &[
    ("README.md", "## A bus in ten lines", &[4222, 7761]),
    ("README.md", "### From the command line", &[4222, 7761]),
    ("docs/client.md", "## From the command line", &[4222, 7761]),
    ("docs/delivery.md", "## Pause, resume, rewind", &[4222, 7761]),
    ("docs/http.md", "## A session with curl", &[4222, 7780]),
    ("docs/ingress.md", "## From the command line", &[]),
    ("docs/operations.md", "## Changing a topology", &[4222, 7761]),
    ("docs/operations.md", "## What happened to this event?", &[4222, 7761]),
    ("docs/operations.md", "## Mutual TLS from nothing", &[4222, 7761]),
    ("docs/patterns.md", "## Try one", &[]),
    ("docs/patterns.md", "## Which rule stopped an event", &[]),
    ("docs/production.md", "## Backup and restore", &[4222, 7761]),
];

/// The pages whose commands are held to this: README.md and those of `docs/`.
fn pages() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let docs = std::fs::read_dir(root.join("docs")).unwrap();
    let names = docs.map(|file| file.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md"));
    let mut pages: Vec<_> = pages.map(|name| format!("docs/{name}")).collect();
    pages.push("README.md".to_owned());
    pages
}

#[test]
fn the_sessions_that_pages_show_work() {
    let running: Vec<_> = SESSIONS
        .iter()
        .map(|(name, heading, ports)| {
            let session = Transcript::of(&page(name), heading, ports);
            let thread = std::thread::Builder::new().name(format!("{name} {heading}"));
            thread.spawn(move || session.run()).unwrap()
        })
        .collect();
    // Each says its own fault when it ends.
    let failed: Vec<_> = running
        .into_iter()
        .zip(SESSIONS)
        .filter_map(|(thread, (name, heading, _))| thread.join().is_err().then_some((name, heading)))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

/// Whether a line of docs/operations.md is among the procedures, which tests/tests/runbook does.
fn is_procedure(page: &str, line: usize) -> bool {
    page.lines().take(line).any(|line| line == "# Procedures")
}

#[test]
fn every_command_of_the_pages_is_run_or_says_why_not() {
    let mut unsaid = Vec::new();
    let mut run = BTreeSet::new();
    for name in pages() {
        let text = page(&name);
        for block in blocks(&text) {
            let place = format!("{name}:{}", block.line);
            let is_session = SESSIONS
                .iter()
                .any(|(of, below, _)| *of == name && *below == block.heading);
            match &block.not_run {
                Some(reason) if reason.len() < 8 => unsaid.push(format!("{place}: no reason why it is not run")),
                Some(_) => {}
                // That test has a law of its own for them.
                None if name == "docs/operations.md" && is_procedure(&text, block.line) => {}
                None if block.language != "console" => unsaid.push(format!("{place}: only `console` is run")),
                None if is_session => drop(run.insert((name.clone(), block.heading))),
                None => unsaid.push(format!("{place}: neither run nor marked `<!-- not run: REASON -->`")),
            }
        }
        // Commands stand in blocks of their own, where the above sees them.
        let mut is_fenced = false;
        for (number, line) in text.lines().enumerate() {
            is_fenced ^= line.starts_with("```");
            let is_command = ["$ ", "fanout ", "nats ", "cargo ", "wash "]
                .iter()
                .any(|program| line.strip_prefix("    ").is_some_and(|rest| rest.starts_with(program)));
            if is_command && !is_fenced {
                unsaid.push(format!("{name}:{}: a command outside of a console block", number + 1));
            }
        }
    }
    assert!(unsaid.is_empty(), "{}", unsaid.join("\n"));
    assert_eq!(run.len(), SESSIONS.len(), "each session is there: {run:?}");
}

#[test]
fn the_smallest_component_is_shown_as_it_is() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let readme = read("README.md");
    let code = read("example-components/minimal/src/lib.rs");
    let shown = code.lines().skip_while(|l| l.starts_with("//!") || l.is_empty());
    let shown: String = shown.map(|l| format!("{l}\n")).collect();
    assert!(
        readme.contains(&shown),
        "README.md shows another component than minimal/src/lib.rs"
    );
    assert!(
        readme.contains(&read("example-components/minimal/wit/world.wit")),
        "README.md shows another world"
    );
}

#[test]
fn every_test_that_holds_a_promise_is_there() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let promises = std::fs::read_to_string(here.join("../docs/promises.md")).unwrap();
    let cells = promises.lines().filter(|line| line.starts_with("| "));
    let named: Vec<_> = cells
        .flat_map(|line| line.split('`').filter(|text| text.contains("::")))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let (file, test) = name.split_once("::").unwrap();
        let mut files = vec![here.join(format!("tests/{file}.rs"))];
        let folder = std::fs::read_dir(here.join("tests").join(file));
        files.extend(folder.into_iter().flatten().map(|entry| entry.unwrap().path()));
        let mut codes = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
        let is_there = codes.any(|code| code.contains(&format!("fn {test}()")));
        assert!(is_there, "docs/promises.md names {name}, which is not there");
    }
}

#[test]
fn every_law_of_the_campaign_is_listed() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let promises = std::fs::read_to_string(docs.join("promises.md")).unwrap();
    let rows: Vec<_> = promises
        .split_once("\n| law | demands | promise |\n")
        .expect("docs/promises.md lists the laws")
        .1
        .lines()
        .skip(1)
        .map_while(|line| line.strip_prefix("| ")?.rsplit_once(" | "))
        .map(|(law, _)| law.to_owned())
        .collect();
    let laws: Vec<_> = fanout_campaign_checker::LAWS
        .iter()
        .map(|law| format!("`{}` | {}", law.name, law.demands))
        .collect();
    assert_eq!(rows, laws, "docs/promises.md lists other laws than the checker has");
    let findings = std::fs::read_to_string(docs.join("findings/campaign.md")).unwrap();
    for law in fanout_campaign_checker::LAWS {
        let row = format!("\n| {} | {} | ", law.name, law.demands);
        assert!(
            findings.contains(&row),
            "docs/findings/campaign.md does not report on {}",
            law.name
        );
        assert!(
            page("README.md").contains(&format!("`{}`", law.name)),
            "README.md does not name {}",
            law.name
        );
    }
}

#[test]
fn every_decision_is_on_the_map() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let map = std::fs::read_to_string(docs.join("ARCHITECTURE.md")).unwrap();
    let records = std::fs::read_dir(docs.join("adr")).unwrap();
    let names = records.map(|record| record.unwrap().file_name().into_string().unwrap());
    let missing: Vec<_> = names.filter(|name| !map.contains(&format!("(adr/{name})"))).collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md does not name {missing:?}");
}

/// The settings of a table in a page, as `section.key`: what stands for a name is `*`.
fn settings_of(page: &str, under: &str) -> BTreeSet<String> {
    let names = page
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let first = names.flat_map(|(cell, _)| cell.split('`').skip(1).step_by(2));
    let shown = first.map(|name| format!("{under}{}", name.replace("NAME", "*").replace("TENANT", "*")));
    shown
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter(|name| {
            name.chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.*".contains(c))
        })
        .collect()
}

/// The settings that a policy says, or shows behind a `#`.
fn settings_said(policy: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut said = BTreeSet::new();
    for line in policy.lines().map(|line| line.trim_start_matches("# ")) {
        if let Some((name, _)) = line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            section = format!("{name}.");
            for named in ["quota.tenant.", "subscriptions.", "callers.", "places."] {
                if section.starts_with(named) {
                    section = format!("{named}*.");
                }
            }
        } else if let Some((key, _)) = line.split_once(" = ") {
            said.insert(format!("{section}{key}"));
        }
    }
    said
}

#[test]
fn the_example_of_a_policy_is_legal_and_has_every_setting_of_the_pages() {
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).unwrap();
    let example = docs.join("policy.example.toml");
    let checked = Command::new(beside_the_tests("fanout"))
        .arg("check")
        .arg(&example)
        .output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let page = read("policy.md");
    let tables = page.split_once("## What a bus is").unwrap().1;
    let topologies = tables.find("## Topologies").unwrap();
    let changes = tables.find("## Changes").unwrap();
    let mut told = settings_of(&tables[..topologies], "");
    told.extend(settings_of(tables[changes..].split_once("| setting |").unwrap().1, ""));
    let callers = read("client.md");
    let callers = callers.split_once("| setting of `callers.NAME` |").unwrap().1;
    told.extend(settings_of(callers.split_once("\n\n").unwrap().0, "callers.*."));
    assert!(told.len() > 60, "{told:?}");
    assert_eq!(settings_said(&read("policy.example.toml")), told);
}
