//! Who is refused: pages, operators who lack something, and strangers.

use fanout_tests::eventually;
use fanout_tests::http_bus::{HttpBus, STRUCTURED, document};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_refused_before_anything_is_done() {
    let bus = HttpBus::start("\n[http]\nallowed-origins = [\"https://console.example.com\"]\n").await;
    let body = document("acme", "evt_1").to_string();
    fn from(origin: &str) -> [(&str, &str); 2] {
        [STRUCTURED, ("origin", origin)]
    }
    let evil = bus
        .ask("POST", "/v1/events", &from("https://evil.example"), body.clone())
        .await;
    assert_eq!(evil.problem(403), "origin-not-allowed");
    for invocation in ["/", "/fanout:bus/publisher@0.2.0/publish-tenant-event"] {
        let invoked = bus
            .ask("POST", invocation, &[("origin", "https://console.example.com")], "")
            .await;
        assert_eq!(invoked.problem(403), "origin-not-allowed", "{invocation}");
    }
    let rebound = bus
        .ask(
            "POST",
            "/v1/events",
            &[STRUCTURED, ("host", "evil.example")],
            body.clone(),
        )
        .await;
    assert_eq!(rebound.problem(403), "origin-not-allowed");
    // A browser says no origin for an image or a link, and still for whom it is.
    for (name, value, status, code) in [
        ("sec-fetch-site", "cross-site", 403, "origin-not-allowed"),
        ("sec-fetch-site", "same-site", 403, "origin-not-allowed"),
        ("host", "evil.example@127.0.0.1", 400, "invalid-request"),
    ] {
        for path in ["/v1/status", "/v1/events?from=first", "/readyz"] {
            let refused = bus.ask("GET", path, &[(name, value)], "").await;
            assert_eq!(refused.problem(status), code, "{name}: {value} at {path}");
        }
    }
    for own in ["none", "same-origin"] {
        assert_eq!(
            bus.ask("GET", "/v1/status", &[("sec-fetch-site", own)], "")
                .await
                .status,
            200
        );
    }
    assert_eq!(bus.stored().await, [""; 0]);
    // Who may read answers reads refusals too, whoever makes them.
    let long = "a".repeat(9 << 10);
    let nobody = ("authorization", "Bearer nobodys");
    for (headers, body, status) in [
        (vec![], body.clone(), 200),
        (vec![], "no JSON".to_owned(), 400),
        (vec![nobody], body.clone(), 401),
        (vec![("host", "evil.example")], body.clone(), 403),
        (vec![("x-long", long.as_str())], body.clone(), 431),
    ] {
        let headers = [&from("https://console.example.com")[..], &headers].concat();
        let page = bus.ask("POST", "/v1/events", &headers, body.clone()).await;
        assert_eq!(page.status, status, "{page:?}");
        assert_eq!(
            page.headers["access-control-allow-origin"],
            "https://console.example.com"
        );
        assert_eq!(page.headers["vary"], "origin");
        assert!(
            page.headers["access-control-expose-headers"]
                .to_str()
                .is_ok_and(|names| names.contains("retry-after"))
        );
    }
    let asks = [
        ("origin", "https://console.example.com"),
        ("access-control-request-method", "POST"),
    ];
    assert_eq!(bus.ask("OPTIONS", "/v1/events", &asks, "").await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_told_what_is_missing() {
    let mut bus = HttpBus::start("").await;
    assert_eq!(bus.get("/livez").await.good(), json!({ "live": true }));
    assert_eq!(bus.get("/readyz").await.good(), json!({ "ready": true, "missing": [] }));
    bus.json("PUT", "/v1/subscriptions/billing", json!({ "need": "durable" }))
        .await
        .good();
    bus.publish("acme", "evt_1").await.good();
    let pending = "fanout_pending{bus=\"payments\",subscription=\"billing";
    eventually("the metrics have it", async || {
        let metrics = bus.get("/metrics").await;
        assert_eq!(
            (metrics.status, metrics.content_type()),
            (200, "text/plain; version=0.0.4; charset=utf-8")
        );
        metrics.text.contains(pending).then_some(())
    })
    .await;
    bus.nats.kill();
    eventually("it is not ready", async || {
        let ready = bus.get("/readyz").await;
        (ready.status == 503 && ready.value()["missing"][0]["code"] == "store-unavailable").then_some(())
    })
    .await;
    assert_eq!(bus.get("/livez").await.status, 200);
    let away = bus.publish("acme", "evt_2").await;
    assert_eq!(away.status, 503, "{away:?}");
    assert!(away.headers.contains_key("retry-after"), "{away:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_no_caller_reads_no_metrics() {
    let bus = HttpBus::start("").await;
    assert_eq!(bus.ask("GET", "/metrics", &[], "").await.status, 200);
    let text = std::fs::read_to_string(&bus.policy).unwrap();
    let elsewhere = "certificate-uri = \"spiffe://example.org/elsewhere\"";
    std::fs::write(&bus.policy, text.replace("loopback = true", elsewhere)).unwrap();
    bus.served.signal("HUP");
    fanout_tests::eventually("the caller is none any more", async || {
        let answer = bus.ask("GET", "/metrics", &[], "").await;
        (answer.status == 401 && answer.problem(401) == "unknown-caller").then_some(())
    })
    .await;
    // Nor has a body read for it.
    let answer = bus.ask("POST", "/v1/events", &[STRUCTURED], "no JSON").await;
    assert_eq!(answer.problem(401), "unknown-caller");
    assert_eq!(bus.ask("GET", "/livez", &[], "").await.status, 200);
}
