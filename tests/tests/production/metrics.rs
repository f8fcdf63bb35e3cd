//! The metrics that the alerts and docs/production.md name.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let names = words.filter(|word| word.starts_with("fanout_"));
    names.map(str::to_owned).collect()
}

#[test]
fn the_alerts_and_the_page_name_metrics_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let source = read("provider/src/metrics.rs");
    let there: BTreeSet<_> = source.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let alerts = metrics_in(&read("deploy/prometheus/alerts.yaml"));
    assert!(alerts.len() >= 9, "{alerts:?}");
    let page = read("docs/production.md");
    let section = page.split_once("## Metrics and alerts").unwrap().1;
    let told = metrics_in(section.split("\n## ").next().unwrap());
    assert!(
        alerts.is_subset(&told),
        "docs/production.md does not say what {alerts:?} are for"
    );
    let unknown: Vec<_> = told.difference(&there).collect();
    assert!(
        unknown.is_empty(),
        "docs/production.md names {unknown:?}, which there are not"
    );
    let metrics = there.iter().filter(|name| name.starts_with("fanout_"));
    let untold: Vec<_> = metrics.filter(|name| !told.contains(*name)).collect();
    assert!(untold.is_empty(), "docs/production.md does not name {untold:?}");
}
