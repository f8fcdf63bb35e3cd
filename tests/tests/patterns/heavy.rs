//! A pattern and an event that take long to judge hold up nobody else.

use fanout_tests::http_bus::HttpBus;
use serde_json::{Value, json};

/// Nearly as many comparisons as a field takes, each of which reads a value of the event to its end and does not accept it.
fn heavy() -> Value {
    let comparisons: Vec<_> = (0..250)
        .map(|i| json!({ "equals-ignore-case": format!("é{i}") }))
        .collect();
    json!({ "data": { "values": comparisons } })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_answers_while_it_judges() {
    let bus = HttpBus::start("").await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        let wanted = json!({ "need": "durable", "filter": { "pattern": heavy() } });
        let made = bus.json("PUT", &format!("/v1/subscriptions/{name}"), wanted).await;
        made.good();
    }
    let event = json!({
        "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": "large",
        "data": { "values": vec!["É"; 3_000] },
    });
    let headers = [("content-type", "application/cloudevents+json")];
    bus.ask("POST", "/v1/events", &headers, event.to_string()).await.good();

    let fetches = names.map(|name| {
        let path = format!("/v1/subscriptions/{name}:fetch");
        let bus = &bus;
        async move { bus.json("POST", &path, json!({})).await.good() }
    });
    let mut fetches = std::pin::pin!(futures::future::join_all(fetches));
    let mut answered = 0;
    let fetched = loop {
        tokio::select! {
            fetched = &mut fetches => break fetched,
            ready = bus.get("/readyz") => {
                ready.good();
                answered += 1;
            }
        }
    };
    assert!(fetched.iter().all(|f| f["deliveries"] == json!([])), "{fetched:?}");
    // Each fetch takes as long as hundreds of these; where it stops the instance, a dozen are answered in all.
    assert!(
        answered >= 20,
        "it was ready {answered} times while four fetches were answered"
    );
}
