//! Peers that mean harm over HTTP: each gets a clear answer or is let go, and others go on.

use std::sync::Arc;
use std::time::Duration;

use fanout_transport::{CallContext, ListenOptions, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::hostile::{self, all_free, answers_another, honest};
use crate::http::{OneToken, routed};
use crate::listening::Listening;
use crate::suite::Wire as _;
use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, INSTANCE, PATIENCE};

/// Connections of the honest caller.
const HONEST: usize = 2;

/// The first deadline is long enough for a machine that is busy with handshakes.
fn options() -> ListenOptions {
    ListenOptions {
        first_call_deadline: Duration::from_secs(6),
        ..hostile::options()
    }
}

/// What a peer sends, again and again where it says so, and what the answer begins with; `""` is none.
struct Script {
    what: &'static str,
    sent: Vec<u8>,
    again: Vec<u8>,
    answered: &'static str,
}

fn script(what: &'static str, sent: impl AsRef<[u8]>, again: impl AsRef<[u8]>, answered: &'static str) -> Script {
    Script {
        what,
        sent: sent.as_ref().to_vec(),
        again: again.as_ref().to_vec(),
        answered,
    }
}

fn scripts() -> Vec<Script> {
    let post = format!("POST /{INSTANCE}/length HTTP/1.1\r\nhost: a\r\n");
    let headers: String = (0..10_000).map(|i| format!("x-{i}: a\r\n")).collect();
    let long = format!("x: {}\r\n", "a".repeat(9000));
    let smuggled = "0\r\n\r\nGET /live HTTP/1.1\r\nhost: a\r\n\r\n";
    vec![
        script("nothing", "", "", ""),
        script("a request of another protocol", "\u{fa}fanout\u{1}", "", "HTTP/1.1 400"),
        script(
            "half a head, and silence",
            "GET / HTTP/1.1\r\nhost:",
            "",
            "HTTP/1.1 408",
        ),
        script("a head that goes on", "GET / HTTP/1.1\r\n", "x-a: b\r\n", "HTTP/1.1 4"),
        script(
            "ten thousand headers",
            format!("{post}{headers}\r\n"),
            "",
            "HTTP/1.1 431",
        ),
        script("a long header", format!("{post}{long}\r\n"), "", "HTTP/1.1 431"),
        script(
            "a long path",
            format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(9000)),
            "",
            "HTTP/1.1 431",
        ),
        script("no host", "GET /live HTTP/1.1\r\n\r\n", "", "HTTP/1.1 400"),
        script(
            "two hosts",
            "GET /live HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
            "",
            "HTTP/1.1 400",
        ),
        script("HTTP/1.0", "GET /live HTTP/1.0\r\nhost: a\r\n\r\n", "", "HTTP/1.0 505"),
        // Neither a rapid reset nor a flood of continuations: the protocol is not spoken.
        script(
            "HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
            "",
            "",
        ),
        script(
            "a body of 16 EiB",
            format!("{post}content-length: 18446744073709551615\r\n\r\n"),
            "",
            "HTTP/1.1 4",
        ),
        script(
            "a body of 1 TiB",
            format!("{post}content-length: 1099511627776\r\n\r\n"),
            "",
            "HTTP/1.1 413",
        ),
        script(
            "a negative body",
            format!("{post}content-length: -1\r\n\r\n"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "two lengths",
            format!("{post}content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "an encoding that nobody knows",
            format!("{post}transfer-encoding: gzip\r\n\r\nab"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "a chunk of 16 EiB",
            format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nab"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "a chunk that is none",
            format!("{post}transfer-encoding: chunked\r\n\r\nxyz\r\nab"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "chunks without an end",
            format!("{post}transfer-encoding: chunked\r\n\r\n"),
            format!("10000\r\n{}\r\n", "a".repeat(0x10000)),
            "HTTP/1.1 4",
        ),
        script(
            "small chunks without an end",
            format!("{post}transfer-encoding: chunked\r\n\r\n"),
            "1\r\na\r\n",
            "HTTP/1.1 4",
        ),
        script(
            "a body that does not end",
            format!("{post}content-length: 100\r\n\r\n\0"),
            "",
            "HTTP/1.1 408",
        ),
        script(
            "a stock call that does not end",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n\0",
            "",
            "HTTP/1.1 4",
        ),
        script(
            "a stock call of no version",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n\u{7}",
            "",
            "HTTP/1.1 400",
        ),
        script(
            "a token of nobody",
            format!("{post}authorization: Bearer fanout_guess\r\n\r\n"),
            "",
            "HTTP/1.1 401",
        ),
        script(
            "a second request in the body of the first",
            format!(
                "POST /nowhere HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}",
                smuggled.len()
            ),
            "",
            "HTTP/1.1 404",
        ),
        script(
            "a second request in the body of the first, whose length stands behind its encoding",
            format!(
                "POST /nowhere HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
            "",
            "HTTP/1.1 404",
        ),
        script(
            "an encoding behind the chunks",
            format!("{post}transfer-encoding: chunked, gzip\r\n\r\n{smuggled}"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "an encoding in the protocol before",
            format!("POST /nowhere HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}"),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "a length with a sign",
            format!("{post}content-length: +{}\r\n\r\n{smuggled}", smuggled.len()),
            "",
            "HTTP/1.1 400",
        ),
        script(
            "a blank before a colon",
            format!("{post}content-length : 0\r\n\r\n"),
            "",
            "HTTP/1.1 400",
        ),
        script("a tunnel", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n", "", "HTTP/1.1 4"),
        script(
            "an upgrade",
            "GET /nowhere HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            "",
            "HTTP/1.1 404",
        ),
    ]
}

async fn scripted(wire: Listening) {
    let echo = Echo::default();
    let server = wire.start(&routed(&echo, OneToken::default()).await, options()).await;
    let remote = wire.call(Options::default()).await.expect("it can be called");
    let honest_calls = tokio::spawn(honest(remote.clone()));
    let wire = Arc::new(wire);
    let mut hostile = JoinSet::new();
    for Script {
        what,
        sent,
        again,
        answered,
    } in scripts()
    {
        let wire = Arc::clone(&wire);
        hostile.spawn(async move {
            let stream = wire.raw().await;
            let (mut reader, mut writer) = (stream.reader, stream.writer);
            // The server may close before it has read all of this.
            let sending = async {
                writer.write_all(&sent).await?;
                writer.flush().await?;
                while !again.is_empty() {
                    writer.write_all(&again).await?;
                    writer.flush().await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                std::future::pending::<std::io::Result<()>>().await
            };
            let mut answer = Vec::new();
            let reading = timeout(PATIENCE, reader.read_to_end(&mut answer));
            let read = tokio::select! {
                read = reading => read,
                Err(_) = sending => timeout(PATIENCE, async { Ok(0) }).await,
            };
            if read.is_err() {
                return Err(format!("it goes on for ever: {what}"));
            }
            drop(reader.read_to_end(&mut answer).await);
            let answer = String::from_utf8_lossy(&answer);
            let begun =
                answer.starts_with("HTTP/1.1 400") && answer.contains("\"outcome\"") && !answer.contains("not-started");
            let as_expected = !begun && answer.starts_with(answered) && answered.is_empty() == answer.is_empty();
            match as_expected && answer.matches("HTTP/1.1 ").count() <= 1 {
                true => Ok(()),
                false => Err(format!("{what}: {answer:?}")),
            }
        });
    }
    let done = hostile.join_all().await;
    let wrong: Vec<String> = done.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    honest_calls.abort();
    assert!(honest_calls.await.expect_err("it goes on for ever").is_cancelled());
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    all_free(&server, HONEST).await;
}

/// A head of drops: each byte is in time, the head is not.
async fn dripping(wire: Listening) {
    let server = wire
        .start(&routed(&Echo::default(), OneToken::default()).await, options())
        .await;
    let mut stream = wire.raw().await;
    let drip = async {
        loop {
            stream.writer.write_all(b"GET").await?;
            stream.writer.flush().await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let closed: std::io::Result<()> = timeout(PATIENCE, drip).await.expect("it is let go");
    assert!(closed.is_err());
    all_free(&server, HONEST).await;
}

/// Pipelined requests are answered in order, and one at a time: they hold no more than one of them.
async fn pipelined(wire: Listening) {
    const REQUESTS: usize = 1000;
    let echo = Echo::default();
    let server = wire.start(&routed(&echo, OneToken::default()).await, options()).await;
    let mut stream = wire.raw().await;
    let body = "\0\u{4}abcd";
    let one = format!(
        "POST /{INSTANCE}/length HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let all = one.repeat(REQUESTS);
    let sending = async {
        stream.writer.write_all(all.as_bytes()).await.expect("it is sent");
        stream.writer.flush().await.expect("it is sent");
    };
    let reading = async {
        let mut answers = Vec::new();
        while answers
            .windows(15)
            .filter(|window| window == b"HTTP/1.1 200 OK")
            .count()
            < REQUESTS
        {
            let mut some = vec![0; 64 << 10];
            let read = stream.reader.read(&mut some).await.expect("answers");
            assert!(read > 0 && server.in_flight() <= 1);
            answers.extend_from_slice(&some[..read]);
        }
    };
    timeout(PATIENCE, async { tokio::join!(sending, reading) })
        .await
        .expect("all are answered");
    all_free(&server, HONEST).await;
}

/// Requests whose answers nobody reads.
async fn unread(wire: Listening) {
    let server = wire
        .start(&routed(&Echo::default(), OneToken::default()).await, options())
        .await;
    let mut streams = Vec::new();
    for i in 0..8 {
        let mut stream = wire.raw().await;
        // Of a megabyte each; and some that go on for ever.
        let one = format!("POST /{INSTANCE}/bytes HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n");
        let bytes = match i % 2 {
            0 => [one.as_bytes(), &[0x80, 0x80, 0xc0, 0]].concat().repeat(50),
            _ => b"GET /floods HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        };
        stream.writer.write_all(&bytes).await.expect("sent");
        stream.writer.flush().await.expect("sent");
        streams.push(stream);
    }
    answers_another(&wire, &server, &options()).await;
    all_free(&server, HONEST).await;
    drop(streams);
}

macro_rules! against {
    ($($name:ident: $url:literal;)*) => {
        $(mod $name {
            use crate::Listening;

            #[tokio::test(flavor = "multi_thread")]
            async fn hostile_peers_cost_only_themselves() {
                super::scripted(Listening::new($url)).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn a_head_of_drops_is_let_go() {
                super::dripping(Listening::new($url)).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn pipelined_requests_are_answered_one_by_one() {
                super::pipelined(Listening::new($url)).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn answers_that_are_not_read_are_given_up() {
                super::unread(Listening::new($url)).await;
            }
            #[tokio::test(flavor = "multi_thread")]
            async fn silent_connections_are_let_go() {
                crate::hostile::idle(Listening::new($url), 200).await;
            }
        })*
    };
}

against! {
    plain: "http://127.0.0.1:0";
    encrypted: "https://127.0.0.1:0";
}
