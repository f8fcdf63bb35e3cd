//! What the server says of itself over HTTP, held to what it does: by requests of our own, and by schemathesis.

use std::collections::BTreeSet;
use std::process::Command;

use fanout_tests::http_bus::{Answered, BATCHED, HttpBus, STRUCTURED, document};
use serde_json::{Value, json};

/// Requests to each operation: good ones and bad ones, with and without bodies.
async fn answers(bus: &HttpBus, method: &str, path: &str) -> Vec<Answered> {
    let path = path
        .replace("{tenant}", "acme")
        .replace("{name}", "billing")
        .replace("{code}", "store-full");
    let event = document("acme", "evt_1").to_string();
    let batch = format!("[{event},1]");
    let json = [("content-type", "application/json")];
    let query = match (method, path.rsplit_once(':')) {
        ("POST", Some((_, "at"))) => "?at=2031-01-01T00:00:00Z",
        ("DELETE", None) if path.ends_with("scheduled") => "?tenant=acme&source=%2Ftests&id=evt_1",
        ("GET", None) if path == "/v1/life" => "?position=0/1",
        _ => "",
    };
    let right = format!("{path}{query}");
    let mut answers = Vec::new();
    let settlements = json!({ "settlements": [{ "token": "AA", "verdict": "handled" }] }).to_string();
    for (path, headers, body) in [
        (&right, &[STRUCTURED][..], event.as_str()),
        (&right, &[BATCHED], &batch),
        (&right, &json, r#"{"need":"durable"}"#),
        (&right, &json, r#"{"to":"first"}"#),
        (&right, &json, r#"{"wait_ms":0}"#),
        (&right, &json, &settlements),
        (&right, &json, "{"),
        (&right, &[], ""),
        (&format!("{path}?surprise=1"), &[STRUCTURED], &event),
        (&path, &[("origin", "https://evil.example")], ""),
        (&right, &[("authorization", "Bearer nobodys")], ""),
    ] {
        answers.push(bus.ask(method, path, headers, body).await);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_that_the_document_lists() {
    let bus = HttpBus::start("").await;
    let document = bus.get("/openapi.json").await.good();
    let paths = document["paths"].as_object().expect("paths");
    let mut good = BTreeSet::new();
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().expect("operations") {
            let method = method.to_uppercase();
            if (method.as_str(), path.as_str()) == ("GET", "/v1/events") {
                // What it answers well never ends: `http_tail.rs` reads that.
                continue;
            }
            // An operation before may have ended it.
            bus.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }))
                .await
                .good();
            for answer in answers(&bus, &method, path).await {
                let listed = &operation["responses"][answer.status.to_string()];
                assert!(
                    listed.is_object(),
                    "{method} {path}: {answer:?} is not in {}",
                    operation["responses"]
                );
                let types = listed["content"].as_object();
                let listed_type = types.is_none_or(|types| types.contains_key(answer.content_type()));
                assert!(listed_type, "{method} {path}: {answer:?} is not in {listed}");
                if answer.status < 300 {
                    good.insert(format!("{method} {path}"));
                }
            }
        }
    }
    let all: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, operations)| {
            let methods = operations.as_object().expect("operations").keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let never: Vec<_> = all.difference(&good).collect();
    // A settlement of a token that nobody was given is not answered well.
    assert_eq!(never, ["GET /v1/events", "POST /v1/settlements"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let packages = std::env::var_os("FANOUT_SCHEMATHESIS").expect(
        "FANOUT_SCHEMATHESIS names the folder with the Python package schemathesis: `cargo xtask test` installs it, or `pip install --target FOLDER schemathesis`",
    );
    let bus = HttpBus::start("").await;
    bus.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }))
        .await
        .good();
    bus.publish("acme", "evt_1").await.good();
    let work = tempfile::tempdir().expect("a folder");
    let mut run = Command::new("python3");
    run.env("PYTHONPATH", packages)
        .current_dir(work.path())
        .args(["-m", "schemathesis.cli", "run", &bus.url("/openapi.json")])
        // Of each answer: its status and its content type are listed, its body has the schema, and nothing is a fault of the
        // server's. What else it checks takes every refusal of the contract for a fault of the schema.
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"])
        .args(["--phases", "examples,coverage,fuzzing", "--mode", "all"])
        .args(["--max-examples", "25", "--seed", "7", "--generation-database", "none"])
        .args(["--request-timeout", "10", "--workers", "2", "--no-color"])
        // It never ends; and waiting is not what is tested.
        .args(["--exclude-path", "/v1/events", "--exclude-path", "/v1/subscriptions/{name}:fetch"]);
    let done = tokio::task::spawn_blocking(move || run.output());
    let done = tokio::time::timeout(std::time::Duration::from_secs(240), done).await;
    let output = done
        .expect("it ends in time")
        .expect("it is waited for")
        .expect("schemathesis runs");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}\n--- log ---\n{}", bus.served.log());
    assert!(
        said.contains("passed") || said.contains("No issues"),
        "it tested something: {said}"
    );
    assert_eq!(bus.get("/readyz").await.good()["ready"], Value::Bool(true));
}
