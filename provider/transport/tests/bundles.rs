//! Calls that are made at the same time go in one message where the target takes that, and lose nothing by it.

mod support;

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use fanout_transport::testing::{NatsServer, NatsSettings};
use fanout_transport::{CallContext, Client, Drained, Error, Lattice, Options, Resource, Server};
use futures::{FutureExt as _, StreamExt as _, future, stream};
use support::bindings::test::echo::echo;
use support::{
    Echo, INSTANCE, PATIENCE, PREFIX, client, eventually, eventually_async, lattice, serve, serve_direct, stock_server,
};
use tokio::time::timeout;

const CALLS: usize = 64;
static BODY: Bytes = Bytes::from_static(b"1234");

fn subject() -> String {
    format!("{PREFIX}.wrpc.0.0.1.fanout:transport/calls@0.1.0.bundle")
}

/// Many calls at the same time; each is answered.
async fn storm(client: &Client) {
    let calls = (0..CALLS).map(|size| async move {
        let body = Bytes::from(vec![7; size]);
        let length = echo::length(client, CallContext::within(PATIENCE), "", &body).await;
        assert_eq!(length.expect("a result"), Ok(size as u64));
    });
    future::join_all(calls).await;
}

/// Calls until calls are seen to go together, and answers to come together.
async fn until_bundled(nats: &NatsServer, client: &Client) {
    let spy = nats.client().await;
    let mut calls = spy.subscribe(subject()).await.expect("a subscription");
    let mut answers = spy.subscribe("_INBOX.*.b.*").await.expect("a subscription");
    spy.flush().await.expect("a connection");
    let mut together = (1, 1);
    eventually_async("they go together", async || {
        storm(client).await;
        for (messages, most) in [(&mut calls, &mut together.0), (&mut answers, &mut together.1)] {
            while let Some(Some(message)) = messages.next().now_or_never() {
                *most = (*most).max(calls_in(&message.payload));
            }
        }
        together.0 > 1 && together.1 > 1
    })
    .await;
    assert!(together.0 <= 16 && together.1 <= 16, "{together:?} in one message");
}

/// A server, and a caller that knows of it that it takes bundles.
struct World {
    serving: Lattice,
    server: Server,
    calling: Lattice,
    client: Client,
}

/// On the direct path, with two of the four functions, or in isolation.
async fn world(nats: &NatsServer, direct: bool, echo: &Echo) -> World {
    let serving = lattice(nats, Options::default()).await;
    let server = if direct {
        serve_direct(&serving, echo).await
    } else {
        serve(&serving, echo).await
    };
    let calling = lattice(nats, Options::default()).await;
    let client = client(&calling);
    until_bundled(nats, &client).await;
    World {
        serving,
        server,
        calling,
        client,
    }
}

