//! A queue subscription that is fetched: what is taken from the log beside a match, and has no place, is not lost.

use fanout_tests::http_bus::HttpBus;
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_has_every_match_in_order() {
    let bus = HttpBus::start("").await;
    let wanted = json!({ "need": "queue", "filter": { "pattern": { "id": [{ "suffix": "0" }, { "suffix": "1" }] } } });
    bus.json("PUT", "/v1/subscriptions/live", wanted).await.good();
    let fetch = async |wait_ms: u32| {
        let asked = json!({ "max_deliveries": 1, "wait_ms": wait_ms });
        let fetched = bus.json("POST", "/v1/subscriptions/live:fetch", asked).await.good();
        let ids = fetched["deliveries"].as_array().unwrap().iter();
        ids.map(|d| d["event"]["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    // From here on it listens.
    assert!(fetch(0).await.is_empty());
    let mut expected = Vec::new();
    for i in 0..200 {
        let id = format!("{i:03}");
        bus.publish("acme", &id).await.good();
        if i % 10 < 2 {
            expected.push(id);
        }
    }
    let mut given = Vec::new();
    while given.len() < expected.len() {
        given.extend(fetch(5_000).await);
    }
    assert_eq!(given, expected);
    assert!(fetch(0).await.is_empty());
    let now = bus.get("/v1/subscriptions/live").await.good();
    let counted = json!({ "handled": 40, "refused": 0, "left_out": 160, "dead_lettered": 0, "missed": 0 });
    assert_eq!(now["this_instance"], counted);
    let listed = bus.get("/v1/subscriptions").await.good();
    assert_eq!(listed["subscriptions"][0]["this_instance"], counted);
}
