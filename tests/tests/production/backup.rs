//! A backup of every stream, and its restoration.

use std::time::Duration;

use bytes::Bytes;
use fanout_tests::Served;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::cluster::{Cluster, audited, publish};

/// What a backup holds: all but the bucket of leases, which is in memory.
const ON_DISK: [&str; 7] = [
    "fanout_payments_log",
    "fanout_payments_dead",
    "fanout_payments_scheduled",
    "fanout_payments_marks",
    "fanout_payments_retries",
    "KV_fanout_payments_registry",
    "KV_fanout_payments_attempts",
];

/// A stream as a backup holds it.
struct Copied {
    name: String,
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
}

/// The answer of JetStream, which is no error.
async fn ask(nats: &async_nats::Client, subject: &str, request: Value) -> Value {
    let answer = nats.request(subject.to_owned(), request.to_string().into()).await;
    let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}

/// As `nats stream backup --consumers` does it.
async fn back_up(nats: &async_nats::Client, name: &str) -> Copied {
    let inbox = nats.new_inbox();
    let mut coming = nats.subscribe(inbox.clone()).await.unwrap();
    let subject = format!("$JS.API.STREAM.SNAPSHOT.{name}");
    let request = json!({ "deliver_subject": inbox, "no_consumers": false });
    let said = ask(nats, &subject, request).await;
    let mut chunks = Vec::new();
    let all = async {
        while let Some(message) = coming.next().await {
            if message.payload.is_empty() {
                break;
            }
            if let Some(reply) = message.reply {
                nats.publish(reply, Bytes::new()).await.unwrap();
            }
            chunks.push(message.payload);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    Copied {
        name: name.to_owned(),
        config: said["config"].clone(),
        state: said["state"].clone(),
        chunks,
    }
}

/// As `nats stream restore` does it.
async fn restore(nats: &async_nats::Client, copied: &Copied) {
    let subject = format!("$JS.API.STREAM.RESTORE.{}", copied.name);
    let request = json!({ "config": copied.config, "state": copied.state });
    let said = ask(nats, &subject, request).await;
    let to = said["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in &copied.chunks {
        nats.request(to.clone(), chunk.clone()).await.unwrap();
    }
    let answer = nats.request(to, Bytes::new()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{}: {answer}", copied.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_every_stream_is_the_bus_as_it_was() {
    let cluster = Cluster::start().await;
    let policy = cluster.policy();
    let mut args = cluster.comes_as("bus");
    args.extend(["--listen", "tcp://127.0.0.1:0"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    for id in ["e1", "e2", "e3"] {
        publish(&to, id);
    }
    assert_eq!(audited(&to, 2).lines().count(), 2);
    bus.signal("TERM");
    assert!(bus.ended());

    let backup = cluster.client("backup").await;
    let mut copies = Vec::new();
    for name in ON_DISK {
        copies.push(back_up(&backup, name).await);
    }
    let js = async_nats::jetstream::new(cluster.client("bus").await);
    for name in ON_DISK.into_iter().chain(["KV_fanout_payments_leases"]) {
        js.delete_stream(name).await.unwrap();
    }
    for copied in &copies {
        restore(&backup, copied).await;
    }
    assert_eq!(cluster.refused_to("backup"), [""; 0]);
    let not_the_backups = [
        "payments.acme.webhook.invoice.paid",
        "$KV.fanout_payments_registry.mine",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_log",
        "$JS.API.STREAM.RESTORE.another",
    ];
    cluster.is_refused("backup", &not_the_backups).await;

    let bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    publish(&to, "e4");
    let given = audited(&to, 2);
    let ids: Vec<_> = given.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(ids, ["e3", "e4"], "it goes on where it was: {given}");
    let log = cluster.log().await;
    assert_eq!((log.config.num_replicas, log.state.messages), (3, 4));
}
