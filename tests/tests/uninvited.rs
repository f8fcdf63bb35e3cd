//! What a stranger can cause: a refusal, made out before anything of the call is decoded, and a number in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanout_tests::types::Delivery;
use fanout_tests::{Bench, Component, LinkTo, event, eventually};
use fanout_transport::{
    CallContext, Client, ConnectOptions, Endpoint, Error, Lattice, Options, Remote, Server, Service,
};

const INTERFACES: [&str; 4] = ["publisher", "subscriber", "inbox", "status"];
/// What no decoder takes: a stranger's call is refused whatever its parameters are.
const NONSENSE: &[u8] = b"\xff\xff\xff\xff\x0f\xff\xff";

/// Every function that the bus serves, as the contract's own text has them.
fn functions() -> Vec<(String, String)> {
    let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    let mut functions = Vec::new();
    for interface in INTERFACES {
        let text = std::fs::read_to_string(wit.join(format!("{interface}.wit"))).unwrap();
        for line in text.lines() {
            let Some((name, _)) = line.trim().split_once(": func(") else {
                continue;
            };
            assert!(!name.contains(' '), "{line}");
            functions.push((format!("fanout:bus/{interface}@0.2.0"), name.to_owned()));
        }
    }
    assert_eq!(functions.len(), 16, "{functions:?}");
    functions
}

fn context() -> CallContext {
    CallContext::within(Duration::from_secs(10))
}

