//! Stock wRPC is served wherever sessions are, but for WebTransport, which none of its peers speaks.

use bytes::Bytes;
use fanout_transport::testing::{TestAuthority, TestNames};
use fanout_transport::{Drained, Endpoint, ListenOptions, Listener, Serving};
use futures::StreamExt as _;
use tempfile::TempDir;
use wrpc_transport::Invoke;

use crate::stock_peer::StockPeer;
use crate::suite::service;
use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, PATIENCE, eventually};

const CALLER: TestNames<'static> = TestNames {
    uris: &[],
    dns: &["orders.example"],
    common_name: None,
    not_after: None,
    serial: None,
};

async fn serving(endpoint: &Endpoint, authority: &TestAuthority, echo: &Echo) -> Serving {
    let options = ListenOptions {
        tls: Some(authority.server()),
        ..ListenOptions::default()
    };
    let listener = Listener::bind(endpoint, options).await.expect("it is free");
    listener.serve(&service(echo).await)
}

async fn calls(client: &impl Invoke<Context = ()>) {
    for size in [0, 1, 1000, 100_000, 200_000] {
        let body = Bytes::from(vec![7; size]);
        let call = async {
            let length = echo::length(client, (), "", &body).await.expect("a result");
            assert_eq!(length, Ok(size as u64));
            let bytes = echo::bytes(client, (), u32::try_from(size).expect("small")).await;
            assert!(bytes.expect("a result") == body);
        };
        tokio::time::timeout(PATIENCE, call).await.expect("no call hangs");
    }
    let refused = echo::length(client, (), "refuse", &Bytes::new()).await;
    assert_eq!(refused.expect("an answer"), Err("no".into()));
    for text in ["fail", "panic"] {
        let nothing = Bytes::new();
        let call = echo::length(client, (), text, &nothing);
        let failed = tokio::time::timeout(PATIENCE, call).await.expect("no call hangs");
        assert!(failed.is_err(), "{text}");
    }
    futures::stream::iter(0..500)
        .for_each_concurrent(32, |_| async {
            let length = echo::length(client, (), "", &Bytes::from_static(b"1234")).await;
            assert_eq!(length.expect("a result"), Ok(4));
        })
        .await;
}

async fn is_served(endpoint: Endpoint) {
    let (authority, echo) = (TestAuthority::new(), Echo::default());
    let server = serving(&endpoint, &authority, &echo).await;
    let peer = StockPeer::connect(&server, &authority, &CALLER).await;
    calls(&peer).await;
    eventually("all are answered", || server.in_flight() == 0).await;
    assert_eq!(server.drain(PATIENCE).await, Drained { abandoned: 0 });
}

fn at(url: &str) -> Endpoint {
    url.parse().expect("an endpoint")
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_peers_are_served_over_tcp() {
    is_served(at("tcp://127.0.0.1:0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_peers_are_served_over_tls() {
    is_served(at("tls://127.0.0.1:0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_peers_are_served_over_unix_sockets() {
    let directory = TempDir::new().expect("a directory");
    is_served(Endpoint::Unix(directory.path().join("bus.sock"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_peers_are_served_over_http() {
    is_served(at("http://127.0.0.1:0")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_peers_are_served_over_quic() {
    is_served(at("quic://127.0.0.1:0")).await;
}

/// A stock call over QUIC that is given up stops its handler: the stream says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_call_over_quic_can_be_cancelled() {
    let (authority, echo) = (TestAuthority::new(), Echo::default());
    let server = serving(&at("quic://127.0.0.1:0"), &authority, &echo).await;
    let peer = StockPeer::connect(&server, &authority, &CALLER).await;
    let call = tokio::spawn(async move { echo::length(&peer, (), "gate", &Bytes::new()).await });
    echo.begun(1).await;
    call.abort();
    eventually("the handler is stopped", || server.in_flight() == 0).await;
}
