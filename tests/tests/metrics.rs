//! The numbers of a bus at work, read by other people's parsers.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use fanout_tests::eventually;
use fanout_tests::http_bus::{HttpBus, document};
use serde_json::{Value, json};

const OPEN_METRICS: (&str, &str) = ("accept", "application/openmetrics-text; version=1.0.0");

/// Parses OpenMetrics as Prometheus's own library for Python does, which refuses what the format does not allow, and shows
/// every sample.
const PARSE: &str = "
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {}
for f in text_string_to_metric_families(sys.stdin.read()):
    families[f.name] = {'type': f.type, 'unit': f.unit, 'samples': [[s.name, s.labels, s.value] for s in f.samples]}
json.dump(families, sys.stdout)
";

fn parsed(text: &str) -> Value {
    let packages = std::env::var_os("FANOUT_PROMETHEUS_CLIENT").expect(
        "FANOUT_PROMETHEUS_CLIENT names the folder with the Python package prometheus-client: `cargo xtask test` installs it, or `pip install --target FOLDER prometheus-client`",
    );
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", packages).args(["-c", PARSE]);
    serde_json::from_str(&piped(python, text)).expect("families")
}

/// What a program says of a text, which it likes.
fn piped(mut command: Command, text: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text");
    std::fs::write(&file, text).expect("it is written");
    let text_file = std::fs::File::open(&file).expect("it opens");
    let output = command.stdin(Stdio::from(text_file)).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}\n{text}");
    String::from_utf8(output.stdout).expect("UTF-8") + &said
}

fn promtool() -> PathBuf {
    PathBuf::from(std::env::var_os("FANOUT_PROMTOOL").expect(
        "FANOUT_PROMTOOL names promtool, of Debian's package prometheus: `cargo xtask test` unpacks it, or name your own",
    ))
}

/// The number of a sample whose labels include these.
fn sample(families: &Value, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let all = families
        .as_object()?
        .values()
        .flat_map(|f| f["samples"].as_array().into_iter().flatten());
    let mut found = all.filter(|s| s[0] == name && labels.iter().all(|(k, v)| s[1][*k] == *v));
    found.next()?[2].as_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_at_work_is_legal_open_metrics() {
    let bus = HttpBus::start("[telemetry]\ntenants = [\"acme\"]\n[quota]\nmax-bytes = \"1MiB\"\n").await;
    bus.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }))
        .await
        .good();
    bus.publish("acme", "evt_1").await.good();
    bus.publish("acme", "evt_1").await.good();
    bus.publish("globex", "evt_2").await.good();
    let mut bad = document("acme", "evt_3");
    bad["type"] = json!("no type\n");
    let refused = bus.json("POST", "/v1/events", bad).await;
    assert!(refused.status >= 400, "{refused:?}");
    let mut too_large = document("acme", "evt_4");
    too_large["data"] = json!("x".repeat(600 << 10));
    let headers = [("content-type", "application/cloudevents+json")];
    let answer = bus.ask("POST", "/v1/events", &headers, too_large.to_string()).await;
    assert_eq!(answer.problem(413), "event-too-large");

    let families = eventually("the numbers are there", async || {
        let metrics = bus.ask("GET", "/metrics", &[OPEN_METRICS], "").await;
        assert_eq!(
            (metrics.status, metrics.content_type()),
            (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        let families = parsed(&metrics.text);
        let pending = families["fanout_pending"]["samples"].as_array()?.first()?;
        let is_known = families["fanout_oldest_age_seconds"].is_object();
        (pending[2] == 2.0 && is_known).then_some(families)
    })
    .await;
    let of = |name: &str, labels: &[(&str, &str)]| {
        sample(&families, name, labels).unwrap_or_else(|| panic!("{name} {labels:?} in {families:#}"))
    };
    let payments = [("bus", "payments")];
    assert_eq!(of("fanout_events_accepted_total", &payments), 2.0);
    assert_eq!(of("fanout_events_repeated_total", &payments), 1.0);
    assert_eq!(of("fanout_events_refused_total", &[("code", "event-too-large")]), 1.0);
    let publish = [("messaging_operation_name", "publish"), ("messaging_system", "fanout")];
    assert!(of("messaging_client_operation_duration_seconds_count", &publish) >= 4.0);
    assert!(of("fanout_store_duration_seconds_count", &[("operation", "publish")]) >= 3.0);
    assert!(of("fanout_reconciles_total", &[("outcome", "done")]) >= 1.0);
    assert!(of("fanout_connections_accepted_total", &[("transport", "http")]) >= 1.0);
    assert!(of("fanout_calls_total", &[("transport", "http"), ("outcome", "answered")]) >= 4.0);
    assert!(of("fanout_oldest_age_seconds", &[]) < 3_600.0);
    let used = of("fanout_quota_used_ratio", &[("tenant", "acme")]);
    assert!(used > 0.0 && used < 0.01, "{used}");
    assert_eq!(
        sample(&families, "fanout_quota_used_ratio", &[("tenant", "globex")]),
        None,
        "no setting names it"
    );
    assert_eq!(families["fanout_store_duration_seconds"]["unit"], "seconds");

    // The same numbers in Prometheus's own format.
    let metrics = bus.get("/metrics").await;
    let mut check = Command::new(promtool());
    check.args(["check", "metrics"]);
    let said = piped(check, &metrics.text);
    assert_eq!(said.trim(), "", "promtool has nothing to say");
}