/// The frames of a bundle.
fn calls_in(bundle: &[u8]) -> usize {
    let mut rest = bundle;
    let mut calls = 0;
    while let Some((head, tail)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes(head[5..].try_into().expect("four bytes"));
        rest = tail.get(length as usize..).expect("a whole frame");
        calls += 1;
    }
    assert!(rest.is_empty(), "a bundle has whole frames");
    calls
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_moment_go_together_and_each_has_its_own_answer() {
    let nats = NatsServer::start().await;
    for direct in [true, false] {
        let echo = Echo::default();
        let World {
            serving,
            server,
            calling,
            client,
        } = world(&nats, direct, &echo).await;

        let long = |text: &'static str| {
            let client = client.clone();
            async move { echo::length(&client, CallContext::within(PATIENCE), text, &BODY).await }
        };
        let slow = tokio::spawn(long("gate"));
        let (fine, refused, failed, panicked) = tokio::join!(long(""), long("refuse"), long("fail"), long("panic"));
        assert_eq!(fine.expect("a result"), Ok(4));
        assert_eq!(refused.expect("a result"), Err("no".to_owned()));
        for (error, reason) in [(failed, "does not want to"), (panicked, "panicked")] {
            let error = error.expect_err("it fails");
            assert!(
                matches!(Error::find(&error), Some(Error::Remote(why)) if why.contains(reason)),
                "{error:#}"
            );
        }
        assert!(!slow.is_finished(), "it waits, and nobody for it");
        echo.gate.add_permits(1);
        assert_eq!(slow.await.expect("no panic").expect("a result"), Ok(4));

        // Results that go by themselves: above what goes in a bundle, and in chunks.
        for size in [0, 16 << 10, (16 << 10) + 1, 3 << 20] {
            let bytes = echo::bytes(&client, CallContext::within(PATIENCE), size).await;
            assert_eq!(bytes.expect("a result"), vec![7; size as usize]);
        }
        // And parameters.
        let body = Bytes::from(vec![7; 3 << 20]);
        let length = echo::length(&client, CallContext::within(PATIENCE), "", &body).await;
        assert_eq!(length.expect("a result"), Ok(3 << 20));

        assert_eq!(server.drain(PATIENCE).await, Drained { abandoned: 0 });
        assert_eq!((serving.load().exchanges, calling.load().exchanges), (0, 0));
        assert_eq!((serving.load().buffered_bytes, calling.load().buffered_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_small_messages_gets_small_bundles() {
    let nats = NatsServer::start_with(NatsSettings {
        config: Some("max_payload: 8KB".to_owned()),
        ..NatsSettings::default()
    })
    .await;
    let World { client, .. } = &world(&nats, false, &Echo::default()).await;
    // The last of them fit into a message by themselves, and not with a frame around them.
    let calls = (0..56).map(|i| 250 * i).chain(8_180..8_192).map(|size| async move {
        let body = Bytes::from(vec![7; size]);
        let length = echo::length(client, CallContext::within(PATIENCE), "", &body).await;
        assert_eq!(length.expect("a result"), Ok(size as u64));
        let size = u32::try_from(size).expect("small");
        let bytes = echo::bytes(client, CallContext::within(PATIENCE), size).await;
        assert_eq!(bytes.expect("a result").len(), size as usize);
    });
    future::join_all(calls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_a_bundle_brings_its_own_context() {
    let nats = NatsServer::start().await;
    let World { client, .. } = &world(&nats, false, &Echo::default()).await;
    let calls = (0..CALLS).map(|i| {
        let cx = CallContext {
            link: Some(format!("link-{i}")),
            traceparent: (i % 2 == 0).then(|| format!("00-{:032x}-{:016x}-01", i + 1, i + 1)),
            ..CallContext::within(PATIENCE)
        };
        async move {
            let (source, link, trace) = echo::who(client, cx.clone()).await.expect("a result");
            assert_eq!(
                (source.as_str(), Some(link), trace),
                ("tester", cx.link, cx.traceparent)
            );
        }
    });
    future::join_all(calls).await;
    let short = CallContext::within(Duration::from_millis(200));
    let error = echo::length(client, short, "gate", &BODY).await.expect_err("too late");
    assert!(matches!(Error::find(&error), Some(Error::Deadline { .. })), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_refused_to_one_call_and_not_to_its_bundle() {
    let nats = NatsServer::start().await;
    let options = Options {
        in_flight: 2,
        queued: 2,
        ..Options::default()
    };
    let serving = lattice(&nats, options).await;
    let echo = Echo::default();
    let server = serve_direct(&serving, &echo).await;
    let calling = lattice(&nats, Options::default()).await;
    let client = client(&calling);
    // The other function has places of its own.
    let bytes = |size| echo::bytes(&client, CallContext::within(PATIENCE), size);
    eventually_async("it is known that bundles are taken", async || {
        future::join_all((0..2).map(bytes)).await;
        server.in_flight() == 0 && taken(&nats, &client).await
    })
    .await;
    let gates = (0..CALLS).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { echo::length(&client, CallContext::within(PATIENCE), "gate", &BODY).await })
    });
    let gates: Vec<_> = gates.collect();
    echo.begun(2).await;
    let refused = |done: &Result<Result<u64, String>, anyhow::Error>| {
        let error = done.as_ref().err().and_then(Error::find);
        matches!(error, Some(Error::Busy(Resource::Target)))
    };
    eventually("one of them is refused", || gates.iter().any(|gate| gate.is_finished())).await;
    echo.gate.add_permits(CALLS);
    let mut busy = 0;
    for gate in gates {
        let done = gate.await.expect("no panic");
        match done {
            Ok(length) => assert_eq!(length, Ok(4)),
            ref refusal => {
                assert!(refused(refusal), "{refusal:?}");
                busy += 1;
            }
        }
        assert_eq!(bytes(3).await.expect("a result"), vec![7; 3]);
    }
    assert!(busy > 0, "there were places for four");
}

/// Whether two calls went in a bundle.
async fn taken(nats: &NatsServer, client: &Client) -> bool {
    let spy = nats.client().await;
    let mut seen = spy.subscribe(subject()).await.expect("a subscription");
    spy.flush().await.expect("a connection");
    let bytes = |size| echo::bytes(client, CallContext::within(PATIENCE), size);
    for done in future::join_all((0..2).map(bytes)).await {
        done.expect("a result");
    }
    spy.flush().await.expect("a connection");
    while let Some(Some(message)) = seen.next().now_or_never() {
        if !message.payload.is_empty() {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_bundles_may_be_followed_by_one_that_does_not() {
    let nats = NatsServer::start().await;
    let World {
        server,
        calling,
        client,
        ..
    } = world(&nats, true, &Echo::default()).await;
    stock_server(&nats, Echo::default()).await;
    // In the middle of calls. From here on NATS says that nobody takes bundles, and the calls go by themselves.
    let calls = stream::iter(0..4_000).map(|_| echo::length(&client, CallContext::within(PATIENCE), "", &BODY));
    let calls = calls.buffer_unordered(CALLS).for_each(async |length| {
        assert_eq!(length.expect("a result"), Ok(4));
    });
    let (drained, ()) = tokio::join!(server.drain(PATIENCE), calls);
    assert_eq!(drained, Drained { abandoned: 0 });
    storm(&client).await;
    assert_eq!(calling.load().exchanges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_there_for_a_function_that_a_target_does_not_have() {
    let nats = NatsServer::start().await;
    let World { server, client, .. } = world(&nats, true, &Echo::default()).await;
    let error = echo::who(&client, CallContext::default()).await.expect_err("nobody");
    assert!(matches!(Error::find(&error), Some(Error::NoResponders)), "{error:#}");
    // Nor for any, once it is gone.
    server.drain(PATIENCE).await;
    for error in future::join_all((0..2).map(|_| echo::length(&client, CallContext::default(), "", &BODY))).await {
        let error = error.expect_err("nobody");
        assert!(matches!(Error::find(&error), Some(Error::NoResponders)), "{error:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_may_not_send_bundles_calls_as_before() {
    let config = format!(
        "authorization {{ users: [
            {{ user: server, password: s }}
            {{ user: caller, password: c, permissions: {{ publish: {{ deny: [\"{}\"] }} }} }}
        ] }}",
        subject()
    );
    let nats = NatsServer::start_with(NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    })
    .await;
    let connect = async |user: &str, password: &str| {
        let options = async_nats::ConnectOptions::with_user_and_password(user.into(), password.into());
        let nats = options.connect(nats.address()).await.expect("a connection");
        Lattice::new(nats, Options::default()).await.expect("a lattice")
    };
    let serving = connect("server", "s").await;
    let _server = serve_direct(&serving, &Echo::default()).await;
    let calling = connect("caller", "c").await;
    let client = client(&calling);
    for _ in 0..20 {
        storm(&client).await;
    }
}

/// A frame as it is written, whose length is claimed.
fn frame(kind: u8, call: u32, claimed: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u8(kind);
    bytes.put_u32(call);
    bytes.put_u32(claimed);
    bytes.put_slice(payload);
    bytes
}

/// A call of `length`, whose parameters are anything.
fn call(number: u32, params: &[u8]) -> BytesMut {
    let mut texts = BytesMut::new();
    texts.put_u32(0);
    for text in [INSTANCE, "length", "", "", ""] {
        texts.put_u16(u16::try_from(text.len()).expect("short"));
        texts.put_slice(text.as_bytes());
    }
    let mut payload = BytesMut::new();
    payload.put_u16(u16::try_from(texts.len()).expect("short"));
    payload.put_slice(&texts);
    payload.put_slice(params);
    frame(0x11, number, u32::try_from(payload.len()).expect("short"), &payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_costs_only_who_sends_it() {
    let nats = NatsServer::start().await;
    let World {
        serving,
        server,
        client,
        ..
    } = world(&nats, false, &Echo::default()).await;

    let hostile = nats.client().await;
    let inbox = format!("{}.", hostile.new_inbox());
    let mut answers = hostile.subscribe(format!("{inbox}>")).await.expect("an inbox");
    let good = call(7, b"\x00\x00");
    let most = (0..300).flat_map(|i| call(i, b"\x00\x00")).collect();
    // Whether any call of it is answered.
    let scripts: Vec<(&str, Vec<u8>, bool)> = vec![
        ("no frame", vec![0xff; 100], false),
        ("half a head", vec![0x11, 0, 0], false),
        ("a frame of 4 GiB", frame(0x11, 1, u32::MAX, b"").to_vec(), false),
        ("a frame that is cut", frame(0x11, 1, 500, b"abc").to_vec(), false),
        ("a good call and a cut one", [&good[..], &[0x11, 0]].concat(), false),
        ("a piece", frame(0x21, 1, 0, b"").to_vec(), false),
        (
            "answers",
            [&frame(0x41, 1, 0, b"")[..], &frame(0x50, 1, 0, b"")].concat(),
            false,
        ),
        ("too many", most, false),
        ("a context that is cut", frame(0x11, 1, 2, b"\xff\xff").to_vec(), true),
        ("parameters that are none", call(1, b"\x02\xff\xff\x00").to_vec(), true),
        ("a list of 4 G", call(1, b"\x00\xff\xff\xff\xff\x0f").to_vec(), true),
        ("the same number twice", [&good[..], &good].concat(), true),
        ("a good call", good.to_vec(), true),
    ];
    for (what, message, answered) in scripts {
        let reply = format!("{inbox}b.1");
        let sent = hostile.publish_with_reply(subject(), reply, message.clone().into());
        sent.await.expect("published");
        // Without a reply subject of a bundle, nobody is answered.
        for reply in [format!("{inbox}1"), "b.1".to_owned()] {
            let sent = hostile.publish_with_reply(subject(), reply, message.clone().into());
            sent.await.expect("published");
        }
        hostile.publish(subject(), message.into()).await.expect("published");
        storm(&client).await;
        if answered {
            let answer = timeout(PATIENCE, answers.next()).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer: {what}"));
            assert!(answer.is_some_and(|a| !a.payload.is_empty()), "{what}");
        }
        // An honest round trip came after all of it.
        while let Some(Some(message)) = answers.next().now_or_never() {
            assert!(answered, "an answer to {what}: {:?}", message.payload);
        }
    }

    // Answers that nobody asked for.
    let mut inboxes = hostile.subscribe(subject()).await.expect("a subscription");
    hostile.flush().await.expect("a connection");
    let reply = loop {
        storm(&client).await;
        if let Some(Some(message)) = inboxes.next().now_or_never() {
            break message.reply.expect("a bundle has a reply subject");
        }
    };
    for garbage in [
        &b"\xff"[..],
        b"",
        &frame(0x41, u32::MAX, u32::MAX, b""),
        &frame(0x41, 0, 1, b"x"),
        &call(9, b""),
    ] {
        let sent = hostile.publish(reply.clone(), Bytes::copy_from_slice(garbage));
        sent.await.expect("published");
    }
    storm(&client).await;

    drop(hostile);
    eventually_async("nothing is left", async || {
        server.in_flight() == 0 && serving.load().exchanges == 0 && serving.load().buffered_bytes == 0
    })
    .await;
}
