//! Peers that mean harm, on every transport: each costs only itself, and that not for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::RawStream;
use fanout_transport::{CallContext, ListenOptions, Options, Remote, Service, Serving};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::listening::Listening;
use crate::suite::{Wire as _, service};
use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, INSTANCE, PATIENCE, eventually};

const HELLO: &[u8] = b"\xfafanout\x01";
const MIB: usize = 1 << 20;

/// Short deadlines, so that a test sees them pass.
pub(crate) fn options() -> ListenOptions {
    ListenOptions {
        limits: Options {
            serve_deadline: Duration::from_secs(1),
            ..Options::default()
        },
        first_call_deadline: Duration::from_secs(2),
        idle_deadline: Duration::from_secs(3),
        ..ListenOptions::default()
    }
}

fn header(func: &str) -> Vec<u8> {
    let mut bytes = vec![0, u8::try_from(INSTANCE.len()).expect("short")];
    bytes.extend_from_slice(INSTANCE.as_bytes());
    bytes.push(u8::try_from(func.len()).expect("short"));
    bytes.extend_from_slice(func.as_bytes());
    bytes
}

/// A frame of a session, whose length is claimed.
fn frame(kind: u8, call: u32, claimed: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&call.to_be_bytes());
    bytes.extend_from_slice(&claimed.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn after_hello(frame: &[u8]) -> Vec<u8> {
    [HELLO, frame].concat()
}

/// What goes in front of a call's parameters.
fn context(func: &str) -> Vec<u8> {
    let mut texts = vec![0, 0, 0, 0];
    for text in [INSTANCE, func, "", "", ""] {
        texts.extend_from_slice(&u16::try_from(text.len()).expect("short").to_be_bytes());
        texts.extend_from_slice(text.as_bytes());
    }
    let mut bytes = u16::try_from(texts.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend(texts);
    bytes
}

/// What is sent, and whether the sending side is closed behind it.
fn scripts() -> Vec<(&'static str, Vec<u8>, bool)> {
    let call = context("length");
    let length = u32::try_from(call.len()).expect("short");
    let many: Vec<u8> = (0..3000).flat_map(|i| frame(0x10, i, length, &call)).collect();
    vec![
        ("nothing", Vec::new(), false),
        ("one byte", vec![0], false),
        (
            "a request of another protocol",
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            false,
        ),
        ("an unknown version", vec![7; 100], false),
        ("a name of 4 GiB", vec![0, 0xff, 0xff, 0xff, 0xff, 0x0f], false),
        (
            "a name that is no text",
            [&[0, 2, 0xff, 0xff][..], &[0]].concat(),
            false,
        ),
        ("a header without parameters", header("length"), false),
        ("a header and its end", header("length"), true),
        (
            "an unknown function",
            [&header("nothing")[..], b"\x00\x02\x00\x00"].concat(),
            false,
        ),
        (
            "a frame of 4 GiB",
            [&header("length")[..], b"\x00\xff\xff\xff\xff\x0f"].concat(),
            false,
        ),
        (
            "a path of 4 G",
            [&header("length")[..], b"\xff\xff\xff\xff\x0f"].concat(),
            false,
        ),
        (
            "a list of 4 G",
            [&header("length")[..], b"\x00\x06\x00\xff\xff\xff\xff\x0f"].concat(),
            false,
        ),
        (
            "a text of 4 GiB",
            [&header("length")[..], b"\x00\x05\xff\xff\xff\xff\x0f"].concat(),
            false,
        ),
        (
            "a frame that is cut",
            [&header("length")[..], b"\x00\x20abc"].concat(),
            true,
        ),
        (
            "a frame that does not end",
            [&header("length")[..], b"\x00\x20abc"].concat(),
            false,
        ),
        (
            "parameters that do not end",
            [&header("length")[..], b"\x00\x03\x05aa"].concat(),
            false,
        ),
        ("empty frames", [&header("length")[..], &[0; 4000]].concat(), false),
        ("half a hello", HELLO[..4].to_vec(), false),
        ("a session of another version", b"\xfafanout\x09".to_vec(), false),
        ("a session and silence", HELLO.to_vec(), false),
        ("a session and its end", HELLO.to_vec(), true),
        (
            "a frame of a session of 4 GiB",
            after_hello(&frame(0x11, 1, u32::MAX, b"")),
            false,
        ),
        (
            "a frame of an unknown kind",
            after_hello(&frame(0xee, 1, 0, b"")),
            false,
        ),
        ("a frame of a server", after_hello(&frame(0x41, 1, 0, b"")), false),
        ("half a frame", after_hello(&frame(0x11, 1, 500, b"abc")), false),
        (
            "a call without its context",
            after_hello(&frame(0x11, 1, 1, b"\xff")),
            false,
        ),
        (
            "a call that does not end",
            after_hello(&frame(0x10, 1, length, &call)),
            false,
        ),
        ("three thousand calls that do not end", after_hello(&many), false),
        (
            "pieces of no call",
            after_hello(&[frame(0x20, 9, 3, b"abc"), frame(0x30, 9, 0, b"")].concat()),
            false,
        ),
    ]
}

/// Calls for as long as the others are at it. Each has to be answered.
pub(crate) async fn honest(remote: Remote) -> std::convert::Infallible {
    loop {
        let body = Bytes::from_static(b"1234");
        match echo::length(&remote, CallContext::within(PATIENCE), "", &body).await {
            Ok(length) => assert_eq!(length, Ok(4)),
            Err(error) => panic!("an honest caller pays for others: {error:#}"),
        }
    }
}

/// Reads until the server ends the stream.
async fn ended(stream: &mut RawStream) {
    let mut buffer = [0; 4096];
    while let Ok(1..) = stream.reader.read(&mut buffer).await {}
}

/// Nothing is held for anybody, but for so many connections of an honest caller.
pub(crate) async fn all_free(server: &Serving, honest: usize) {
    eventually("no call is left", || server.in_flight() == 0).await;
    eventually("no bytes are held", || server.buffered_bytes() == 0).await;
    eventually("no connection is left", || server.connections() <= honest).await;
}

async fn scripted(wire: Listening) {
    let echo = Echo::default();
    let server = wire.start(&service(&echo).await, options()).await;
    let remote = wire.call(Options::default()).await.expect("it can be called");
    let honest_calls = tokio::spawn(honest(remote.clone()));
    let wire = Arc::new(wire);
    let mut hostile = JoinSet::new();
    for (what, bytes, close) in scripts() {
        let wire = Arc::clone(&wire);
        hostile.spawn(async move {
            let mut stream = wire.raw().await;
            // The server may end the stream before it has read all of this.
            let sent = async {
                stream.writer.write_all(&bytes).await?;
                stream.writer.flush().await?;
                if close { stream.writer.shutdown().await } else { Ok(()) }
            };
            drop(sent.await);
            let ended = timeout(PATIENCE, ended(&mut stream)).await;
            assert!(ended.is_ok(), "it goes on for ever: {what}");
        });
    }
    // Byte by byte, without an end.
    hostile.spawn({
        let wire = Arc::clone(&wire);
        async move {
            let mut stream = wire.raw().await;
            let dripping = async {
                for byte in header("length").into_iter().chain(std::iter::repeat(0x80)) {
                    stream.writer.write_all(&[byte]).await?;
                    stream.writer.flush().await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                std::io::Result::Ok(())
            };
            let (reader, mut buffer) = (&mut stream.reader, [0; 64]);
            tokio::select! {
                _ = dripping => {}
                _ = reader.read(&mut buffer) => {}
                () = tokio::time::sleep(PATIENCE) => panic!("it goes on for ever: byte by byte"),
            }
        }
    });
    while let Some(done) = hostile.join_next().await {
        done.expect("each is ended");
    }
    honest_calls.abort();
    assert!(honest_calls.await.expect_err("it goes on for ever").is_cancelled());
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    all_free(&server, 1).await;
}

/// Another caller is answered all the while, and the server holds no more bytes than it may.
pub(crate) async fn answers_another(wire: &Listening, server: &Serving, options: &ListenOptions) {
    let remote = wire.call(Options::default()).await.expect("it can be called");
    for _ in 0..20 {
        let cx = CallContext::within(PATIENCE);
        let length = echo::length(&remote, cx, "", &Bytes::from_static(b"1234")).await;
        assert_eq!(length.expect("an answer"), Ok(4));
        assert!(server.buffered_bytes() <= options.limits.buffered_bytes);
    }
}

/// Asks for more than it reads.
async fn unread(wire: Listening) {
    let echo = Echo::default();
    let server = wire.start(&service(&echo).await, options()).await;
    let mut stream = wire.raw().await;
    let mut bytes = HELLO.to_vec();
    for call in 0..200_u32 {
        let payload = [context("bytes"), vec![0x80, 0x80, 0x40]].concat();
        bytes.extend(frame(
            0x11,
            call,
            u32::try_from(payload.len()).expect("short"),
            &payload,
        ));
    }
    stream.writer.write_all(&bytes).await.expect("sent");
    stream.writer.flush().await.expect("sent");
    eventually("it is at work", || server.in_flight() > 0).await;
    answers_another(&wire, &server, &options()).await;
    all_free(&server, 1).await;
}

/// Little memory, and time enough that nobody is cut off: an answer may take 90 seconds.
fn narrow() -> ListenOptions {
    ListenOptions {
        limits: Options {
            max_body_bytes: MIB,
            buffered_bytes: 4 * MIB,
            serve_deadline: 4 * PATIENCE,
            repeat_after: Duration::from_secs(1),
            ..Options::default()
        },
        ..ListenOptions::default()
    }
}

/// A session that calls for results of somewhat less than a mebibyte.
fn calls_for_large_results(calls: u32) -> Vec<u8> {
    let payload = [context("bytes"), vec![0x80, 0x80, 0x3f]].concat();
    let length = u32::try_from(payload.len()).expect("short");
    let frames = (0..calls).flat_map(|call| frame(0x11, call, length, &payload));
    HELLO.iter().copied().chain(frames).collect()
}

/// One peer has many sessions, asks for more than it reads on each, and leaves room for another's results.
async fn hoarding(wire: Listening) {
    let options = narrow();
    let echo = Echo::default();
    let server = wire.start(&service(&echo).await, options.clone()).await;
    let bytes = calls_for_large_results(12);
    let mut hoarders = Vec::new();
    for _ in 0..8 {
        let mut stream = wire.raw_as("hoarder").await;
        stream.writer.write_all(&bytes).await.expect("sent");
        stream.writer.flush().await.expect("sent");
        hoarders.push(stream);
    }
    eventually("results wait for those who do not read", || {
        server.buffered_bytes() > MIB
    })
    .await;
    let remote = wire.call(options.limits).await.expect("it can be called");
    for _ in 0..20 {
        let cx = CallContext::within(PATIENCE);
        let result = echo::bytes(&remote, cx, 900_000).await;
        assert_eq!(result.expect("an answer").len(), 900_000);
    }
    drop(hoarders);
    all_free(&server, 1).await;
}

/// A handler that reserves makes no result that nobody has room for, however many its caller asks for and does not read.
async fn reserving(wire: Listening) {
    const CALLS: usize = 64;
    let options = narrow();
    let (begun, made) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = Service::new().direct(INSTANCE, "bytes", {
        let (begun, made) = (Arc::clone(&begun), Arc::clone(&made));
        move |_, (size,): (u32,)| {
            let (begun, made) = (Arc::clone(&begun), Arc::clone(&made));
            async move {
                begun.fetch_add(1, Ordering::Relaxed);
                let size = size as usize;
                fanout_transport::reserve_result(size + 16).await;
                made.fetch_add(1, Ordering::Relaxed);
                Ok(Bytes::from(vec![0; size]))
            }
        }
    });
    let server = wire.start(&service, options.clone()).await;
    let bytes = calls_for_large_results(CALLS as u32);
    let mut hoarder = wire.raw_as("hoarder").await;
    hoarder.writer.write_all(&bytes).await.expect("sent");
    hoarder.writer.flush().await.expect("sent");
    eventually("every call has begun", || begun.load(Ordering::Relaxed) == CALLS).await;
    // What the kernel takes for a peer that does not read is sent.
    let made_at_once = made.load(Ordering::Relaxed);
    assert!(
        made_at_once < CALLS / 2,
        "{made_at_once} results are made for a peer that reads none"
    );
    let remote = wire.call(options.limits).await.expect("it can be called");
    let cx = CallContext::within(PATIENCE);
    let result = echo::bytes(&remote, cx, 900_000).await;
    assert_eq!(result.expect("an answer").len(), 900_000);
    drop(hoarder);
    all_free(&server, 1).await;
}

/// Memory of this process, both ends.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this process");
    let pages: usize = statm.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

/// A thousand connections that say nothing, of one peer: some are closed at once, the others when their time is up, and
/// meanwhile the same peer is served.
pub(crate) async fn idle(wire: Listening, connections: usize) {
    let echo = Echo::default();
    let options = options();
    let server = wire.start(&service(&echo).await, options.clone()).await;
    let remote = wire.call(Options::default()).await.expect("it can be called");
    let before = resident_bytes();
    let mut silent = Vec::new();
    for _ in 0..connections {
        silent.push(wire.raw().await);
    }
    let may_be_silent = options.silent_connections / 2;
    eventually("few may be silent", || server.connections() <= may_be_silent + 1).await;
    let cx = CallContext::within(PATIENCE);
    let length = echo::length(&remote, cx, "", &Bytes::from_static(b"1234")).await;
    assert_eq!(length.expect("an answer"), Ok(4));
    // One that comes new finds a place at the latest when one of the others had its time.
    crate::support::eventually_async("a new connection", async || wire.call(Options::default()).await.is_ok()).await;
    // Other tests run in this process too.
    let taken = resident_bytes().saturating_sub(before);
    assert!(taken < 256 * MIB, "{connections} idle connections take {taken} bytes");
    for mut stream in silent {
        timeout(PATIENCE, ended(&mut stream))
            .await
            .expect("a silent peer is let go");
    }
    all_free(&server, 1).await;
}

macro_rules! against {
    ($($name:ident: $wire:expr, $idle:literal;)*) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread")]
            async fn hostile_peers_cost_only_themselves() {
                super::scripted($wire).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn answers_that_are_not_read_are_given_up() {
                super::unread($wire).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn results_that_nobody_has_room_for_are_not_made() {
                super::reserving($wire).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn silent_connections_are_let_go() {
                super::idle($wire, $idle).await;
            }
        })*
    };
}

against! {
    tcp: crate::Listening::new("tcp://127.0.0.1:0"), 1000;
    unix: crate::Listening::unix(), 1000;
    tls: crate::Listening::new("tls://127.0.0.1:0"), 100;
    quic: crate::Listening::new("quic://127.0.0.1:0"), 50;
    webtransport: crate::Listening::new("webtransport://127.0.0.1:0/bus"), 50;
}

mod one_peer_leaves_room_for_results {
    #[tokio::test(flavor = "multi_thread")]
    async fn over_tls() {
        super::hoarding(crate::Listening::new("tls://127.0.0.1:0")).await;
    }
    #[tokio::test(flavor = "multi_thread")]
    async fn over_quic() {
        super::hoarding(crate::Listening::new("quic://127.0.0.1:0")).await;
    }
}
