//! The binary, started and called as a host does it.

use std::process::Stdio;
use std::time::Duration;

use async_nats::client::RequestErrorKind;
use base64::Engine as _;
use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{CallContext, Client, Error, Lattice, Options};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{Decoder, Encoder};
use wasmcloud_core::HostData;
use wrpc_transport::{Decode, Encode, Packer};

const STORE: &str = "wrpc:keyvalue/store@0.2.0-draft";
const ATOMICS: &str = "wrpc:keyvalue/atomics@0.2.0-draft";
const BATCH: &str = "wrpc:keyvalue/batch@0.2.0-draft";
const BINARY: &str = env!("CARGO_BIN_EXE_fanout-dev-keyvalue");
const PATIENCE: Duration = Duration::from_secs(30);

/// `no-such-store`; it is the same as that of any variant's first case.
const NO_SUCH_STORE: &[u8] = &[1, 0];

fn host_data(nats: &NatsServer) -> String {
    let data = HostData {
        host_id: "test-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: nats.url(),
        provider_key: "kv".into(),
        ..HostData::default()
    };
    let json = serde_json::to_vec(&data).expect("JSON");
    format!("{}\r\n", base64::engine::general_purpose::STANDARD.encode(json))
}

struct KeyValue {
    nats: NatsServer,
    process: Child,
    client: Client,
}

impl KeyValue {
    async fn start() -> Self {
        let nats = NatsServer::start().await;
        let mut process = Command::new(BINARY)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let mut stdin = process.stdin.take().expect("a pipe");
        stdin.write_all(host_data(&nats).as_bytes()).await.expect("written");
        let lattice = Lattice::new(nats.client().await, Options::default())
            .await
            .expect("a lattice");
        let started = Self {
            client: Client::new(&lattice, "default.kv", "component"),
            nats,
            process,
        };
        // The last function that it serves.
        let start = Instant::now();
        while let Err(error) = started
            .try_call::<_, Result<(), ()>>(BATCH, "delete-many", ("ready", none()))
            .await
        {
            assert!(matches!(error, Error::NoResponders), "{error}");
            assert!(start.elapsed() < PATIENCE, "it does not serve");
            sleep(Duration::from_millis(5)).await;
        }
        started
    }

    async fn try_call<P, R>(&self, instance: &str, func: &str, params: P) -> Result<R, Error>
    where
        P: Encode<Packer>,
        R: Decode,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        self.client
            .call_values(CallContext::default(), instance, func, params)
            .await
    }

    /// A call that ends well.
    async fn call<P, R>(&self, instance: &str, func: &str, params: P) -> R
    where
        P: Encode<Packer>,
        Result<R, ()>: Decode,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        <<Result<R, ()> as Decode>::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        let result: Result<R, ()> = self.try_call(instance, func, params).await.expect("a result");
        result.unwrap_or_else(|()| panic!("{instance}.{func} failed"))
    }

    async fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.call(STORE, "get", (bucket, key)).await
    }
}

