//! One invocation can't hold up, starve or crash another.

mod support;

use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{CallContext, Error, Lattice, Options, Outcome, Resource, Server};
use futures::StreamExt as _;
use support::bindings::test::echo::echo;
use support::{Echo, INSTANCE, PATIENCE, PREFIX, client, eventually, lattice, serve, serve_direct};

async fn on(path: &str, lattice: &Lattice, echo: &Echo) -> Server {
    match path {
        "direct" => serve_direct(lattice, echo).await,
        _ => serve(lattice, echo).await,
    }
}

/// Sends `params` to `length` as a stock client would, and returns what comes back on the subject for results.
async fn raw(nats: &async_nats::Client, params: &'static [u8], answer_handshake: bool) -> async_nats::Subscriber {
    let reply = nats.new_inbox();
    let mut handshakes = nats.subscribe(reply.clone()).await.expect("an inbox");
    let results = nats.subscribe(format!("{reply}.results")).await.expect("an inbox");
    let to = format!("{PREFIX}.wrpc.0.0.1.{INSTANCE}.length");
    nats.publish_with_reply(to, reply, params.into())
        .await
        .expect("published");
    let handshake = tokio::time::timeout(PATIENCE, handshakes.next())
        .await
        .expect("a handshake");
    let handshake = handshake
        .and_then(|message| message.reply)
        .expect("a handshake has a reply subject");
    if answer_handshake {
        nats.publish(format!("{handshake}.params"), Bytes::new())
            .await
            .expect("published");
    } else {
        // It does acknowledge, by a chunk that completes nothing, and stalls then.
        nats.publish(format!("{handshake}.params"), Bytes::from_static(b"x"))
            .await
            .expect("published");
    }
    results
}

/// The text "aaaaa" of which two bytes are missing, so that even one more does not complete it.
const CUT: &[u8] = b"\x05aaa";

