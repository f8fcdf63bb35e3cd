//! A store that does not answer as usual: its clock is an hour ahead, a part of it can't be read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use fanout_client::{Event, connect};
use fanout_plan::Timestamp;
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, eventually};
use fanout_transport::testing::NatsServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

const AN_HOUR: Duration = Duration::from_secs(3_600);

/// How the server begins to say what time it is.
const NOW: &[u8] = b"\"ts\":\"";
/// As far as the seconds.
const UP_TO_SECONDS: usize = "2026-11-30T20:11:02".len();

/// Puts an hour onto what the server says of the time.
fn an_hour_later(said: &mut [u8]) {
    let mut from = 0;
    while let Some(found) = said[from..].windows(NOW.len()).position(|w| w == NOW) {
        let begin = from + found + NOW.len();
        let time = &mut said[begin..begin + UP_TO_SECONDS];
        let at: Timestamp = format!("{}Z", std::str::from_utf8(time).unwrap()).parse().unwrap();
        time.copy_from_slice(&(at + AN_HOUR).to_string().as_bytes()[..UP_TO_SECONDS]);
        from = begin;
    }
}

/// What is changed of what comes by. It stays as long as it is.
type Change = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// A server with other words, on the way there and back. Returns its address.
async fn altered(nats: &NatsServer, there: Change, back: Change) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let (url, server) = (format!("nats://{}", listener.local_addr().unwrap()), nats.port());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(carry(from_client, to_server, Arc::clone(&there)));
            tokio::spawn(carry(from_server, to_client, Arc::clone(&back)));
        }
    });
    url
}

/// By whole lines: no word is cut.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, change: Change) {
    let mut waiting = Vec::new();
    while from.read_buf(&mut waiting).await.is_ok_and(|read| read > 0) {
        let Some(end) = waiting.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        let mut whole: Vec<_> = waiting.drain(..=end).collect();
        change(&mut whole);
        if to.write_all(&whole).await.is_err() {
            return;
        }
    }
}

/// Puts one word for another of its length.
fn replace(said: &mut [u8], word: &[u8], by: &[u8]) {
    let mut from = 0;
    while let Some(found) = said[from..].windows(word.len()).position(|w| w == word) {
        let begin = from + found;
        said[begin..begin + by.len()].copy_from_slice(by);
        from = begin + word.len();
    }
}

fn of(topology: &str) -> String {
    format!("topology = \"{topology}\"\n{SERVED_POLICY}{ANYONE_HERE}")
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_known_after_a_change_of_the_topology_by_an_instance_whose_clock_is_an_hour_behind() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, of("shared")).unwrap();
    let url = altered(&nats, Arc::new(|_| ()), Arc::new(an_hour_later)).await;
    let served = Served::start(&url, &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let publish = async |id: &str| bus.publish(&Event::new("acme", "invoice.paid", id)).await.unwrap();
    let number = AtomicUsize::new(0);
    let publish_new = async || {
        let id = number.fetch_add(1, Ordering::Relaxed).to_string();
        let receipt = publish(&id).await;
        assert!(!receipt.duplicate);
        (id, receipt.position)
    };
    let (mut id, mut position) = publish_new().await;
    for topology in ["per-tenant", "sharded(2)"] {
        std::fs::write(&policy, of(topology)).unwrap();
        served.signal("HUP");
        let next = eventually("events go elsewhere", || async {
            let (id, new) = publish_new().await;
            (new.partition != position.partition).then_some((id, new))
        })
        .await;
        let again = publish(&id).await;
        assert!(again.duplicate, "after {topology}: {again:?} was {position:?}");
        assert_eq!(again.position, position, "after {topology}");
        (id, position) = next;
    }
    // The stored times are the server's.
    let js = async_nats::jetstream::new(nats.client().await);
    let retired = js.get_stream("fanout_payments_log").await.unwrap();
    let at: Timestamp = retired.cached_info().config.metadata["fanout-retired-at"]
        .parse()
        .unwrap();
    let now = Timestamp::EPOCH + SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert!(at > now + AN_HOUR / 2, "retired at {at} by a clock that says {now}");
}