fn none() -> Vec<String> {
    Vec::new()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_is_there_under_its_own_key() {
    let kv = KeyValue::start().await;
    let keys = [
        "plain",
        "lines/acme/evt_1",
        "a.b",
        "..",
        "with space",
        "ü>*",
        "a=2E",
        "a=2e",
    ];
    for key in keys {
        assert_eq!(kv.get("one", key).await, None);
        let value = Bytes::from(format!("value of {key}"));
        let () = kv.call(STORE, "set", ("one", key, value)).await;
    }
    for key in keys {
        assert_eq!(kv.get("one", key).await, Some(Bytes::from(format!("value of {key}"))));
        assert!(kv.call::<_, bool>(STORE, "exists", ("one", key)).await);
        assert!(
            !kv.call::<_, bool>(STORE, "exists", ("two", key)).await,
            "a bucket of its own"
        );
    }
    let () = kv.call(STORE, "delete", ("one", "plain")).await;
    assert_eq!(kv.get("one", "plain").await, None);
    assert!(!kv.call::<_, bool>(STORE, "exists", ("one", "plain")).await);
    let () = kv.call(STORE, "delete", ("one", "plain")).await;
    let (mut listed, cursor): (Vec<String>, Option<u64>) = kv.call(STORE, "list-keys", ("one", None::<u64>)).await;
    listed.sort();
    let mut expected: Vec<_> = keys.into_iter().filter(|key| *key != "plain").collect();
    expected.sort_unstable();
    assert_eq!(
        (listed, cursor),
        (expected.into_iter().map(String::from).collect(), None)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_each_key_once_whatever_is_set_meanwhile() {
    let kv = KeyValue::start().await;
    let entry = |n: usize| (format!("key/{n}"), Bytes::from_static(b"1"));
    let entries: Vec<_> = (0..2500).map(entry).collect();
    let () = kv.call(BATCH, "set-many", ("pages", entries)).await;
    let mut listed = Vec::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let (keys, next): (Vec<String>, Option<u64>) = kv.call(STORE, "list-keys", ("pages", cursor)).await;
        listed.extend(keys);
        pages += 1;
        // A key of before is set again, one is new, one goes.
        let () = kv
            .call(BATCH, "set-many", ("pages", vec![entry(pages), entry(10_000 + pages)]))
            .await;
        let () = kv
            .call(STORE, "delete", ("pages", format!("key/{}", 10_000 + pages)))
            .await;
        match next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    listed.sort();
    let mut expected: Vec<_> = (0..2500).map(|n| entry(n).0).collect();
    expected.sort();
    assert_eq!(listed, expected);
    let (empty, cursor): (Vec<String>, Option<u64>) = kv.call(STORE, "list-keys", ("empty", None::<u64>)).await;
    assert_eq!((empty, cursor), (none(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_in_the_order_of_its_keys() {
    let kv = KeyValue::start().await;
    let value = Bytes::from_static(b"1");
    let entries = vec![("a".to_owned(), value.clone()), ("b".to_owned(), value.clone())];
    let () = kv.call(BATCH, "set-many", ("batch", entries)).await;
    let keys = vec!["b".to_owned(), "missing".to_owned(), "a".to_owned()];
    let got: Vec<Option<(String, Bytes)>> = kv.call(BATCH, "get-many", ("batch", keys.clone())).await;
    assert_eq!(
        got,
        [Some(("b".into(), value.clone())), None, Some(("a".into(), value))]
    );
    let () = kv.call(BATCH, "delete-many", ("batch", keys)).await;
    assert_eq!(kv.get("batch", "a").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_increment_is_lost() {
    let kv = KeyValue::start().await;
    let increments = (0..100).map(|_| kv.call::<_, u64>(ATOMICS, "increment", ("counts", "handled/acme", 1_u64)));
    let mut results = futures::future::join_all(increments).await;
    results.sort_unstable();
    assert_eq!(results, (1..=100).collect::<Vec<u64>>(), "each sees its own number");
    assert_eq!(kv.get("counts", "handled/acme").await, Some(Bytes::from_static(b"100")));
    let () = kv.call(STORE, "delete", ("counts", "handled/acme")).await;
    assert_eq!(
        kv.call::<_, u64>(ATOMICS, "increment", ("counts", "handled/acme", 7_u64))
            .await,
        7
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_those_of_the_interface() {
    let kv = KeyValue::start().await;
    let raw = async |params: &'static [u8]| {
        let cx = CallContext::default();
        kv.client.call(cx, STORE, "get", params.into()).await.expect("a result")
    };
    // A bucket "a b"; a bucket "a" with an empty key; one that is there.
    assert_eq!(raw(b"\x03a b\x01k").await, NO_SUCH_STORE);
    let other = raw(b"\x01a\x00").await;
    assert_eq!(other[..2], [1, 2], "an error, the case `other`");
    assert_eq!(usize::from(other[2]), other.len() - 3, "with a text");
    assert_eq!(raw(b"\x01a\x01k").await, [0, 0].as_slice(), "ok(none)");
    let () = kv
        .call(STORE, "set", ("a", "text", Bytes::from_static(b"no digits")))
        .await;
    let params = ("a", "text", 1_u64);
    let result: Result<Result<u64, ()>, Error> = kv.try_call(ATOMICS, "increment", params).await;
    assert!(
        matches!(result, Err(Error::Decode(_))),
        "an error with a text is longer than (): {result:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_the_host_says_so() {
    let mut kv = KeyValue::start().await;
    let nats = kv.nats.client().await;
    let payload = serde_json::to_vec(&serde_json::json!({ "host_id": "test-host" })).expect("JSON");
    let shutdown = nats.request("wasmbus.rpc.default.kv.default.shutdown", payload.into());
    shutdown.await.expect("an answer");
    let status = timeout(PATIENCE, kv.process.wait())
        .await
        .expect("it ends")
        .expect("a status");
    assert!(status.success());
}

/// A host that is killed can't say anything. Here it is a shell between the test and the provider.
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_the_host_is_gone() {
    let nats = NatsServer::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("host-data");
    std::fs::write(&data, host_data(&nats)).expect("written");
    let mut host = Command::new("sh")
        .args(["-c", r#""$0" < "$1" & echo $!; wait"#, BINARY])
        .arg(&data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(host.stdout.take().expect("a pipe")).lines();
    let id = lines
        .next_line()
        .await
        .expect("a line")
        .expect("the id of the provider");
    let provider = Provider(id.parse().expect("a number"));

    let connection = nats.client().await;
    let health = async || {
        let request = async_nats::Request::new().timeout(Some(Duration::from_millis(500)));
        let answer = connection.send_request("wasmbus.rpc.default.kv.health", request);
        answer.await.map_err(|error| error.kind())
    };
    let start = Instant::now();
    while health().await.is_err() {
        assert!(start.elapsed() < PATIENCE, "it does not start");
        sleep(Duration::from_millis(5)).await;
    }
    host.kill().await.expect("killed");
    let start = Instant::now();
    while !matches!(health().await, Err(RequestErrorKind::NoResponders)) {
        assert!(start.elapsed() < PATIENCE, "it goes on without a host");
        sleep(Duration::from_millis(20)).await;
    }
    drop(provider);
}

/// Should the test fail, the provider must not stay.
struct Provider(u32);

impl Drop for Provider {
    fn drop(&mut self) {
        // Otherwise it has ended, and the number may be another's by now.
        if std::thread::panicking() {
            let kill = std::process::Command::new("kill")
                .args(["-9", &self.0.to_string()])
                .status();
            eprintln!("kill: {kill:?}");
        }
    }
}
