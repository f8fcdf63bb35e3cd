//! Subscriptions: made, fetched, settled and ended by their caller alone, and requests about them that are wrong.

use fanout_tests::eventually;
use fanout_tests::http_bus::{HttpBus, STRUCTURED, document};
use serde_json::{Value, json};

use super::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_made_fetched_settled_and_ended() {
    let bus = HttpBus::start("").await;
    let wanted = json!({ "need": "durable", "filter": { "tenants": ["acme"] } });
    let made = bus
        .json("PUT", "/v1/subscriptions/billing", wanted.clone())
        .await
        .good();
    assert_eq!(
        (&made["name"], &made["need"], &made["made_by"]),
        (&json!("billing"), &json!("durable"), &json!("call"))
    );
    bus.json("PUT", "/v1/subscriptions/billing", wanted).await.good();
    let other = json!({ "need": "queue" });
    let conflict = bus.json("PUT", "/v1/subscriptions/billing", other).await;
    assert_eq!(conflict.problem(409), "subscription-conflict");
    for id in ["evt_1", "evt_2", "evt_3", "evt_4", "evt_5"] {
        assert_eq!(bus.publish("acme", id).await.good()["durable_subscriptions"], 1);
    }
    bus.publish("globex", "evt_1").await.good();

    let fetch = async |max: u32| {
        let asked = json!({ "max_deliveries": max, "wait_ms": 5_000 });
        let fetched = bus.json("POST", "/v1/subscriptions/billing:fetch", asked).await.good();
        fetched["deliveries"].as_array().unwrap().clone()
    };
    let settle = async |settlements: Value| {
        bus.json("POST", "/v1/settlements", json!({ "settlements": settlements }))
            .await
    };
    let deliveries = fetch(5).await;
    assert_eq!(deliveries.len(), 5);
    let token = |i: usize| deliveries[i]["token"].clone();
    let settled = settle(json!([
        { "token": token(0), "verdict": "handled" },
        { "token": token(1), "verdict": "dead-letter", "reason": "no amount" },
        { "token": token(2), "verdict": "still-working" },
        { "token": token(3), "verdict": "retry-after", "delay_ms": 1, "reason": "later" },
        { "token": token(4), "verdict": "released" },
    ]));
    let settled = settled.await.good();
    let outcomes: Vec<_> = settled["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["outcome"].as_str().unwrap())
        .collect();
    assert_eq!(outcomes, ["settled", "settled", "extended", "settled", "settled"]);
    let extended = settled["results"][2]["token"].clone();
    settle(json!([{ "token": extended, "verdict": "handled" }]))
        .await
        .good();
    let mut again = std::collections::BTreeMap::new();
    while again.len() < 2 {
        for delivery in fetch(10).await {
            settle(json!([{ "token": delivery["token"], "verdict": "handled" }]))
                .await
                .good();
            again.insert(
                delivery["event"]["id"].as_str().unwrap().to_owned(),
                delivery["attempt"].as_u64(),
            );
        }
    }
    assert_eq!(
        again,
        [("evt_4".to_owned(), Some(2)), ("evt_5".to_owned(), Some(1))].into()
    );
    let nobodys =
        settle(json!([{ "token": "AAAA", "verdict": "handled" }, { "token": "!", "verdict": "handled" }])).await;
    assert_eq!(nobodys.problem(422), "invalid-token");
    assert_eq!(nobodys.value()["results"].as_array().unwrap().len(), 2);

    let paused = bus.ask("POST", "/v1/subscriptions/billing:pause", &[], "").await.good();
    assert_eq!(paused["state"], "paused");
    bus.ask("POST", "/v1/subscriptions/billing:resume", &[], "")
        .await
        .good();
    bus.json("POST", "/v1/subscriptions/billing:rewind", json!({ "to": "first" }))
        .await
        .good();
    eventually("everything comes again", async || {
        let one = bus.get("/v1/subscriptions/billing").await.good();
        (one["state"] == "active" && one["pending"] == 5).then_some(())
    })
    .await;
    let listed = bus.get("/v1/subscriptions").await.good();
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 1);
    assert_eq!(
        bus.ask("DELETE", "/v1/subscriptions/billing", &[], "").await.status,
        204
    );
    for (method, path) in [
        ("DELETE", "/v1/subscriptions/billing"),
        ("GET", "/v1/subscriptions/billing"),
        ("POST", "/v1/subscriptions/billing:pause"),
    ] {
        let gone = bus.ask(method, path, &[], "").await;
        assert_eq!(gone.problem(404), "unknown-subscription", "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_its_caller_s_whatever_it_speaks() {
    let bus = HttpBus::start("").await;
    bus.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }))
        .await
        .good();
    let mut event = document("acme", "evt_1");
    event.as_object_mut().unwrap().remove("source");
    bus.ask("POST", "/v1/events", &[STRUCTURED], event.to_string())
        .await
        .good();
    let client = fanout_client::connect(&bus.url("")).await.unwrap();
    let wanted = fanout_client::Subscription::durable("billing");
    let mut deliveries = client.subscribe(wanted).await.unwrap();
    let delivery = tokio::time::timeout(LIMIT, deliveries.recv())
        .await
        .expect("it comes in time");
    let delivery = delivery.expect("the stream goes on").unwrap();
    assert_eq!(delivery.event().id, "evt_1");
    assert!(
        delivery.event().source.contains("anyone"),
        "of its caller's own source: {}",
        delivery.event().source
    );
    delivery.ack().await.unwrap();
    eventually("it is settled", async || {
        let one = bus.get("/v1/subscriptions/billing").await.good();
        (one["pending"] == 0 && one["in_flight"] == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_subscription_is_asked_rightly() {
    let bus = HttpBus::start("").await;
    bus.json("PUT", "/v1/subscriptions/a", json!({ "need": "durable" }))
        .await
        .good();
    for (method, path, body, status, code) in [
        ("PUT", "/v1/subscriptions/b", json!({}), 400, "invalid-request"),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "everything" }),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "reach": "inbox" }),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "start": "first" }),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "queue", "concurrency": 1 }),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "backfill", "start": "soon" }),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "concurrency": 1001 }),
            422,
            "invalid-setting",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "filter": { "tenants": ["\u{0}"] } }),
            422,
            "invalid-tenant",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "filter": { "event_types": ["**.a"] } }),
            422,
            "invalid-pattern",
        ),
        (
            "PUT",
            "/v1/subscriptions/a%00b",
            json!({ "need": "durable" }),
            422,
            "invalid-subscription",
        ),
        (
            "PUT",
            "/v1/subscriptions/b?x=1",
            json!({ "need": "durable" }),
            400,
            "invalid-request",
        ),
        ("PUT", "/v1/subscriptions/b", json!([]), 400, "invalid-request"),
        ("POST", "/v1/subscriptions/a", json!({}), 404, "not-found"),
        ("POST", "/v1/subscriptions/a:jump", json!({}), 404, "not-found"),
        ("POST", "/v1/subscriptions/a:rewind", json!({}), 400, "invalid-request"),
        (
            "POST",
            "/v1/subscriptions/a:rewind",
            json!({ "to": "0/99" }),
            422,
            "unknown-position",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!({ "wait_ms": -1 }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!({ "wait_ms": 1e30 }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!({ "wait": 1 }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/subscriptions/b:fetch",
            json!({}),
            404,
            "unknown-subscription",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!({ "max_deliveries": 0 }),
            422,
            "invalid-setting",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!({ "max_deliveries": 1_001 }),
            422,
            "invalid-setting",
        ),
        // An object's members have names: a list of their values is none.
        (
            "PUT",
            "/v1/subscriptions/b",
            json!(["durable", [["acme"]]]),
            400,
            "invalid-request",
        ),
        (
            "PUT",
            "/v1/subscriptions/b",
            json!({ "need": "durable", "filter": [["acme"]] }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/subscriptions/a:rewind",
            json!(["first"]),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/subscriptions/a:fetch",
            json!([1, null, 0]),
            400,
            "invalid-request",
        ),
        ("POST", "/v1/subscriptions/a:fetch", json!([]), 400, "invalid-request"),
        ("POST", "/v1/settlements", json!([[]]), 400, "invalid-request"),
        (
            "POST",
            "/v1/settlements",
            json!({ "settlements": [["TOKEN", "dead-letter", "x"]] }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/settlements",
            json!({ "settlements": [{ "token": "" }] }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/settlements",
            json!({ "settlements": [{ "token": "", "verdict": "handled", "reason": "" }] }),
            400,
            "invalid-request",
        ),
        (
            "POST",
            "/v1/settlements",
            json!({ "settlements": vec![json!({ "token": "", "verdict": "handled" }); 1_001] }),
            413,
            "too-many-events",
        ),
    ] {
        let answer = bus.json(method, path, body.clone()).await;
        let shown: String = body.to_string().chars().take(120).collect();
        assert_eq!(answer.problem(status), code, "{method} {path} {shown}");
    }
    let untyped = bus
        .ask("PUT", "/v1/subscriptions/b", &[], r#"{"need":"durable"}"#)
        .await;
    assert_eq!(untyped.problem(415), "unsupported-media-type");
    let twice = bus.ask(
        "PUT",
        "/v1/subscriptions/b",
        &[("content-type", "application/json")],
        r#"{"need":"queue","need":"durable"}"#,
    );
    assert_eq!(twice.await.problem(400), "invalid-request");
    let listed = bus.get("/v1/subscriptions").await.good();
    assert_eq!(
        listed["subscriptions"].as_array().unwrap().len(),
        1,
        "nothing else was made"
    );
}