/// A stream that has no leader is missing in lists of streams, and answers nothing; its name is known.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_while_a_part_of_the_log_was_never_read() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, of("shared")).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let event = |id: &str| Event::new("acme", "invoice.paid", id);
    let first = bus.publish(&event("first")).await.unwrap();
    std::fs::write(&policy, of("per-tenant")).unwrap();
    served.signal("HUP");
    let number = AtomicUsize::new(0);
    eventually("events go elsewhere", || async {
        let id = number.fetch_add(1, Ordering::Relaxed).to_string();
        let new = bus.publish(&event(&id)).await.unwrap();
        (new.position.partition != first.position.partition).then_some(())
    })
    .await;
    drop((bus, served));

    let hidden = Arc::new(AtomicBool::new(true));
    let (is_hidden, still_hidden) = (Arc::clone(&hidden), Arc::clone(&hidden));
    let there = move |said: &mut [u8]| {
        if is_hidden.load(Ordering::Relaxed) {
            replace(
                said,
                b"STREAM.INFO.fanout_payments_log ",
                b"STREAM.INFX.fanout_payments_log ",
            );
        }
    };
    let back = move |said: &mut [u8]| {
        let list = b"stream_list_response";
        if still_hidden.load(Ordering::Relaxed) && said.windows(list.len()).any(|w| w == list) {
            replace(
                said,
                b"\"name\":\"fanout_payments_log\"",
                b"\"name\":\"another_streams_log\"",
            );
        }
    };
    let url = altered(&nats, Arc::new(there), Arc::new(back)).await;
    let served = Served::start(&url, &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let refused = bus.publish(&event("first")).await.unwrap_err();
    assert!(
        refused.message.contains("partition 0 of the log may know"),
        "{refused:?}"
    );
    hidden.store(false, Ordering::Relaxed);
    let again = eventually("the log is read", || async { bus.publish(&event("first")).await.ok() }).await;
    assert!(
        again.duplicate && again.position == first.position,
        "{again:?} was {first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_stream_with_a_partition_s_name_stops_no_publishing() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, of("shared")).unwrap();
    let start = || Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let event = |id: &str| Event::new("acme", "invoice.paid", id);
    let served = start();
    let bus = connect(&served.listen[0]).await.unwrap();
    bus.publish(&event("first")).await.unwrap();
    drop((bus, served));
    let js = async_nats::jetstream::new(nats.client().await);
    let config = async_nats::jetstream::stream::Config {
        name: "fanout_payments_log_7".to_owned(),
        subjects: vec!["somebody.else".to_owned()],
        ..Default::default()
    };
    js.create_stream(config).await.unwrap();
    // An instance that begins now has not known the log before.
    let served = start();
    let bus = connect(&served.listen[0]).await.unwrap();
    let second = bus.publish(&event("second")).await.unwrap();
    assert!(
        !second.duplicate && served.log().contains("foreign-topology"),
        "{second:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_topology_that_the_store_refuses_half_way_stops_nothing() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, of("shared")).unwrap();
    let refused = Arc::new(AtomicBool::new(true));
    let is_refused = Arc::clone(&refused);
    let there = move |said: &mut [u8]| {
        if is_refused.load(Ordering::Relaxed) {
            // The server finds another name in the request.
            let create = b"STREAM.CREATE.fanout_payments_log_2 ";
            replace(said, create, b"STREAM.CREATE.fanout_payments_log_X ");
        }
    };
    let url = altered(&nats, Arc::new(there), Arc::new(|_| ())).await;
    let served = Served::start(&url, &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();
    let publish_of = async |tenant: &str, id: &str| bus.publish(&Event::new(tenant, "invoice.paid", id)).await;
    let publish = async |id: &str| publish_of("acme", id).await.unwrap();
    let first = publish("first").await;

    std::fs::write(&policy, of("sharded(2)")).unwrap();
    served.signal("HUP");
    eventually("it is refused", || async {
        served.log().contains("does not match").then_some(())
    })
    .await;
    let js = async_nats::jetstream::new(nats.client().await);
    js.get_stream("fanout_payments_log_1").await.unwrap();
    // Whichever shard they are to be of.
    for tenant in ["acme", "globex", "initech", "hooli"] {
        let stored = publish_of(tenant, "meanwhile").await.unwrap();
        assert_eq!(stored.position.partition, 0, "{tenant}");
    }
    let meanwhile = publish("meanwhile").await;
    let again = publish("first").await;
    assert!(
        again.duplicate && again.position == first.position,
        "{again:?} was {first:?}"
    );

    refused.store(false, Ordering::Relaxed);
    let number = AtomicUsize::new(0);
    eventually("events go elsewhere", || async {
        let new = publish(&number.fetch_add(1, Ordering::Relaxed).to_string()).await;
        (new.position.partition > 0).then_some(())
    })
    .await;
    for (id, before) in [("first", first), ("meanwhile", meanwhile)] {
        let again = publish(id).await;
        assert!(
            again.duplicate && again.position == before.position,
            "{again:?} was {before:?}"
        );
    }
}
