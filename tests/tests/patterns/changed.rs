//! A pattern that changes: what it means for events that come, and for those that were refused under the one before.

use fanout_tests::eventually;
use fanout_tests::http_bus::{HttpBus, STRUCTURED};
use serde_json::{Value, json};

const NAME: &str = "/v1/subscriptions/work";

async fn wants(bus: &HttpBus, field: &str) -> Value {
    let pattern = json!({ "data": { field: [{ "exists": true }] } });
    let wanted = json!({ "need": "durable", "filter": { "pattern": pattern } });
    bus.json("PUT", NAME, wanted).await.good()
}

async fn publish(bus: &HttpBus, id: &str, data: Value) {
    let event = json!({ "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": id, "data": data });
    let published = bus.ask("POST", "/v1/events", &[STRUCTURED], event.to_string()).await;
    published.good();
}

/// The next delivery.
async fn next(bus: &HttpBus) -> Value {
    eventually("a delivery comes", || async {
        let fetch = json!({ "wait_ms": 500, "max_deliveries": 1 });
        let fetched = bus.json("POST", &format!("{NAME}:fetch"), fetch).await;
        // A change begins its deliveries anew.
        if fetched.status == 503 {
            return None;
        }
        let mut fetched = fetched.good();
        let delivery = fetched["deliveries"].as_array_mut()?.pop()?;
        Some(delivery)
    })
    .await
}

async fn settle(bus: &HttpBus, delivery: &Value, verdict: Value) {
    let mut settlement = verdict;
    settlement["token"] = delivery["token"].clone();
    let answer = bus
        .json("POST", "/v1/settlements", json!({ "settlements": [settlement] }))
        .await
        .good();
    assert_eq!(answer["results"][0]["outcome"], "settled", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_comes_again_whatever_the_pattern_says_now() {
    let bus = HttpBus::start("").await;
    let made = wants(&bus, "first").await;
    assert_eq!(
        made["filter"]["pattern"],
        json!({ "data": { "first": [{ "exists": true }] } })
    );
    publish(&bus, "later", json!({ "first": 1 })).await;
    publish(&bus, "never", json!({ "first": 2 })).await;
    publish(&bus, "other", json!({ "second": 3 })).await;

    let later = next(&bus).await;
    assert_eq!(later["event"]["id"], "later");
    settle(
        &bus,
        &later,
        json!({ "verdict": "retry-after", "delay_ms": 1, "reason": "not yet" }),
    )
    .await;
    let never = eventually("the other is delivered", || async {
        let delivery = next(&bus).await;
        if delivery["event"]["id"] == "never" {
            return Some(delivery);
        }
        settle(
            &bus,
            &delivery,
            json!({ "verdict": "retry-after", "delay_ms": 1, "reason": "not yet" }),
        )
        .await;
        None
    })
    .await;
    settle(&bus, &never, json!({ "verdict": "dead-letter", "reason": "no" })).await;

    // Neither matches any more. What was not read yet is judged by the pattern of now.
    assert_eq!(wants(&bus, "second").await["name"], "work");
    let (code, out, err) = bus.cli.run(&["dead-letters", "redrive"], &bus.policy, &["--all"]);
    assert_eq!(code, 0, "{out} {err}");
    publish(&bus, "new", json!({ "second": 4 })).await;
    publish(&bus, "old", json!({ "first": 5 })).await;
    let mut came = Vec::new();
    while came.len() < 4 {
        let delivery = next(&bus).await;
        settle(&bus, &delivery, json!({ "verdict": "handled" })).await;
        came.push(delivery["event"]["id"].as_str().unwrap().to_owned());
    }
    came.sort();
    assert_eq!(came, ["later", "never", "new", "other"]);

    // A rewind has all judged anew.
    bus.json("POST", &format!("{NAME}:rewind"), json!({ "to": "first" }))
        .await
        .good();
    let mut came = Vec::new();
    while came.len() < 2 {
        let delivery = next(&bus).await;
        settle(&bus, &delivery, json!({ "verdict": "handled" })).await;
        came.push(delivery["event"]["id"].as_str().unwrap().to_owned());
    }
    came.sort();
    assert_eq!(came, ["new", "other"]);
    eventually("nothing is left", || async {
        let listed = bus.get(NAME).await.good();
        (listed["pending"] == 0 && listed["in_flight"] == 0 && listed["waiting_for_retry"] == 0).then_some(())
    })
    .await;
    // What became of each is told by the pattern of now.
    for (id, fate) in [("new", "settled"), ("old", "left-out")] {
        let (code, out, err) = bus
            .cli
            .run(&["--json", "event"], &bus.policy, &[id, "--tenant", "acme"]);
        assert_eq!(code, 0, "{err}");
        let shown: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown["events"][0]["subscriptions"][0]["state"], fate, "{id}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_pattern_again_is_the_same_subscription() {
    let bus = HttpBus::start("").await;
    wants(&bus, "first").await;
    publish(&bus, "one", json!({ "first": 1 })).await;
    // With other spaces, it is the same.
    let wanted = r#"{ "need": "durable", "filter": { "pattern": {"data":  {"first": [ {"exists": true} ] } } } }"#;
    let headers = [("content-type", "application/json")];
    bus.ask("PUT", NAME, &headers, wanted).await.good();
    let delivery = next(&bus).await;
    assert_eq!(delivery["event"]["id"], "one");
    settle(&bus, &delivery, json!({ "verdict": "handled" })).await;
    let status = bus.cli.status(&bus.policy);
    let work = status.subscription("work").unwrap();
    assert_eq!(work.pattern.as_deref(), Some(r#"{"data":{"first":[{"exists":true}]}}"#));
    // Without one, it is for everything again.
    let plain = bus.json("PUT", NAME, json!({ "need": "durable" })).await.good();
    assert_eq!(plain["filter"].get("pattern"), None);
    publish(&bus, "two", json!({ "second": 1 })).await;
    let delivery = next(&bus).await;
    assert_eq!(delivery["event"]["id"], "two");
    settle(&bus, &delivery, json!({ "verdict": "handled" })).await;
}
