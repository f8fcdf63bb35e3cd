//! Live tails, over HTTP and on the command line.

use std::process::Command;

use fanout_tests::http_bus::{HttpBus, STRUCTURED};
use fanout_tests::{Running, beside_the_tests};
use serde_json::{Value, json};

const PATTERN: &str = r#"{ "source": ["/tests"], "data": { "amount": [{ "numeric": [">", 5] }] } }"#;

async fn publish(bus: &HttpBus, numbers: std::ops::Range<usize>) {
    for i in numbers {
        for (id, amount) in [(format!("small-{i}"), 5), (format!("large-{i}"), 6)] {
            let event = json!({
                "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": id,
                "data": { "amount": amount },
            });
            bus.ask("POST", "/v1/events", &[STRUCTURED], event.to_string())
                .await
                .good();
        }
    }
}

/// Reads a tail until so many events came, and returns their ids.
async fn read(mut response: reqwest::Response, count: usize) -> Vec<String> {
    let mut text = String::new();
    let whole = |text: &str| text.matches("data: {").count() >= count && text.ends_with("\n\n");
    while !whole(&text) {
        let chunk = tokio::time::timeout(std::time::Duration::from_secs(30), response.chunk());
        let chunk = chunk.await.expect("something comes").unwrap().expect("it goes on");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text.lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| {
            serde_json::from_str::<Value>(data).unwrap()["event"]["id"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_sends_what_matches() {
    let bus = HttpBus::start("").await;
    publish(&bus, 0..20).await;
    let query = reqwest::Url::parse_with_params("http://bus/", [("pattern", PATTERN)]).unwrap();
    let query = query.query().unwrap();
    let open = async |from: &str| {
        let response = bus.send("GET", &format!("/v1/events?{query}{from}"), &[], "").await;
        assert_eq!(response.status().as_u16(), 200);
        response
    };
    let (all, live) = (open("&from=first").await, open("").await);
    publish(&bus, 20..30).await;
    let large = |numbers: std::ops::Range<usize>| numbers.map(|i| format!("large-{i}")).collect::<Vec<_>>();
    assert_eq!(read(all, 30).await, large(0..30), "stored, and then live");
    assert_eq!(read(live, 10).await, large(20..30));

    let file = bus.policy.with_file_name("pattern.json");
    std::fs::write(&file, PATTERN).unwrap();
    let mut tail = Command::new(beside_the_tests("fanout"));
    tail.args(["--json", "tail", "--from", "first", "--count", "30", "--pattern"])
        .arg(&file)
        .arg(&bus.policy)
        .env("NATS_URL", bus.cli.nats());
    let mut tail = Running::start(tail);
    for id in large(0..30) {
        let line: Value = serde_json::from_str(&tail.line()).unwrap();
        assert_eq!(line["id"], id);
    }
    assert!(tail.ended().await.success());
}
