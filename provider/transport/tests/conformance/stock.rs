//! Stock wRPC on both sides: its clients call our listeners, and we call its servers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::TestAuthority;
use fanout_transport::{
    CallContext, ConnectOptions, Dialect, Drained, Endpoint, Error, ListenOptions, Listener, Outcome, Remote, Serving,
};
use futures::StreamExt as _;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use wrpc_transport::Invoke;

use crate::suite::service;
use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, PATIENCE, bindings, eventually};

const URLS: [&str; 4] = [
    "tcp://127.0.0.1:0",
    "tls://127.0.0.1:0",
    "quic://127.0.0.1:0",
    "webtransport://127.0.0.1:0/bus",
];

async fn serving(endpoint: &Endpoint, authority: &TestAuthority, echo: &Echo) -> Serving {
    let options = ListenOptions {
        tls: Some(authority.server()),
        ..ListenOptions::default()
    };
    let listener = Listener::bind(endpoint, options).await.expect("it is free");
    listener.serve(&service(echo).await)
}

async fn stock_calls<C>(client: &C, context: impl Fn() -> C::Context)
where
    C: Invoke,
{
    for size in [0, 1, 1000, 100_000, 200_000] {
        let body = Bytes::from(vec![7; size]);
        let call = async {
            let length = echo::length(client, context(), "", &body).await.expect("a result");
            assert_eq!(length, Ok(size as u64));
            let bytes = echo::bytes(client, context(), u32::try_from(size).expect("small")).await;
            assert!(bytes.expect("a result") == body);
        };
        tokio::time::timeout(PATIENCE, call).await.expect("no call hangs");
    }
    let refused = echo::length(client, context(), "refuse", &Bytes::new()).await;
    assert_eq!(refused.expect("an answer"), Err("no".into()));
    for text in ["fail", "panic"] {
        let nothing = Bytes::new();
        let call = echo::length(client, context(), text, &nothing);
        let failed = tokio::time::timeout(PATIENCE, call).await.expect("no call hangs");
        assert!(failed.is_err(), "{text}");
    }
    futures::stream::iter(0..500)
        .for_each_concurrent(32, |_| async {
            let length = echo::length(client, context(), "", &Bytes::from_static(b"1234")).await;
            assert_eq!(length.expect("a result"), Ok(4));
        })
        .await;
}

/// The clients that come with wRPC.
#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_are_served() {
    let authority = TestAuthority::new();
    let echo = Echo::default();
    let server = serving(&"tcp://127.0.0.1:0".parse().expect("an endpoint"), &authority, &echo).await;
    let at = server.local_endpoint().authority().expect("a port").to_string();
    stock_calls(&wrpc_transport::frame::tcp::Client::from(at), || ()).await;
    eventually("all are answered", || server.in_flight() == 0).await;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bus.sock");
    let server = serving(&Endpoint::Unix(path.clone()), &authority, &echo).await;
    stock_calls(&wrpc_transport::frame::unix::Client::from(path), || ()).await;
    eventually("all are answered", || server.in_flight() == 0).await;
}

/// Our client, speaking as they do.
#[tokio::test(flavor = "multi_thread")]
async fn the_stock_dialect_is_served_on_every_transport() {
    let authority = TestAuthority::new();
    for url in URLS {
        let server = serving(&url.parse().expect("an endpoint"), &authority, &Echo::default()).await;
        let options = ConnectOptions {
            dialect: Dialect::Stock,
            tls: Some(authority.client("orders")),
            ..ConnectOptions::default()
        };
        let remote = Remote::connect(server.local_endpoint(), options)
            .await
            .expect("options that hold");
        stock_calls(&remote, CallContext::default).await;
        let error = echo::length(&remote, CallContext::default(), "fail", &Bytes::new()).await;
        let error = error.expect_err("it failed");
        let error = Error::find(&error).expect("an error of the transport");
        assert!(matches!(error, Error::Incomplete), "{url}: {error}");
        assert_eq!(error.outcome(), Outcome::Failed);
        eventually("all are answered", || server.in_flight() == 0).await;
        assert_eq!(server.drain(PATIENCE).await, Drained { abandoned: 0 });
    }
}

/// A stock server, an accept loop beside it.
#[tokio::test(flavor = "multi_thread")]
async fn stock_servers_are_called() {
    let server = Arc::new(wrpc_transport::Server::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint: Endpoint = format!("tcp://{}", listener.local_addr().expect("an address"))
        .parse()
        .expect("an endpoint");
    let accepting = tokio::spawn({
        let server = Arc::clone(&server);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (rx, tx) = TcpStream::into_split(stream);
                let server = Arc::clone(&server);
                tokio::spawn(async move { server.accept((), tx, BufReader::new(rx)).await.is_ok() });
            }
        }
    });
    let invocations = bindings::serve(&*server, Unknown(Echo::default()))
        .await
        .expect("served");
    for (_, _, invocations) in invocations {
        tokio::spawn(invocations.for_each_concurrent(None, |invocation| async {
            if let Ok(invocation) = invocation {
                drop(tokio::spawn(invocation).await);
            }
        }));
    }
    let options = ConnectOptions {
        dialect: Dialect::Stock,
        ..ConnectOptions::default()
    };
    let remote = Remote::connect(&endpoint, options).await.expect("options that hold");
    stock_calls(&remote, CallContext::default).await;
    // A session is not what it speaks: that is told at once.
    let options = ConnectOptions {
        connect_deadline: Duration::from_secs(10),
        ..ConnectOptions::default()
    };
    let error = Remote::connect(&endpoint, options)
        .await
        .expect_err("it does not greet");
    assert_eq!(error.outcome(), Outcome::NotStarted, "{error:?}");
    accepting.abort();
}

/// A handler whose caller is nobody in particular.
#[derive(Clone)]
struct Unknown(Echo);

impl bindings::exports::test::echo::echo::Handler<()> for Unknown {
    async fn length(&self, (): (), text: String, body: Bytes) -> anyhow::Result<Result<u64, String>> {
        self.0.length(&text, &body).await
    }
    async fn bytes(&self, (): (), length: u32) -> anyhow::Result<Bytes> {
        Ok(vec![7; length as usize].into())
    }
    async fn who(&self, (): ()) -> anyhow::Result<(String, String, Option<String>)> {
        Ok(Default::default())
    }
    async fn poke(&self, (): ()) -> anyhow::Result<()> {
        Ok(())
    }
}

/// A stock call over QUIC that is given up stops its handler: the stream says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_stock_call_over_quic_can_be_cancelled() {
    let authority = TestAuthority::new();
    for url in ["quic://127.0.0.1:0", "webtransport://127.0.0.1:0"] {
        let echo = Echo::default();
        let server = serving(&url.parse().expect("an endpoint"), &authority, &echo).await;
        let options = ConnectOptions {
            dialect: Dialect::Stock,
            tls: Some(authority.client("orders")),
            ..ConnectOptions::default()
        };
        let remote = Remote::connect(server.local_endpoint(), options)
            .await
            .expect("options that hold");
        let call =
            tokio::spawn(
                async move { echo::length(&remote, CallContext::within(PATIENCE), "gate", &Bytes::new()).await },
            );
        echo.begun(1).await;
        call.abort();
        eventually("the handler is stopped", || server.in_flight() == 0).await;
    }
}
