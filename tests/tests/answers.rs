//! The provider answers to inboxes and nowhere else: whoever may ask it something can't have it write into the store.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream;
use bytes::Bytes;
use fanout_tests::{Bench, LinkTo, event, eventually};
use futures::StreamExt as _;

const LOG: &str = "fanout_payments_log";
/// What each of these would do to the log, if it were published to.
const HOSTILE: [&str; 4] = [
    "$JS.API.STREAM.DELETE.fanout_payments_log",
    "$JS.API.STREAM.PURGE.fanout_payments_log",
    "payments.acme.webhook.invoice.paid",
    "payments.acme.webhook.b.1",
];
const FUNCTIONS: [(&str, &str); 16] = [
    ("publisher", "publish-tenant-event"),
    ("publisher", "publish-tenant-events"),
    ("publisher", "publish-tenant-events-together"),
    ("publisher", "publish-tenant-event-at"),
    ("publisher", "cancel-scheduled"),
    ("subscriber", "subscribe-queue"),
    ("subscriber", "subscribe-durable"),
    ("subscriber", "subscribe-backfill"),
    ("subscriber", "unsubscribe"),
    ("subscriber", "pause"),
    ("subscriber", "resume"),
    ("subscriber", "rewind"),
    ("subscriber", "list-subscriptions"),
    ("inbox", "fetch"),
    ("inbox", "settle"),
    ("status", "links"),
];

fn headers(mark: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("source-id", "ingress");
    if let Some(mark) = mark {
        headers.insert("fanout-call", mark);
    }
    headers
}

async fn log_state(nats: &async_nats::Client) -> Option<(u64, u64, String)> {
    let stream = jetstream::new(nats.clone()).get_stream(LOG).await.ok()?;
    let info = stream.cached_info();
    Some((info.state.messages, info.state.last_sequence, info.created.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_answers_answers_to_inboxes_alone() {
    let all = ["publisher", "subscriber", "inbox", "status"];
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", &all, "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..3 {
        ingress
            .publish(event("acme", "invoice.paid", &format!("e{i}")))
            .await
            .unwrap();
    }
    let nats = bench.client();
    let before = log_state(nats).await.expect("a log");
    assert_eq!(before.0, 3);

    let mut asked: Vec<(String, HeaderMap, Bytes)> = Vec::new();
    for (interface, func) in FUNCTIONS {
        let subject = format!("default.bus.wrpc.0.0.1.fanout:bus/{interface}@0.2.0.{func}");
        for mark in [None, Some("whole"), Some("chunked")] {
            for body in [&b""[..], b"\xff\xff\xff\xff\x0f"] {
                asked.push((subject.clone(), headers(mark), Bytes::from_static(body)));
            }
        }
    }
    for subject in [
        "fanout.default.bus.status",
        "fanout.default.bus.metrics",
        "wasmbus.rpc.default.bus.health",
        "wasmbus.rpc.default.bus.config.update",
        "wasmbus.rpc.default.bus.linkdefs.put",
        "wasmbus.rpc.default.bus.linkdefs.del",
    ] {
        asked.push((subject.to_owned(), HeaderMap::new(), Bytes::new()));
    }
    for reply in HOSTILE {
        for (subject, headers, body) in &asked {
            nats.publish_with_reply_and_headers(subject.clone(), reply, headers.clone(), body.clone())
                .await
                .unwrap();
        }
    }
    // Each of these is behind its hostile twins, in the same subscription.
    for (subject, headers, _) in &asked {
        if subject.contains("linkdefs") || subject.contains("config") {
            continue;
        }
        let reply = nats.new_inbox();
        let mut answers = nats.subscribe(format!("{reply}.b.1")).await.unwrap();
        nats.publish_with_reply_and_headers(subject.clone(), format!("{reply}.b.1"), headers.clone(), Bytes::new())
            .await
            .unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(20), answers.next()).await;
        answer
            .unwrap_or_else(|_| panic!("{subject} is not answered any more"))
            .expect("an answer");
    }
    nats.flush().await.unwrap();
    assert_eq!(log_state(nats).await, Some(before), "the log is as it was");
    let published = ingress.publish(event("acme", "invoice.paid", "e3")).await.unwrap();
    assert_eq!(published.position.offset, 4);
    let log = bench.providers[0].log();
    assert!(log.contains("reply subject is no inbox"), "it is said");
    let lines = log
        .lines()
        .filter(|line| line.contains("reply subject is no inbox"))
        .count();
    assert!(lines < 30, "and not for each: {lines} lines");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_inboxes_elsewhere_is_answered_where_a_setting_says_so() {
    let mut bench = Bench::start(&[], &[]).await;
    let ops = async_nats::ConnectOptions::new()
        .custom_inbox_prefix("_INBOX_ops")
        .request_timeout(Some(Duration::from_secs(2)))
        .connect(bench.nats.address())
        .await
        .unwrap();
    let asked = ops.request("fanout.default.bus.status", Bytes::new()).await;
    assert!(asked.is_err(), "no setting names it: {asked:?}");
    bench.set("inbox-prefixes", "_INBOX, _INBOX_ops");
    bench.restart_provider(0).await;
    eventually("it is answered", || async {
        ops.request("fanout.default.bus.status", Bytes::new()).await.ok()
    })
    .await;
    assert!(bench.status().await.is_some(), "and so are the others");
}
