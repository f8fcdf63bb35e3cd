//! A server under load: what it refuses, and what an answer counts for.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fanout_transport::{CallContext, ConnectOptions, ListenOptions, Options, Outcome, Remote};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{at, serving};
use crate::support::{INSTANCE, PATIENCE, eventually};

/// A server that is busy for a minute says so once.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_called_no_more_until_it_takes_calls_again() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let posts = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&posts);
    let busy = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = vec![0; 4096];
            while let Ok(bytes @ 1..) = stream.read(&mut read).await {
                let answer = match read[..bytes].starts_with(b"POST") {
                    true => {
                        *counted.lock().expect("no test panics with it") += 1;
                        BUSY
                    }
                    false => b"HTTP/1.1 204 No Content\r\n\r\n",
                };
                stream.write_all(answer).await.expect("it is read");
            }
        }
    });
    let endpoint = endpoint.parse().expect("an endpoint");
    let remote = Remote::connect(&endpoint, ConnectOptions::default())
        .await
        .expect("it is there");
    for _ in 0..3 {
        let call = remote
            .call(CallContext::within(PATIENCE), INSTANCE, "who", Bytes::new())
            .await;
        let error = call.expect_err("it is busy");
        assert_eq!(
            (error.code(), error.outcome()),
            ("too-busy", Outcome::NotStarted),
            "{error}"
        );
    }
    assert_eq!(
        *posts.lock().expect("no test panics with it"),
        1,
        "the others are not sent"
    );
    let other = remote
        .call(CallContext::within(PATIENCE), INSTANCE, "length", Bytes::new())
        .await;
    assert!(other.is_err());
    assert_eq!(
        *posts.lock().expect("no test panics with it"),
        2,
        "another function is another matter"
    );
    busy.abort();
}

/// A peer that does not read holds what it asked for against its own share, until it is let go.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_until_it_is_sent() {
    const MIB: usize = 1 << 20;
    let limits = Options {
        max_body_bytes: 16 * MIB,
        serve_deadline: PATIENCE,
        ..Options::default()
    };
    let options = ListenOptions {
        limits,
        ..ListenOptions::default()
    };
    let (server, ..) = serving("http://127.0.0.1:0", options).await;
    let mut stream = TcpStream::connect(at(&server)).await.expect("it is there");
    let length = u32::try_from(15 * MIB).expect("32 bits");
    let leb: Vec<u8> = (0..4)
        .map(|i| ((length >> (7 * i)) & 0x7f) as u8 | if i < 3 { 0x80 } else { 0 })
        .collect();
    let head = format!(
        "POST /{INSTANCE}/bytes HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        leb.len()
    );
    stream
        .write_all(&[head.as_bytes(), &leb].concat())
        .await
        .expect("it is sent");
    eventually("the answer is made", || server.buffered_bytes() > 15 * MIB).await;
    assert_eq!(server.in_flight(), 1);
    // More than a kernel takes of it is still counted, however long nobody reads.
    let mut some = vec![0; 64 << 10];
    stream.read_exact(&mut some).await.expect("the beginning");
    assert!(server.buffered_bytes() > 15 * MIB && server.in_flight() == 1);
    drop(stream);
    eventually("all is given back", || {
        server.buffered_bytes() == 0 && server.in_flight() == 0
    })
    .await;
}
