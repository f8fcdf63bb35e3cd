//! The bounds of live tails: who reaches one is told, and others go on. The bus runs in this process, with bounds that a test
//! reaches.

use std::time::Duration;

use fanout_plan::listen::Listening;
use fanout_provider::{Server, Share, TailLimits};
use fanout_tests::http_caller::{HttpCaller, STRUCTURED, document};
use fanout_tests::tail_reader::TailReader;
use fanout_tests::{ANYONE_HERE, Cli, SERVED_POLICY, eventually};
use fanout_transport::Access;
use fanout_transport::testing::NatsServer;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Of a second caller.
const TOKEN: &str = "fanout_of-another";
const LIMIT: Duration = Duration::from_secs(60);
/// More than the kernel takes for a reader that takes nothing.
const EVENTS: u32 = 120;
const EVENT_BYTES: usize = 128 << 10;

/// A bus with two callers; `one` is known by the loopback.
struct Bus {
    one: HttpCaller,
    other: HttpCaller,
    address: String,
    serving: tokio::task::JoinHandle<()>,
    _nats: NatsServer,
    _cli: Cli,
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Bus {
    async fn start(tails: TailLimits) -> Self {
        let nats = NatsServer::start().await;
        let cli = Cli::new(nats.url());
        let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
        let other = format!("[callers.other]\ntoken-sha256 = [\"{hash}\"]\nsubscribe.tenants = \"*\"\n");
        let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}\n{other}"));
        let server = Server {
            policy,
            place: None,
            nats: Access {
                urls: nats.url(),
                ..Access::default()
            },
            jetstream: None,
            listening: Listening {
                endpoints: vec!["http://127.0.0.1:0".to_owned()],
                by_flags: true,
                ..Listening::default()
            },
            tails,
        };
        let (ready, listens) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let serving = fanout_provider::serve(server, |_, endpoints| {
                ready.send(endpoints[0].to_string()).expect("it is waited for");
            });
            serving.await.expect("it serves");
        });
        let url = timeout(LIMIT, listens)
            .await
            .expect("it is ready in time")
            .expect("it is ready");
        let one = HttpCaller::at(&url);
        Self {
            other: one.with_token(TOKEN),
            address: one.url("").replace("http://", ""),
            one,
            serving,
            _nats: nats,
            _cli: cli,
        }
    }

    async fn publish_large(&self, ids: std::ops::Range<u32>) {
        for id in ids {
            let mut event = document("acme", &format!("acme_{id}"));
            event["data"] = "x".repeat(EVENT_BYTES).into();
            let stored = self
                .one
                .ask("POST", "/v1/events", &[STRUCTURED], event.to_string())
                .await;
            stored.good();
        }
    }

    /// A reader that takes nothing by itself, and that the kernel takes little for.
    async fn reluctant(&self, query: &str) -> Reluctant {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4 << 10).expect("it is small");
        let mut stream = socket
            .connect(self.address.parse().expect("an address"))
            .await
            .expect("it listens");
        let request = format!("GET /v1/events{query} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("it is sent");
        let mut reader = Reluctant {
            stream,
            read: Vec::new(),
        };
        while !reader.read.windows(4).any(|bytes| bytes == b"\nid:") {
            reader.byte().await;
        }
        assert!(reader.read.starts_with(b"HTTP/1.1 200"), "{:?}", reader.read);
        reader
    }
}

/// A socket from which a tail is read as slowly as it takes.
struct Reluctant {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Reluctant {
    async fn byte(&mut self) {
        let byte = timeout(LIMIT, self.stream.read_u8()).await.expect("one more in time");
        self.read.push(byte.expect("it goes on"));
    }

    /// Reads all that is left: the events in order, the last `id`, and the code that it ended with.
    async fn rest(mut self) -> (Vec<String>, String, String) {
        let mut chunk = vec![0; 64 << 10];
        // The last chunk of the response is an empty one.
        while !self.read.ends_with(b"\r\n0\r\n\r\n") {
            let read = timeout(LIMIT, self.stream.read(&mut chunk))
                .await
                .expect("it ends in time");
            let read = read.expect("in order");
            assert!(read > 0, "it ends with its last chunk");
            self.read.extend_from_slice(&chunk[..read]);
        }
        let text = without_chunks(&self.read);
        let (mut ids, mut last, mut end) = (Vec::new(), String::new(), String::new());
        for line in text.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut last),
                Some(("data", data)) => {
                    let data: serde_json::Value = serde_json::from_str(data).expect("data is JSON");
                    match (data["event"]["id"].as_str(), data["code"].as_str()) {
                        (Some(id), _) => ids.push(id.to_owned()),
                        (None, code) => code.unwrap_or_default().clone_into(&mut end),
                    }
                }
                _ => {}
            }
        }
        (ids, last, end)
    }
}

