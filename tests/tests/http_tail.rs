//! Live tails: the log as server-sent events, without a gap and without a repeat.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use fanout_tests::http_bus::{HttpBus, STRUCTURED, document};
use fanout_tests::http_caller::HttpCaller;
use fanout_tests::tail_reader::TailReader;

async fn publish(bus: &HttpCaller, tenant: &str, ids: std::ops::Range<u32>) {
    for id in ids {
        bus.publish(tenant, &format!("{tenant}_{id}")).await.good();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_back_misses_nothing_and_sees_nothing_twice() {
    let mut bus = HttpBus::start("").await;
    publish(&bus, "acme", 0..3).await;
    let mut live = TailReader::open(&bus, "", "").await;
    let mut all = TailReader::open(&bus, "?from=first", "").await;
    for id in 0..3 {
        assert_eq!(all.event().await, format!("acme_{id}"));
    }
    publish(&bus, "acme", 3..5).await;
    for id in 3..5 {
        assert_eq!(live.event().await, format!("acme_{id}"), "what came after it began");
        assert_eq!(all.event().await, format!("acme_{id}"));
    }
    // One that began before anything came goes on where it began.
    let quiet = TailReader::open(&bus, "", "").await;
    let (quiet, left) = (quiet.last_id.clone(), all.last_id.clone());
    assert_eq!((quiet.as_str(), left.as_str()), ("0/5", "0/5"));
    drop(all);
    publish(&bus, "acme", 5..8).await;
    for last in [quiet, left] {
        let mut again = TailReader::open(&bus, "?from=first", &last).await;
        for id in 5..8 {
            assert_eq!(again.event().await, format!("acme_{id}"));
        }
    }
    for id in 5..8 {
        assert_eq!(live.event().await, format!("acme_{id}"));
    }
    // The store goes, and comes back: the same connection goes on.
    bus.nats.kill();
    bus.nats.restart().await;
    fanout_tests::eventually("the store is back", async || {
        (bus.publish("acme", "acme_8").await.status == 200).then_some(())
    })
    .await;
    publish(&bus, "acme", 9..11).await;
    for id in 8..11 {
        assert_eq!(live.event().await, format!("acme_{id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_divided_log_is_read_on_in_every_partition() {
    let bus = HttpBus::start("").await;
    let text = std::fs::read_to_string(&bus.policy).unwrap();
    std::fs::write(&bus.policy, format!("topology = \"sharded(4)\"\n{text}")).unwrap();
    bus.served.signal("HUP");
    let attempts = AtomicU32::new(0);
    fanout_tests::eventually("the log is divided", async || {
        // An id of before stays where it was.
        let attempt = attempts.fetch_add(1, Ordering::Relaxed);
        let positions =
            ["a", "b", "c", "d", "e", "f", "g", "h"].map(|tenant| (tenant, format!("first_{tenant}_{attempt}")));
        let mut partitions = BTreeSet::new();
        for (tenant, id) in positions {
            let receipt = bus.publish(tenant, &id).await.value();
            partitions.extend(
                receipt["position"]
                    .as_str()
                    .and_then(|p| p.split_once('/'))
                    .map(|(p, _)| p.to_owned()),
            );
        }
        (partitions.len() > 2).then_some(())
    })
    .await;
    let mut seen = BTreeSet::new();
    let mut reader = TailReader::open(&bus, "?from=first", "").await;
    for round in 0..4 {
        let wanted: BTreeSet<_> = ["a", "b", "c", "d"].map(|t| format!("{t}_{round}")).into();
        for tenant in ["a", "b", "c", "d"] {
            publish(&bus, tenant, round..round + 1).await;
        }
        while !seen.is_superset(&wanted) {
            let id = reader.event().await;
            assert!(seen.insert(id.clone()), "{id} came twice");
            // It comes back after each event.
            let last = reader.last_id.clone();
            reader = TailReader::open(&bus, "?from=first", &last).await;
        }
    }
    // A position orders nothing in the partitions beside its own: neither a tail nor a rewind begins there.
    let answer = bus.ask("GET", "/v1/events?from=1/1", &[], "").await;
    assert_eq!(answer.problem(409), "unknown-position");
    let made = bus
        .json(
            "PUT",
            "/v1/subscriptions/audit",
            serde_json::json!({ "need": "durable" }),
        )
        .await;
    made.good();
    let to = serde_json::json!({ "to": "1/1" });
    let answer = bus.json("POST", "/v1/subscriptions/audit:rewind", to).await;
    assert_eq!(answer.problem(422), "unknown-position");
    let shown = bus.ask("GET", "/v1/subscriptions/audit", &[], "").await.good();
    assert_eq!(shown["state"], "active", "it is as it was: {shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_what_it_asked_for_and_what_it_may() {
    let bus = HttpBus::start("").await;
    let text = std::fs::read_to_string(&bus.policy).unwrap();
    let mut voided = document("acme", "voided");
    voided["type"] = "invoice.voided".into();
    bus.ask("POST", "/v1/events", &[STRUCTURED], voided.to_string())
        .await
        .good();
    publish(&bus, "acme", 0..1).await;
    publish(&bus, "globex", 0..1).await;
    publish(&bus, "initech", 0..1).await;
    let mut some = TailReader::open(&bus, "?from=first&type=*.paid&tenant=globex&tenant=acme", "").await;
    assert_eq!(some.event().await, "acme_0");
    assert_eq!(some.event().await, "globex_0");
    let mut later = TailReader::open(&bus, "?from=0/3", "").await;
    assert_eq!(later.event().await, "globex_0");

    // The policy takes a right away: what was open ends and says so, and is not opened again.
    std::fs::write(
        &bus.policy,
        text.replace("subscribe.tenants = \"*\"", "subscribe.tenants = [\"acme\"]"),
    )
    .unwrap();
    bus.served.signal("HUP");
    let (kind, data) = some.message().await.expect("it is told");
    assert_eq!(
        (kind.as_str(), data["code"].as_str()),
        ("end", Some("tenant-not-permitted")),
        "{data}"
    );
    assert!(some.message().await.is_none(), "and that was the last");
    assert_eq!(
        bus.get("/v1/events?tenant=globex").await.problem(403),
        "tenant-not-permitted"
    );
    publish(&bus, "globex", 1..2).await;
    publish(&bus, "acme", 1..2).await;
    let mut mine = TailReader::open(&bus, "?from=first", "").await;
    let mut ids = Vec::new();
    while ids.last().is_none_or(|id| id != "acme_1") {
        ids.push(mine.event().await);
    }
    assert_eq!(ids, ["voided", "acme_0", "acme_1"]);
}

/// What a reader is told that has to come back, after which it is told nothing more.
async fn told_to_come_back(reader: &mut TailReader) -> String {
    let (kind, data) = reader.message().await.expect("it is told");
    assert_eq!(
        (kind.as_str(), data["code"].as_str()),
        ("end", Some("topology-changed")),
        "{data}"
    );
    assert!(reader.message().await.is_none(), "and that was the last");
    reader.last_id.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_to_come_back_goes_on_where_it_stood() {
    let bus = HttpBus::start("").await;
    let text = std::fs::read_to_string(&bus.policy).unwrap();
    publish(&bus, "acme", 0..1).await;
    publish(&bus, "globex", 0..1).await;
    let mut reader = TailReader::open(&bus, "?from=first", "").await;
    assert_eq!(reader.event().await, "acme_0");
    assert_eq!(reader.event().await, "globex_0");
    // It may read less than it reads.
    let narrow = text.replace("subscribe.tenants = \"*\"", "subscribe.tenants = [\"acme\"]");
    std::fs::write(&bus.policy, &narrow).unwrap();
    bus.served.signal("HUP");
    let last = told_to_come_back(&mut reader).await;
    publish(&bus, "globex", 1..2).await;
    publish(&bus, "acme", 1..2).await;
    let mut reader = TailReader::open(&bus, "?from=first", &last).await;
    assert_eq!(reader.event().await, "acme_1");
    // The log is divided.
    std::fs::write(&bus.policy, format!("topology = \"sharded(4)\"\n{narrow}")).unwrap();
    bus.served.signal("HUP");
    let last = told_to_come_back(&mut reader).await;
    publish(&bus, "acme", 2..4).await;
    let mut reader = TailReader::open(&bus, "?from=first", &last).await;
    for id in 2..4 {
        assert_eq!(reader.event().await, format!("acme_{id}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_may_come_back_at_another_instance() {
    let bus = HttpBus::start("").await;
    let (_served, elsewhere) = bus.another();
    let mut reader = TailReader::open(&bus, "", "").await;
    let mut last = reader.last_id.clone();
    let mut next = 0;
    for round in 0..10 {
        // Published at either, and read at the other: what that one has read of the log may be less than the reader has.
        let (here, there): (&HttpCaller, &HttpCaller) = match round % 2 {
            0 => (&bus, &elsewhere),
            _ => (&elsewhere, &bus),
        };
        for id in round * 4..round * 4 + 4 {
            let at = if id % 2 == 0 { here } else { there };
            at.publish("acme", &format!("acme_{id}")).await.good();
        }
        for _ in 0..3 {
            assert_eq!(reader.event().await, format!("acme_{next}"));
            last.clone_from(&reader.last_id);
            next += 1;
        }
        reader = TailReader::open(there, "", &last).await;
    }
    while next < 40 {
        assert_eq!(reader.event().await, format!("acme_{next}"));
        next += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_place_in_the_log_is_refused() {
    let bus = HttpBus::start("").await;
    publish(&bus, "acme", 0..1).await;
    for (path, headers, status, code) in [
        ("/v1/events?from=soon", &[][..], 400, "invalid-request"),
        ("/v1/events?from=first&from=first", &[], 400, "invalid-request"),
        ("/v1/events?types=a", &[], 400, "invalid-request"),
        ("/v1/events?type=**.a", &[], 422, "invalid-pattern"),
        ("/v1/events?tenant=%00", &[], 422, "invalid-tenant"),
        ("/v1/events", &[("last-event-id", "42")], 400, "invalid-request"),
        ("/v1/events", &[("last-event-id", "0/99")], 409, "unknown-position"),
        ("/v1/events?from=0/99", &[], 409, "unknown-position"),
    ] {
        let answer = bus.ask("GET", path, headers, "").await;
        assert_eq!(answer.problem(status), code, "{path} {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_of_a_filter_hold_for_a_tail_s() {
    let bus = HttpBus::start("\n[limits]\ntenants-per-subscription = 2\n").await;
    TailReader::open(&bus, "?tenant=a&tenant=b", "").await;
    let answer = bus.get("/v1/events?tenant=a&tenant=b&tenant=c").await;
    assert_eq!(answer.problem(422), "limit-exceeded");
    let made = bus
        .json(
            "PUT",
            "/v1/subscriptions/three",
            serde_json::json!({ "need": "durable", "filter": { "tenants": ["a", "b", "c"] } }),
        )
        .await;
    assert_eq!(made.problem(422), "limit-exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_before_it_was_read_is_told() {
    let bus = HttpBus::start("\n[retention]\nmax-age = \"1s\"\n\n[dedupe]\nwindow = \"1s\"\n").await;
    publish(&bus, "acme", 0..3).await;
    let stream = bus.nats.client().await;
    let log = async_nats::jetstream::new(stream)
        .get_stream("fanout_payments_log")
        .await;
    let log = log.expect("the log has a name");
    fanout_tests::eventually("they expire", async || {
        let state = log.get_info().await.expect("the log is there").state;
        (state.first_sequence == 4).then_some(())
    })
    .await;
    publish(&bus, "acme", 3..4).await;
    let mut late = TailReader::open(&bus, "", "0/1").await;
    let (kind, data) = late.message().await.expect("it is told");
    assert_eq!(
        (kind.as_str(), &data["first"], &data["last"]),
        ("expired", &"0/2".into(), &"0/3".into()),
        "{data}"
    );
    assert_eq!(data["code"], "retention-gap");
    assert_eq!(late.event().await, "acme_3");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_are_one_consumer_of_the_store() {
    const READERS: usize = 200;
    let bus = HttpBus::start("").await;
    publish(&bus, "acme", 0..2).await;
    let consumers = async || {
        let nats = async_nats::jetstream::new(bus.nats.client().await);
        let log = nats
            .get_stream("fanout_payments_log")
            .await
            .expect("the log has a name");
        log.get_info().await.expect("the log is there").state.consumer_count
    };
    assert_eq!(consumers().await, 0);
    let mut readers = Vec::new();
    for i in 0..READERS {
        // Every tenth begins before what is kept, and reads the store by itself first.
        let query = if i % 10 == 0 { "?from=first" } else { "" };
        readers.push(TailReader::open(&bus, query, "").await);
    }
    publish(&bus, "acme", 2..4).await;
    for (i, reader) in readers.iter_mut().enumerate() {
        let first = if i % 10 == 0 { 0 } else { 2 };
        for id in first..4 {
            assert_eq!(reader.event().await, format!("acme_{id}"), "reader {i}");
        }
    }
    fanout_tests::eventually("those that have caught up left", async || {
        (consumers().await == 1).then_some(())
    })
    .await;
    drop(readers);
    fanout_tests::eventually("nothing is left", async || (consumers().await == 0).then_some(())).await;
}