/// What an answer says: an encoded result has its texts as they are.
fn said(answer: Result<Bytes, Error>) -> String {
    match answer {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("{error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_refused_by_every_function() {
    let bench = Bench::start(
        &[("listen", "tcp://127.0.0.1:0")],
        &[LinkTo::caller("ingress", &INTERFACES, "*")],
    )
    .await;
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    let nobody = Client::new(&lattice, "default.bus", "nobody");
    let unnamed = Client::new(&lattice, "default.bus", "");
    let posing = Client::new(&lattice, "default.bus", "caller:loopback");
    let endpoint: Endpoint = eventually("the provider listens", || async {
        let log = bench.providers[0].log();
        let (_, said) = log.rsplit_once("endpoint=")?;
        said.split_whitespace().next()?.parse().ok()
    })
    .await;
    let remote = Remote::connect(&endpoint, ConnectOptions::default()).await.unwrap();
    for (instance, func) in functions() {
        for parameters in [&b""[..], NONSENSE] {
            let parameters = Bytes::from_static(parameters);
            for (who, client) in [("nobody", &nobody), ("unnamed", &unnamed), ("posing", &posing)] {
                let answer = said(client.call(context(), &instance, &func, parameters.clone()).await);
                assert!(answer.contains("not-linked"), "{who} calls {instance}.{func}: {answer}");
            }
            let answer = said(remote.call(context(), &instance, &func, parameters).await);
            assert!(
                answer.contains("unknown-caller"),
                "{instance}.{func} on a stream: {answer}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_interface_is_for_whose_link_includes_it() {
    let links = [
        LinkTo::caller("publishes", &["publisher"], "*"),
        LinkTo::caller("subscribes", &["subscriber"], "*"),
        LinkTo::caller("fetches", &["inbox"], "*"),
        LinkTo::caller("asks", &["status"], "*"),
        LinkTo::caller("refused", &INTERFACES, "\u{7}"),
    ];
    let bench = Bench::start(&[], &links).await;
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    let may = [
        ("publishes", "publisher"),
        ("subscribes", "subscriber"),
        ("fetches", "inbox"),
        ("asks", "status"),
    ];
    for (who, interface) in may {
        let client = Client::new(&lattice, "default.bus", who);
        for (instance, func) in functions() {
            let answer = said(
                client
                    .call(context(), &instance, &func, Bytes::from_static(NONSENSE))
                    .await,
            );
            let is_refused = answer.contains("interface-not-linked");
            let its_own = instance.contains(&format!("/{interface}@"));
            assert_eq!(is_refused, !its_own, "{who} calls {instance}.{func}: {answer}");
        }
    }
    // Who has a link that was refused is told so, and may ask why.
    let client = Client::new(&lattice, "default.bus", "refused");
    for (instance, func) in functions() {
        let answer = client.call(context(), &instance, &func, Bytes::new()).await;
        match instance.contains("/status@") {
            true => assert!(said(answer).contains("invalid-tenant")),
            false => assert!(said(answer).contains("link-refused"), "{instance}.{func}"),
        }
    }
}

/// The most memory that the provider ever had, in MiB.
fn peak(bench: &Bench) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bench.providers[0].id())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the kernel says");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .expect("a number")
        >> 10
}

fn leb128(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn list(items: u32, item: &[u8]) -> Vec<u8> {
    let mut bytes = leb128(items);
    bytes.extend(item.repeat(items as usize));
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_counted_before_they_are_decoded() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", &INTERFACES, "*")]).await;
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    let (mine, theirs) = (
        Client::new(&lattice, "default.bus", "ingress"),
        Client::new(&lattice, "default.bus", "nobody"),
    );
    let small = peak(&bench);
    const EVENT: &[u8] = &[0; 11];
    let with_extensions = [&[0; 8][..], &list(4_000_000, &[0, 0]), &[0, 0]].concat();
    let filter = [&[1, b'a'][..], &list(8_000_000, &[0]), &list(8_000_000, &[0]), &[2]].concat();
    let attacks = [
        ("inbox", "settle", list(8_300_000, &[0, 0]), "too-many-events"),
        (
            "publisher",
            "publish-tenant-events",
            list(1_500_000, EVENT),
            "too-many-events",
        ),
        (
            "publisher",
            "publish-tenant-events-together",
            list(1_500_000, EVENT),
            "too-many-events",
        ),
        (
            "publisher",
            "publish-tenant-event",
            with_extensions,
            "invalid-attribute",
        ),
        ("subscriber", "subscribe-queue", filter, "invalid-setting"),
    ];
    for (interface, func, parameters, code) in attacks {
        let instance = format!("fanout:bus/{interface}@0.2.0");
        let parameters = Bytes::from(parameters);
        let answer = mine.call(context(), &instance, func, parameters.clone()).await.unwrap();
        assert!(answer.len() < 1_000, "{func}: an answer of {} bytes", answer.len());
        assert!(said(Ok(answer)).contains(code), "{func}");
        let answer = theirs.call(context(), &instance, func, parameters).await.unwrap();
        assert!(answer.len() < 1_000, "{func}: an answer of {} bytes", answer.len());
        assert!(said(Ok(answer)).contains("not-linked"), "{func}");
    }
    // The transport's own allowance, the parameters and their copy, and a little.
    let grown = peak(&bench) - small;
    assert!(grown < 200, "{grown} MiB for calls of 17 MB");
}

/// A component answers for a batch of one with sixteen million successes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_handler_answers_is_counted_before_it_is_decoded() {
    let declared = [("subscription", "work"), ("need", "durable"), ("tenants", "*")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("worker", &["batch-handler"], &declared),
    ];
    let bench = Bench::start(&[("delivery.deadline", "10s"), ("delivery.ack-wait", "30s")], &links).await;
    let small = peak(&bench);
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    let server = Server::new(&lattice, "default.worker");
    let calls = Arc::new(AtomicUsize::new(0));
    let called = Arc::clone(&calls);
    let service = Service::new().direct(
        "fanout:bus/batch-handler@0.2.0",
        "handle-events",
        move |_, (_,): (Vec<Delivery>,)| {
            called.fetch_add(1, Ordering::Relaxed);
            // On the wire a list of bytes is what a list of successes is.
            async { Ok(Bytes::from(vec![0; 16_000_000])) }
        },
    );
    server.serve(&service).await.unwrap();
    let ingress = bench.silent_component("ingress").await;
    ingress.publish(event("acme", "invoice.paid", "e1")).await.unwrap();
    let calls = || async { (calls.load(Ordering::Relaxed) > 1).then_some(()) };
    eventually("such an answer is none, and the event comes again", calls).await;
    let grown = peak(&bench) - small;
    assert!(grown < 200, "{grown} MiB for an answer of 16 MB");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_not_many_times_as_large_as_its_call() {
    let links = [LinkTo::caller("ingress", &INTERFACES, "acme")];
    let bench = Bench::start(&[], &links).await;
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    for who in ["ingress", "nobody"] {
        let client = Client::new(&lattice, "default.bus", who);
        for (interface, func, items, item, at_most) in [
            ("inbox", "settle", 1_000, &[0, 0][..], 14),
            ("publisher", "publish-tenant-events", 1_000, &[0; 11], 6),
            ("publisher", "publish-tenant-events", 1_500, &[0; 11], 6),
        ] {
            let call = Bytes::from(list(items, item));
            let instance = format!("fanout:bus/{interface}@0.2.0");
            let answer = client.call(context(), &instance, func, call.clone()).await.unwrap();
            let (of, is) = (call.len(), answer.len());
            assert!(is <= of * at_most, "{who} calls {func}: {is} bytes for {of}");
            assert!(is > items as usize, "one answer for each");
        }
        // What is only claimed is not answered for.
        let claims = Bytes::from(leb128(1_000));
        for (instance, func) in [
            ("fanout:bus/inbox@0.2.0", "settle"),
            ("fanout:bus/publisher@0.2.0", "publish-tenant-events"),
        ] {
            let answer = client.call(context(), instance, func, claims.clone()).await;
            assert!(answer.is_err() || answer.unwrap().len() < 1_000, "{who} calls {func}");
        }
    }
}

async fn many(who: &Client, calls: usize, parameters: &'static [u8]) {
    let call = || async {
        let answer = who.call(
            context(),
            "fanout:bus/publisher@0.2.0",
            "publish-tenant-event",
            parameters.into(),
        );
        answer.await.ok()
    };
    for _ in 0..calls / 250 {
        futures::future::join_all((0..250).map(|_| call())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_in_numbers_is_counted_in_the_log() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", &INTERFACES, "*")]).await;
    let lattice = Lattice::new(bench.nats.client().await, Options::default())
        .await
        .unwrap();
    let ingress: Component = bench.silent_component("ingress").await;
    ingress.publish(event("acme", "a.b", "e1")).await.unwrap();
    let before = bench.providers[0].log().len();
    let hostile = "x\u{1b}[31m\u{7}".repeat(20);
    let clients = [
        Client::new(&lattice, "default.bus", "ingress"),
        Client::new(&lattice, "default.bus", "nobody"),
        Client::new(&lattice, "default.bus", &hostile),
    ];
    for client in &clients {
        many(client, 3_000, NONSENSE).await;
    }
    // A header that is too long, and links that are none.
    let nats = bench.client();
    for _ in 0..3_000 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("source-id", "x".repeat(300).as_str());
        let to = "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish-tenant-event";
        nats.publish_with_reply_and_headers(to, nats.new_inbox(), headers.clone(), "x".into())
            .await
            .unwrap();
        nats.publish("wasmbus.rpc.default.bus.linkdefs.put", "nonsense".into())
            .await
            .unwrap();
    }
    nats.flush().await.unwrap();
    ingress.publish(event("acme", "a.b", "e2")).await.unwrap();
    // The last line of each kind is written after a second.
    let counted = |log: &str| log.matches("events=").count();
    eventually("they are told", || async {
        (counted(&bench.providers[0].log()) > 2).then_some(())
    })
    .await;
    let log = bench.providers[0].log();
    let grown = log.len() - before;
    assert!(grown < 64 << 10, "{grown} bytes of log for 15,000 messages");
    assert!(
        !log[before..].contains('\u{1b}') && !log[before..].contains('\u{7}'),
        "what they send is escaped"
    );
}