/// The body of a response with `transfer-encoding: chunked`.
fn without_chunks(response: &[u8]) -> String {
    let head = response
        .windows(4)
        .position(|bytes| bytes == b"\r\n\r\n")
        .expect("a head");
    let mut rest = &response[head + 4..];
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|bytes| bytes == b"\r\n").expect("a size");
        let size = std::str::from_utf8(&rest[..line]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return String::from_utf8(body).expect("text");
        }
        body.extend_from_slice(&rest[line + 2..][..size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

/// Reads on until the last event, coming back as often as it is asked to.
async fn read_on(caller: &HttpCaller, query: &str, mut last: String) -> Vec<String> {
    let mut ids = Vec::new();
    let whole = async {
        loop {
            let mut reader = TailReader::begin(caller, query, &last).await;
            while let Some((kind, data)) = reader.message().await {
                if kind == "end" {
                    assert_eq!(data["code"], "slow-reader", "{data}");
                    break;
                }
                ids.push(data["event"]["id"].as_str().expect("an event").to_owned());
                if ids.last() == Some(&format!("acme_{}", EVENTS - 1)) {
                    return;
                }
            }
            last = reader.last_id;
        }
    };
    timeout(LIMIT, whole).await.expect("all is read in time");
    ids
}

fn all() -> Vec<String> {
    (0..EVENTS).map(|id| format!("acme_{id}")).collect()
}

/// Holds a caller to a refusal that says what to do and when.
async fn is_refused(caller: &HttpCaller) {
    let answer = caller.get("/v1/events").await;
    assert_eq!(answer.problem(429), "too-many-tails");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(answer.value()["retry_after_ms"], 1_000);
    let detail = answer.value()["detail"].to_string();
    assert!(detail.contains("2 live tails of this caller, or 3 of all"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_at_its_bound_leaves_others_theirs() {
    let limits = TailLimits {
        open: Share { of_one: 2, of_all: 3 },
        ..TailLimits::default()
    };
    let bus = Bus::start(limits).await;
    let mine = [
        TailReader::open(&bus.one, "", "").await,
        TailReader::open(&bus.one, "", "").await,
    ];
    is_refused(&bus.one).await;
    let mut theirs = TailReader::open(&bus.other, "", "").await;
    // Which has one of its own, and there are no more.
    is_refused(&bus.other).await;
    is_refused(&bus.one).await;
    bus.one.publish("acme", "evt_1").await.good();
    assert_eq!(theirs.event().await, "evt_1");
    for mut reader in mine {
        assert_eq!(reader.event().await, "evt_1");
    }
    eventually("places that were left are given away", async || {
        let answer = bus.one.send("GET", "/v1/events", &[], "").await;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_catches_up_byte_by_byte_gives_way() {
    let limits = TailLimits {
        catching_up: Share { of_one: 1, of_all: 2 },
        catches_up_for: Duration::from_secs(2),
        ..TailLimits::default()
    };
    let bus = Bus::start(limits).await;
    bus.publish_large(0..EVENTS).await;
    let mut slow = bus.reluctant("?from=first").await;
    // Another caller has its place at once.
    let mut others = TailReader::open(&bus.other, "?from=first", "").await;
    assert_eq!(others.event().await, "acme_0");
    // The same caller's next waits for it, and does not wait for the slow one to take what it was sent.
    let next = read_on(&bus.one, "?from=first", String::new());
    let reading = async {
        loop {
            slow.byte().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let next = tokio::select! {
        next = next => next,
        () = reading => unreachable!("it goes on"),
    };
    assert_eq!(next, all());
    let (mut ids, last, end) = slow.rest().await;
    assert_eq!(end, "slow-reader");
    assert!(ids.len() < all().len(), "it was told before it had all");
    ids.extend(read_on(&bus.one, "?from=first", last).await);
    assert_eq!(ids, all(), "it goes on where it stood");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_further_behind_than_is_kept_is_told_and_loses_nothing() {
    let limits = TailLimits {
        kept_bytes: 1 << 20,
        kept_events: 4,
        ..TailLimits::default()
    };
    let bus = Bus::start(limits).await;
    let slow = bus.reluctant("").await;
    let mut quick = TailReader::open(&bus.other, "", "").await;
    for id in 0..EVENTS {
        bus.publish_large(id..id + 1).await;
        assert_eq!(quick.event().await, format!("acme_{id}"), "others are not held up");
    }
    let (mut ids, last, end) = slow.rest().await;
    assert_eq!(end, "slow-reader");
    assert!(ids.len() < all().len(), "it was told before it had all");
    ids.extend(read_on(&bus.one, "", last).await);
    assert_eq!(ids, all());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_tail_shows_that_it_is_there() {
    let limits = TailLimits {
        heartbeat: Duration::from_millis(50),
        ..TailLimits::default()
    };
    let bus = Bus::start(limits).await;
    let mut quiet = TailReader::open(&bus.one, "", "").await;
    let before = quiet.last_id.clone();
    for _ in 0..3 {
        let (kind, data) = quiet.block().await.expect("it goes on");
        assert!(kind == "comment" && data.is_null(), "{kind} {data}");
    }
    assert_eq!(quiet.last_id, before, "which moves nothing");
    bus.one.publish("acme", "evt_1").await.good();
    assert_eq!(quiet.event().await, "evt_1");
}
