//! What is answered goes to inboxes, whoever asks and whoever answers.

mod support;

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{CallContext, Error, HostControl, HostIds, InboxPrefix, Inboxes, Options, connect};
use futures::{FutureExt as _, StreamExt as _};
use support::bindings::test::echo::echo;
use support::{Echo, INSTANCE, PATIENCE, PREFIX, client, eventually, lattice, serve};

/// Waits until the server has passed on all that was sent before, and what has come of it is in the subscription.
async fn settled(nats: &async_nats::Client, at: &mut async_nats::Subscriber) -> Vec<String> {
    nats.flush().await.expect("flushed");
    let mut seen = Vec::new();
    while let Some(Some(message)) = at.next().now_or_never() {
        seen.push(message.subject.to_string());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_answered_outside_of_an_inbox() {
    let nats = NatsServer::start().await;
    let serving = lattice(&nats, Options::default()).await;
    let echo = Echo::default();
    let _server = serve(&serving, &echo).await;
    let connection = nats.client().await;
    let mut victim = connection.subscribe("victim.>").await.expect("subscribed");
    let calls = format!("{PREFIX}.wrpc.0.0.1.{INSTANCE}.length");
    let mut sent = 0;
    for mark in [None, Some("whole"), Some("chunked")] {
        for body in [&b""[..], b"\x00\x00", b"\xff\xff\xff\xff\x0f"] {
            for reply in ["victim.a", "victim.a.b.1", "_INBOXES.victim.b.2", "victim._INBOX.b.1"] {
                let mut headers = HeaderMap::new();
                headers.insert("source-id", "tester");
                if let Some(mark) = mark {
                    headers.insert("fanout-call", mark);
                }
                let published =
                    connection.publish_with_reply_and_headers(calls.clone(), reply, headers, Bytes::from_static(body));
                published.await.expect("published");
                sent += 1;
            }
        }
    }
    connection.flush().await.expect("flushed");
    eventually("all of them are seen", || serving.load().no_inbox == sent).await;
    // Others are served as ever, by the same subscriptions.
    let calling = lattice(&nats, Options::default()).await;
    let length = echo::length(&client(&calling), CallContext::default(), "", &Bytes::new()).await;
    assert_eq!(length.expect("a result"), Ok(0));
    assert_eq!(settled(&connection, &mut victim).await, [""; 0]);
    assert_eq!(echo.started.available_permits(), 1, "none of them reached a handler");
}

/// A peer that is called answers with a subject of its choice, too.
#[tokio::test(flavor = "multi_thread")]
async fn the_rest_of_a_call_goes_to_an_inbox_only() {
    let nats = NatsServer::start().await;
    let peer = nats.client().await;
    let mut victim = peer.subscribe("victim.>").await.expect("subscribed");
    let mut calls = peer
        .subscribe(format!("{PREFIX}.wrpc.0.0.1.{INSTANCE}.length"))
        .await
        .expect("subscribed");
    peer.flush().await.expect("flushed");
    let calling = lattice(&nats, Options::default()).await;
    let call = {
        let client = client(&calling);
        tokio::spawn(async move {
            let body = Bytes::from(vec![7; 3 << 20]);
            echo::length(&client, CallContext::within(Duration::from_secs(1)), "", &body).await
        })
    };
    let call_reply = calls.next().await.and_then(|call| call.reply).expect("a call");
    peer.publish_with_reply(call_reply, "victim.a", Bytes::new())
        .await
        .expect("published");
    peer.flush().await.expect("flushed");
    eventually("it is seen", || calling.load().no_inbox == 1).await;
    let error = call.await.expect("no panic").expect_err("nobody answered");
    assert!(matches!(Error::find(&error), Some(Error::Deadline { .. })), "{error:#}");
    assert_eq!(settled(&peer, &mut victim).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_inboxes_of_its_own_is_answered_where_that_is_said() {
    let nats = NatsServer::start().await;
    let custom = async || {
        let options = async_nats::ConnectOptions::new().custom_inbox_prefix("_INBOX_ops");
        options.connect(nats.address()).await.expect("a connection")
    };
    let calling = fanout_transport::Lattice::new(custom().await, Options::default())
        .await
        .expect("a lattice");
    let call = || async {
        let context = CallContext::within(Duration::from_secs(2));
        echo::length(&client(&calling), context, "", &Bytes::new()).await
    };
    let usual = lattice(&nats, Options::default()).await;
    let server = serve(&usual, &Echo::default()).await;
    let error = call().await.expect_err("it is not answered");
    assert!(matches!(Error::find(&error), Some(Error::Deadline { .. })), "{error:#}");
    assert!(usual.load().no_inbox > 0);
    server.drain(PATIENCE).await;
    // Where the setting says so, or where the server's own connection has them.
    let told = Options {
        inbox_prefixes: vec![
            InboxPrefix::default(),
            InboxPrefix::parse("_INBOX_ops").expect("a prefix"),
        ],
        ..Options::default()
    };
    let told = lattice(&nats, told).await;
    let server = serve(&told, &Echo::default()).await;
    assert_eq!(call().await.expect("answered"), Ok(0));
    server.drain(PATIENCE).await;
    let alike = fanout_transport::Lattice::new(custom().await, Options::default())
        .await
        .expect("a lattice");
    let server = serve(&alike, &Echo::default()).await;
    assert_eq!(call().await.expect("answered"), Ok(0));
    server.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_answered_in_its_inbox() {
    let nats = NatsServer::start().await;
    let ids = HostIds {
        host: "H".to_owned(),
        lattice: "default".to_owned(),
        provider: "bus".to_owned(),
    };
    let provider = connect(&host_access(&nats), "provider").await.expect("a connection");
    let inboxes = Inboxes::with_those_of(&provider, [InboxPrefix::default()]);
    let control = HostControl::attend(&provider, &inboxes, &ids).await.expect("attending");
    provider.flush().await.expect("flushed");
    let peer = nats.client().await;
    let mut victim = peer.subscribe("victim.>").await.expect("subscribed");
    let health = "wasmbus.rpc.default.bus.health";
    peer.publish_with_reply(health, "victim.a", Bytes::new())
        .await
        .expect("published");
    let healthy = || async {
        let answer = peer.request(health, Bytes::new()).await.expect("an answer");
        serde_json::from_slice::<serde_json::Value>(&answer.payload).expect("JSON")["healthy"] == true
    };
    assert!(!healthy().await);
    control.serving();
    assert!(healthy().await);
    assert_eq!(settled(&peer, &mut victim).await, [""; 0]);
    assert_eq!(inboxes.refused(), 1);

    let mut config = control.config();
    let change = Bytes::from_static(b"{\"a\":\"b\"}");
    peer.publish("wasmbus.rpc.default.bus.config.update", "nonsense".into())
        .await
        .expect("published");
    peer.publish("wasmbus.rpc.default.bus.config.update", change)
        .await
        .expect("published");
    tokio::time::timeout(PATIENCE, config.changed())
        .await
        .expect("in time")
        .expect("a change");
    assert_eq!(config.borrow().as_ref().expect("a change")["a"], "b");

    let end = "wasmbus.rpc.default.bus.default.shutdown";
    peer.publish_with_reply(end, peer.new_inbox(), "{\"host_id\":\"another\"}".into())
        .await
        .expect("published");
    let told = peer
        .request(end, "{\"host_id\":\"H\"}".into())
        .await
        .expect("an answer");
    assert_eq!(told.payload, "shutting down");
    tokio::time::timeout(PATIENCE, control.shutdown())
        .await
        .expect("it is told");
}

fn host_access(nats: &NatsServer) -> fanout_transport::Access {
    fanout_transport::Access {
        urls: nats.address(),
        ..Default::default()
    }
}
