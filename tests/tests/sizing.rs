//! `fanout size` before a bus is there, and what the server then takes for it: streams, consumers and the disk of the events are
//! as predicted, within a fifth, and memory and open files are no more.

use std::path::Path;
use std::process::Command;

use async_nats::jetstream;
use bytes::Bytes;
use fanout_client::{Event, Subscription, connect};
use fanout_tests::{ANYONE_HERE, Cli, SERVED_POLICY, Served, eventually};
use fanout_transport::testing::{NatsServer, NatsSettings};
use futures::TryStreamExt as _;
use serde_json::Value;

/// What is published is what the retention holds of this rate: 5 a second for an hour.
const RATE: u64 = 5;
const EVENTS: u64 = RATE * 3_600;
const EVENT_BYTES: usize = 1_024;
const TENANTS: u64 = 20;
const TYPES: u64 = 5;
/// The bus's instance has two: its own, and the one that it publishes by; and the test's.
const CONNECTIONS: u64 = 2;

/// Bytes of the files below a folder.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => bytes_below(&entry.path()),
            // It may go meanwhile.
            _ => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}

/// Open files of a process.
fn open_files(id: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64
}

/// The sum of those of a prediction's figures that are of a kind, or of one of them.
fn predicted(size: &Value, of: &str, what: Option<&str>) -> u64 {
    let figures = size["figures"].as_array().unwrap().iter();
    figures
        .filter(|figure| figure["of"] == of && what.is_none_or(|what| figure["what"] == what))
        .map(|figure| figure["amount"].as_u64().unwrap())
        .sum()
}

#[track_caller]
fn within_a_fifth(what: &str, predicted: u64, measured: u64) {
    let (predicted, measured) = (predicted as f64, measured as f64);
    let off = (predicted - measured) / measured;
    println!(
        "{what}: {predicted} predicted, {measured} measured, {:+.0} %",
        100.0 * off
    );
    assert!(off.abs() <= 0.2, "{what}: {predicted} predicted, {measured} measured");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_takes_what_its_size_was_said_to_be() {
    let store = tempfile::tempdir().unwrap();
    let nats = NatsServer::start_with(NatsSettings {
        store: Some(store.path().to_owned()),
        ..NatsSettings::default()
    })
    .await;
    let cli = Cli::new(nats.url());
    let own = "retention.max-age = \"1h\"\nretention.max-bytes = \"64MiB\"\ndedupe.window = \"1h\"\n";
    let subscriptions = ["0", "1", "2"].map(|name| {
        format!(
            "\n[subscriptions.s{name}]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\nevent-types = \"type{}.*\"\n",
            name
        )
    });
    let (bus, sections) = SERVED_POLICY.split_once("\n\n").unwrap();
    let policy = cli.policy(&format!(
        "{bus}\n{own}\n{sections}{ANYONE_HERE}{}",
        subscriptions.concat()
    ));
    let load = [
        ("--rate", RATE),
        ("--event-bytes", EVENT_BYTES as u64),
        ("--tenants", TENANTS),
        ("--event-types", TYPES),
        ("--connections", CONNECTIONS),
    ];
    let load: Vec<_> = load
        .iter()
        .flat_map(|(flag, n)| [(*flag).to_owned(), n.to_string()])
        .collect();
    let load: Vec<_> = load.iter().map(String::as_str).collect();
    // Before anything is there.
    let said = Command::new(fanout_tests::beside_the_tests("fanout"))
        .args(["--json", "size"])
        .arg(&policy)
        .args(&load)
        .output()
        .unwrap();
    let size: Value = serde_json::from_slice(&said.stdout).unwrap();

    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let data = Bytes::from(vec![b'x'; EVENT_BYTES]);
    let all: Vec<_> = (0..EVENTS)
        .map(|n| {
            let tenant = format!("tenant{}", n % TENANTS);
            let event_type = format!("type{}.happened", n / TENANTS % TYPES);
            Event::new(tenant, event_type, format!("event-{n:08}"))
                .source("sizing")
                .data(data.clone())
        })
        .collect();
    for some in all.chunks(1_000) {
        for receipt in bus.publish_many(some).await {
            receipt.unwrap();
        }
    }

    // Deliveries begin, and what they need is made.
    let mut subscribers = Vec::new();
    for name in ["s0", "s1", "s2"] {
        let mut deliveries = bus.subscribe(Subscription::declared(name)).await.unwrap();
        deliveries.recv().await.unwrap().unwrap();
        subscribers.push(deliveries);
    }

    let client = nats.client().await;
    let js = jetstream::new(client.clone());
    let streams: Vec<_> = js.streams().try_collect().await.unwrap();
    let consumers: usize = streams.iter().map(|stream| stream.state.consumer_count).sum();
    for stream in &streams {
        println!(
            "{}: {} consumers, {} bytes",
            stream.config.name, stream.state.consumer_count, stream.state.bytes
        );
    }
    within_a_fifth("streams", predicted(&size, "streams", None), streams.len() as u64);
    within_a_fifth("consumers", predicted(&size, "consumers", None), consumers as u64);
    let log = store.path().join("jetstream/$G/streams/fanout_payments_log/msgs");
    eventually("the events are in files", || async {
        (bytes_below(&log) > EVENTS * EVENT_BYTES as u64).then_some(())
    })
    .await;
    within_a_fifth(
        "disk of the events",
        predicted(&size, "disk", Some("events")),
        bytes_below(&log),
    );
    drop(client);
    // It closes files that it has not written to for a while. Its memory follows the last burst, and says nothing of a steady load.
    let (open, bound) = (open_files(nats.id()), predicted(&size, "files", None));
    println!("open files: at most {bound} predicted, {open} measured");
    assert!(open <= bound, "open files: {bound} predicted, {open} measured");
}
