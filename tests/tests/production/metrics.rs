//! The metrics that the alerts, the dashboard and the pages name are those that there are, and the alerts fire when they should.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The names of metrics in a text, a histogram's by its family.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let names = words.filter(|word| word.starts_with("fanout_") || word.starts_with("messaging_"));
    names
        .map(|name| {
            let suffix = ["_bucket", "_sum", "_count"].into_iter().find(|s| name.ends_with(s));
            name.strip_suffix(suffix.unwrap_or_default()).unwrap_or(name).to_owned()
        })
        .collect()
}

/// Every metric, as the page that is made from their table names it; and every label.
fn there() -> (BTreeSet<String>, BTreeSet<String>) {
    let page = read("docs/observability/metrics.md");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() > 20, "{page}");
    let names = rows.iter().map(|row| row[1].trim_matches('`').to_owned()).collect();
    let labels = rows
        .iter()
        .flat_map(|row| row[3].split(", "))
        .map(|l| l.trim_matches('`').to_owned())
        .collect();
    (names, labels)
}

#[test]
fn the_alerts_the_dashboard_and_the_pages_name_metrics_that_there_are() {
    let (there, labels) = there();
    let known = |name: &str, text: &str| {
        let named = metrics_in(text);
        assert!(named.len() >= 3, "{name}: {named:?}");
        let unknown: Vec<_> = named
            .difference(&there)
            .filter(|name| !labels.contains(*name))
            .collect();
        assert!(unknown.is_empty(), "{name} names {unknown:?}, which there are not");
    };
    let alerts = read("deploy/prometheus/alerts.yaml");
    known("alerts.yaml", &alerts);
    known("the dashboard", &read("deploy/grafana/bus.json"));
    known("the page", &read("docs/observability/README.md"));
    let page = read("docs/production.md");
    let section = page.split_once("## Metrics and alerts").unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    known("docs/production.md", section);
    let untold: Vec<_> = metrics_in(&alerts).difference(&metrics_in(section)).cloned().collect();
    assert!(
        untold.is_empty(),
        "docs/production.md does not say what {untold:?} are for"
    );
}

fn promtool(args: &[&str]) {
    let promtool = std::env::var_os("FANOUT_PROMTOOL").expect(
        "FANOUT_PROMTOOL names promtool, of Debian's package prometheus: `cargo xtask test` unpacks it, or name your own",
    );
    let output = Command::new(promtool)
        .args(args)
        .current_dir(root().join("deploy/prometheus"))
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{}", said.concat());
}

#[test]
fn the_alerts_fire_when_they_should_and_not_before() {
    promtool(&["check", "rules", "alerts.yaml"]);
    promtool(&["test", "rules", "alerts_test.yaml"]);
    let (alerts, tested) = (
        read("deploy/prometheus/alerts.yaml"),
        read("deploy/prometheus/alerts_test.yaml"),
    );
    for alert in alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(
            tested.contains(&format!("alertname: {alert}\n")),
            "nothing tests {alert}"
        );
    }
}

#[test]
fn the_dashboard_is_one_and_each_of_its_panels_asks_for_something() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana/bus.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && panel["title"].is_string(), "{panel}");
        queries.extend(targets.iter().map(|t| t["expr"].as_str().unwrap().to_owned()));
    }
    assert!(queries.len() >= 12, "{queries:?}");
    // What Grafana fills in is filled in, and promtool reads every query as one of a rule.
    let rules: String = queries
        .iter()
        .enumerate()
        .map(|(i, query)| {
            let query = query
                .replace("$__rate_interval", "5m")
                .replace("$bus", "payments")
                .replace("$subscription", ".*");
            format!(
                "      - record: panel:{i}\n        expr: {}\n",
                serde_json::Value::from(query)
            )
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("panels.yaml");
    std::fs::write(&file, format!("groups:\n  - name: panels\n    rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}
