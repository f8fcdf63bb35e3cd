//! The contract over HTTP: events in, subscriptions, deliveries and their settlement, and what goes wrong.

use fanout_tests::eventually;
use fanout_tests::http_bus::{BATCHED, HttpBus, STRUCTURED, document};
use serde_json::{Value, json};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
const BINARY: [(&str, &str); 6] = [
    ("ce-specversion", "1.0"),
    ("ce-tenant", "acme"),
    ("ce-type", "invoice.paid"),
    ("ce-source", "/tests"),
    ("ce-id", "evt_1"),
    ("content-type", "text/plain"),
];

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
