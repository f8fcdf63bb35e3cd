//! Events in: each once, as they came, in batches, later, and what is no request.

use fanout_tests::http_bus::{BATCHED, HttpBus, STRUCTURED, document};
use serde_json::json;

use super::BINARY;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_stored_once_whatever_it_is_written_as() {
    let bus = HttpBus::start("").await;
    let first = bus.ask("POST", "/v1/events", &BINARY, "evt_1").await.good();
    assert_eq!(
        first,
        json!({ "position": "0/1", "duplicate": false, "durable_subscriptions": 0 })
    );
    let again = json!({ "position": "0/1", "duplicate": true, "durable_subscriptions": 0 });
    assert_eq!(bus.publish("acme", "evt_1").await.good(), again);
    let mut of_path = document("acme", "evt_1");
    of_path.as_object_mut().unwrap().remove("tenant");
    let in_path = bus
        .ask("POST", "/v1/tenants/acme/events", &[STRUCTURED], of_path.to_string())
        .await;
    assert_eq!(in_path.good(), again);
    let batch = json!([
        document("acme", "evt_1"),
        document("globex", "evt_1"),
        document("acme", "evt_2")
    ]);
    let each = bus
        .ask("POST", "/v1/events", &[BATCHED], batch.to_string())
        .await
        .good();
    let positions: Vec<_> = each["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["position"], &r["duplicate"]))
        .collect();
    assert_eq!(
        positions,
        [
            (&json!("0/1"), &json!(true)),
            (&json!("0/2"), &json!(false)),
            (&json!("0/3"), &json!(false))
        ]
    );
    assert_eq!(bus.stored().await, ["evt_1", "evt_1", "evt_2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_comes_out_as_it_went_in() {
    let bus = HttpBus::start("").await;
    bus.json("PUT", "/v1/subscriptions/all", json!({ "need": "durable" }))
        .await
        .good();
    let mut event = json!({
        "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": "evt_1", "subject": "Euro €",
        "time": "2026-11-28T10:00:00Z", "partitionkey": "k", "dataschema": "urn:x", "datacontenttype": "application/json",
        "data": { "amount": 1, "list": [1, null, "é"] }, "flag": true, "count": -3,
    });
    bus.ask("POST", "/v1/events", &[STRUCTURED], event.to_string())
        .await
        .good();
    event["flag"] = json!("true");
    event["count"] = json!("-3");
    let text = [
        &BINARY[..4],
        &[
            ("ce-id", "evt_2"),
            ("ce-subject", "Euro%20%E2%82%AC"),
            ("content-type", "text/plain"),
        ],
    ]
    .concat();
    bus.ask("POST", "/v1/events", &text, "a\nb").await.good();
    let bytes = [&BINARY[..4], &[("ce-id", "evt_3"), ("content-type", "image/png")]].concat();
    bus.ask("POST", "/v1/events", &bytes, vec![0xff, 0x00]).await.good();
    let fetched = bus
        .json("POST", "/v1/subscriptions/all:fetch", json!({ "wait_ms": 5_000 }))
        .await
        .good();
    let events: Vec<_> = fetched["deliveries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["event"].clone())
        .collect();
    let like = |id: &str, content_type: &str| json!({ "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": id, "datacontenttype": content_type });
    let mut text = like("evt_2", "text/plain");
    text["subject"] = json!("Euro €");
    text["data"] = json!("a\nb");
    let mut bytes = like("evt_3", "image/png");
    bytes["data_base64"] = json!("/wA=");
    assert_eq!(events, [event, text, bytes]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_well_only_if_everything_is_stored() {
    let bus = HttpBus::start("\n[quota.tenant.globex]\nevents-per-second = 1\n").await;
    let bad = json!({ "specversion": "1.0", "tenant": "acme", "type": "invoice.paid", "source": "/tests", "id": "" });
    let mixed = json!([document("acme", "evt_1"), bad, 1, document("acme", "evt_2")]).to_string();
    let answer = bus.ask("POST", "/v1/events", &[BATCHED], mixed.clone()).await;
    assert_eq!(answer.problem(422), "invalid-attribute");
    let results = answer.value()["results"].clone();
    let codes: Vec<_> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["problem"]["code"].as_str())
        .collect();
    assert_eq!(
        codes,
        [None, Some("invalid-attribute"), Some("invalid-attribute"), None],
        "{results}"
    );
    assert_eq!(results[3]["position"], "0/2");
    let together = bus.ask("POST", "/v1/events:together", &[BATCHED], mixed).await;
    assert_eq!(together.problem(400), "invalid-attribute");
    let good = json!([document("acme", "evt_3"), document("acme", "evt_4")]).to_string();
    let receipts = bus.ask("POST", "/v1/events:together", &[BATCHED], good).await.good();
    assert_eq!(receipts["receipts"][1]["position"], "0/4");
    let many: Vec<_> = (0..5).map(|i| document("globex", &format!("g_{i}"))).collect();
    let answer = bus.ask("POST", "/v1/events", &[BATCHED], json!(many).to_string()).await;
    assert_eq!(answer.problem(429), "quota-exceeded");
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    let empty = bus.ask("POST", "/v1/events", &[BATCHED], "[]").await.good();
    assert_eq!(empty, json!({ "results": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_can_wait_and_be_cancelled() {
    let bus = HttpBus::start("").await;
    let body = document("acme", "evt_1").to_string();
    let at = "/v1/events:at?at=2031-01-01T00:00:00Z";
    let kept = bus.ask("POST", at, &[STRUCTURED], body.clone()).await.good();
    assert_eq!(kept, json!({ "due": "2031-01-01T00:00:00Z", "duplicate": false }));
    let again = bus
        .ask(
            "POST",
            "/v1/events:at?at=2032-01-01T00:00:00Z",
            &[STRUCTURED],
            body.clone(),
        )
        .await
        .good();
    assert_eq!(again, json!({ "due": "2031-01-01T00:00:00Z", "duplicate": true }));
    let cancel = "/v1/scheduled?tenant=acme&source=%2Ftests&id=evt_1";
    let cancelled = bus.ask("DELETE", cancel, &[], "").await.good();
    assert_eq!(cancelled, json!({ "cancellation": "cancelled" }));
    let never = bus
        .ask("DELETE", "/v1/scheduled?tenant=acme&id=evt_9", &[], "")
        .await
        .good();
    assert_eq!(never, json!({ "cancellation": "not-waiting" }));
    for bad in [
        "/v1/events:at",
        "/v1/events:at?at=soon",
        "/v1/events:at?at=2031-01-01T00:00:00Z&at=2031-01-01T00:00:00Z",
    ] {
        let answer = bus.ask("POST", bad, &[STRUCTURED], body.clone()).await;
        assert_eq!(answer.problem(400), "invalid-request", "{bad}");
    }
    let far = bus
        .ask("POST", "/v1/events:at?at=2200-01-01T00:00:00Z", &[STRUCTURED], body)
        .await;
    assert_eq!(far.problem(422), "invalid-due-time");
    assert_eq!(bus.stored().await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_publishes_nothing_and_says_why() {
    let bus = HttpBus::start("").await;
    let whole = document("acme", "evt_1").to_string();
    let with = |header: (&'static str, &'static str)| [&BINARY[..], &[header]].concat();
    let without = |name: &str| BINARY.into_iter().filter(|(n, _)| *n != name).collect::<Vec<_>>();
    let many = format!("[{}]", vec![whole.as_str(); 100_001].join(","));
    let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    let twice = whole.replacen('{', "{\"id\":\"evt_2\",", 1);
    let huge = whole.replacen('{', "{\"count\":1e400,", 1);
    for (headers, body, status, code) in [
        (with(("ce-subject", "%FF")), "", 400, "invalid-attribute"),
        (with(("ce-subject", "100%")), "", 400, "invalid-attribute"),
        (with(("ce-id", "evt_2")), "", 400, "invalid-attribute"),
        (with(("ce-time", "yesterday")), "", 400, "invalid-attribute"),
        (without("ce-specversion"), "", 400, "invalid-attribute"),
        (without("ce-id"), "", 400, "invalid-attribute"),
        (without("ce-tenant"), "", 422, "invalid-tenant"),
        (with(("ce-nul", "%00")), "", 422, "invalid-attribute"),
        (with(("ce-Bad_Name", "x")), "", 422, "invalid-attribute"),
        ([&BINARY[..5], &[STRUCTURED]].concat(), &whole, 400, "invalid-attribute"),
        ([&BINARY[4..5], &[BATCHED]].concat(), "[]", 400, "invalid-attribute"),
        (
            vec![("content-type", "application/cloudevents+xml")],
            &whole,
            415,
            "unsupported-media-type",
        ),
        (
            vec![("content-type", "application/json")],
            &whole,
            415,
            "unsupported-media-type",
        ),
        (vec![], &whole, 415, "unsupported-media-type"),
        (
            vec![STRUCTURED, ("content-encoding", "gzip")],
            &whole,
            415,
            "unsupported-media-type",
        ),
        (with(("content-encoding", "br")), "", 415, "unsupported-media-type"),
        (vec![STRUCTURED], "[]", 400, "invalid-attribute"),
        (vec![STRUCTURED], "\"\"", 400, "invalid-attribute"),
        (vec![STRUCTURED], "", 400, "invalid-attribute"),
        (vec![STRUCTURED], &deep, 400, "invalid-attribute"),
        (vec![STRUCTURED], &twice, 400, "invalid-attribute"),
        (vec![STRUCTURED], &huge, 400, "invalid-attribute"),
        (vec![BATCHED], "{}", 400, "invalid-attribute"),
        (vec![BATCHED], &deep, 400, "invalid-attribute"),
    ] {
        let answer = bus.ask("POST", "/v1/events", &headers, body).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!(
            (answer.status, answer.problem(answer.status).as_str()),
            (status, code),
            "{headers:?} {shown} {answer:?}"
        );
    }
    let answer = bus.ask("POST", "/v1/events", &[BATCHED], many).await;
    assert_eq!(answer.status, 413, "{answer:?}");
    for (method, path, status, code) in [
        ("POST", "/v1/events?dry-run=1", 400, "invalid-request"),
        ("POST", "/v1/tenants/globex/events", 400, "invalid-attribute"),
        ("POST", "/v1/tenants/%00/events", 400, "invalid-attribute"),
        ("POST", "/v1/tenants/%ff/events", 400, "invalid-request"),
        ("POST", "/v1/event", 404, "not-found"),
        ("POST", "/v1/events/", 404, "not-found"),
        ("PUT", "/v1/events", 405, "method-not-allowed"),
        ("PATCH", "/v1/subscriptions/a", 405, "method-not-allowed"),
        ("OPTIONS", "/v1/events", 405, "method-not-allowed"),
    ] {
        let answer = bus.ask(method, path, &[STRUCTURED], whole.clone()).await;
        assert_eq!(answer.problem(status), code, "{method} {path}");
        assert_eq!(
            answer.headers.contains_key("allow"),
            status == 405,
            "{method} {path} {answer:?}"
        );
    }
    let head = bus.ask("HEAD", "/livez", &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
    assert_eq!(bus.stored().await, [""; 0], "nothing was published");
}