async fn failure(results: &mut async_nats::Subscriber) {
    let end = tokio::time::timeout(PATIENCE, results.next())
        .await
        .expect("an answer")
        .expect("an open inbox");
    assert!(end.payload.is_empty(), "a failure has no data");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_stalled_and_malformed_invocations_hold_up_no_other() {
    let nats = NatsServer::start().await;
    for path in ["isolated", "direct"] {
        let options = Options {
            serve_deadline: 2 * PATIENCE,
            ..Options::default()
        };
        let serving = lattice(&nats, options).await;
        let echo = Echo::default();
        let server = on(path, &serving, &echo).await;
        let connection = nats.client().await;
        // Stalled: the parameters never come to an end.
        let mut stalled = Vec::new();
        for _ in 0..10 {
            stalled.push(raw(&connection, CUT, false).await);
        }
        // Slow.
        let calling = lattice(&nats, Options::default()).await;
        let client = client(&calling);
        let slow: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move {
                    let cx = CallContext::within(PATIENCE);
                    echo::length(&client, cx, "gate", &Bytes::new()).await
                })
            })
            .collect();
        echo.begun(10).await;
        // Malformed: no UTF-8; a length of 2^32-1; cut off; nothing at all.
        let malformed: [&[u8]; 4] = [b"\x02\xff\xff\x00", b"\xff\xff\xff\xff\x0f", CUT, b""];
        for params in malformed {
            failure(&mut raw(&connection, params, true).await).await;
        }
        for size in 0..100 {
            let body = Bytes::from(vec![7; size]);
            let length = echo::length(&client, CallContext::default(), "", &body)
                .await
                .expect("a result");
            assert_eq!(length, Ok(size as u64));
        }
        assert_eq!(server.in_flight(), 20, "the stalled and the slow ones are still there");
        echo.gate.add_permits(10);
        for call in slow {
            assert_eq!(call.await.expect("no panic").expect("a result"), Ok(0));
        }
        assert_eq!(server.drain(Duration::ZERO).await.abandoned, 10);
        for results in &mut stalled {
            failure(results).await;
        }
        assert_eq!(serving.load().exchanges, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_frees_everything() {
    let nats = NatsServer::start().await;
    for path in ["isolated", "direct"] {
        let options = Options {
            serve_deadline: Duration::from_millis(300),
            in_flight: 4,
            queued: 0,
            ..Options::default()
        };
        let serving = lattice(&nats, options).await;
        let echo = Echo::default();
        let server = on(path, &serving, &echo).await;
        let connection = nats.client().await;
        let mut stalled = Vec::new();
        for _ in 0..2 {
            stalled.push(raw(&connection, CUT, false).await);
        }
        let calling = lattice(&nats, Options::default()).await;
        let client = client(&calling);
        let slow = [0, 1].map(|_| {
            let client = client.clone();
            tokio::spawn(async move { echo::length(&client, CallContext::default(), "gate", &Bytes::new()).await })
        });
        for results in &mut stalled {
            failure(results).await;
        }
        for call in slow {
            let error = call.await.expect("no panic").expect_err("cut off");
            let reason = Error::find(&error);
            assert!(
                matches!(reason, Some(Error::Remote(reason)) if reason.contains("deadline")),
                "{error:#}"
            );
        }
        eventually("all places are free", || server.in_flight() == 0).await;
        assert_eq!(serving.load().exchanges, 0);
        // Bindings read parameters in a task of their own, which ends just after the answer.
        eventually("no bytes are held", || serving.load().buffered_bytes == 0).await;
        // All four places are there again.
        let body = Bytes::new();
        let again = (0..4).map(|_| echo::length(&client, CallContext::default(), "", &body));
        for length in futures::future::join_all(again).await {
            assert_eq!(length.expect("a result"), Ok(0));
        }
        server.drain(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_frees_everything() {
    let nats = NatsServer::start().await;
    for path in ["isolated", "direct"] {
        let options = Options {
            max_body_bytes: 100_000,
            ..Options::default()
        };
        let serving = lattice(&nats, options).await;
        let server = on(path, &serving, &Echo::default()).await;
        let calling = lattice(&nats, Options::default()).await;
        let client = client(&calling);
        // In one message, and in chunks.
        for size in [100_001, 3 << 20] {
            let body = Bytes::from(vec![7; size]);
            let error = echo::length(&client, CallContext::default(), "", &body)
                .await
                .expect_err("too large");
            let reason = Error::find(&error);
            assert!(
                matches!(reason, Some(Error::Remote(reason)) if reason.contains("limit")),
                "{error:#}"
            );
        }
        let error = echo::bytes(&client, CallContext::default(), 100_000)
            .await
            .expect_err("too large");
        let reason = Error::find(&error);
        assert!(
            matches!(reason, Some(Error::Remote(reason)) if reason.contains("limit")),
            "{error:#}"
        );
        eventually("all places are free", || server.in_flight() == 0).await;
        assert_eq!(serving.load().exchanges, 0);
        // Bindings read parameters in a task of their own, which ends just after the answer.
        eventually("no bytes are held", || serving.load().buffered_bytes == 0).await;
        server.drain(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_place_is_refused_at_once_and_never_runs() {
    let nats = NatsServer::start().await;
    let options = Options {
        in_flight: 1,
        queued: 1,
        ..Options::default()
    };
    let serving = lattice(&nats, options).await;
    let echo = Echo::default();
    let server = serve(&serving, &echo).await;
    let calling = lattice(&nats, Options::default()).await;
    let client = client(&calling);
    let gated = || {
        let client = client.clone();
        tokio::spawn(async move { echo::length(&client, CallContext::default(), "gate", &Bytes::new()).await })
    };
    let running = gated();
    echo.begun(1).await;
    let queued = gated();
    eventually("one waits", || server.in_flight() == 2).await;
    let error = gated().await.expect("no panic").expect_err("refused");
    let error = Error::find(&error).expect("an error of the transport");
    assert!(matches!(error, Error::Busy(Resource::Target)), "{error}");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    // A stock client is told too.
    failure(&mut raw(&nats.client().await, b"\x00\x00", true).await).await;
    // Another function has places of its own.
    assert!(echo::who(&client, CallContext::default()).await.is_ok());
    assert_eq!(echo.started.available_permits(), 0, "only one handler ever ran");
    echo.gate.add_permits(2);
    for call in [running, queued] {
        assert_eq!(call.await.expect("no panic").expect("a result"), Ok(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_allowance_are_refused() {
    let nats = NatsServer::start().await;
    let options = Options {
        max_body_bytes: 1 << 20,
        buffered_bytes: 1 << 20,
        ..Options::default()
    };
    let serving = lattice(&nats, options).await;
    let server = serve(&serving, &Echo::default()).await;
    let connection = nats.client().await;
    // A sender that stalls with 900 KB on our side.
    let mut params = vec![0xff, 0xff, 0x3f];
    params.resize(900_000, b'a');
    let params: &'static [u8] = params.leak();
    let mut stalled = raw(&connection, params, false).await;
    eventually("they are held", || serving.load().buffered_bytes >= 900_000).await;
    let calling = lattice(&nats, Options::default()).await;
    let client = client(&calling);
    let body = Bytes::from(vec![7; 200_000]);
    let error = echo::length(&client, CallContext::default(), "", &body)
        .await
        .expect_err("no room");
    assert!(matches!(Error::find(&error), Some(Error::Busy(_))), "{error:#}");
    assert!(serving.load().buffered_bytes <= 1 << 20);
    let small = echo::length(&client, CallContext::default(), "", &Bytes::from_static(b"a")).await;
    assert_eq!(small.expect("there is room for it"), Ok(1));
    assert_eq!(server.drain(Duration::ZERO).await.abandoned, 1);
    failure(&mut stalled).await;
    assert_eq!(serving.load().buffered_bytes, 0);
}

/// Whoever publishes to the subject without waiting for an answer costs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_is_skipped() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let echo = Echo::default();
    let server = serve(&lattice, &echo).await;
    let to = format!("{PREFIX}.wrpc.0.0.1.{INSTANCE}.length");
    let connection = nats.client().await;
    connection
        .publish(to, Bytes::from_static(b"\x00\x00"))
        .await
        .expect("published");
    connection.flush().await.expect("flushed");
    let length = echo::length(&client(&lattice), CallContext::default(), "", &Bytes::new()).await;
    assert_eq!(length.expect("a result"), Ok(0));
    assert_eq!(server.in_flight(), 0);
    assert_eq!(echo.started.available_permits(), 1);
}
