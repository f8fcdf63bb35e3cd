//! Who is let in, and how the others are told.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fanout_transport::testing::TestAuthority;
use fanout_transport::{
    CallContext, ClientTls, ConnectOptions, Endpoint, Error, ListenOptions, Listener, Outcome, Remote, ServerTls,
    Serving,
};
use tokio::net::UnixStream;

use crate::suite::service;
use crate::support::Echo;
use crate::support::bindings::test::echo::echo;

pub(crate) const ENCRYPTED: [&str; 4] = [
    "tls://127.0.0.1:0",
    "https://127.0.0.1:0",
    "quic://127.0.0.1:0",
    "webtransport://127.0.0.1:0/bus",
];

async fn serving(url: &str, tls: Option<ServerTls>) -> Serving {
    let options = ListenOptions {
        tls,
        ..ListenOptions::default()
    };
    let endpoint = url.parse().expect("an endpoint");
    let listener = Listener::bind(&endpoint, options).await.expect("it is free");
    listener.serve(&service(&Echo::default()).await)
}

async fn call(endpoint: &Endpoint, tls: ClientTls) -> Result<Remote, Error> {
    let options = ConnectOptions {
        tls: Some(tls),
        ..ConnectOptions::default()
    };
    Remote::connect(endpoint, options).await
}

async fn refused(endpoint: &Endpoint, tls: ClientTls) -> String {
    let error = call(endpoint, tls)
        .await
        .expect_err("one side does not accept the other");
    assert!(matches!(error, Error::Refused { .. }), "{endpoint}: {error:?}");
    assert_eq!(error.code(), "peer-refused");
    assert_eq!(error.outcome(), Outcome::NotStarted);
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_is_told_why_it_is_not_accepted() {
    let (ours, foreign) = (TestAuthority::new(), TestAuthority::new());
    for url in ENCRYPTED {
        let server = serving(url, Some(ours.server())).await;
        let endpoint = server.local_endpoint();
        // Under TLS 1.3 the handshake of these callers ends before the server has looked at their certificates.
        let nobody = ClientTls {
            identity: None,
            ..ours.client("nobody")
        };
        let why = refused(endpoint, nobody).await;
        assert!(why.contains("requires a certificate"), "{why}");
        let stranger = ClientTls {
            identity: foreign.client("stranger").identity,
            ..ours.client("stranger")
        };
        let why = refused(endpoint, stranger).await;
        assert!(why.contains("refused this caller's certificate"), "{why}");
        // And callers that don't trust the server.
        let distrustful = ClientTls {
            server_ca: foreign.certificate(),
            ..ours.client("orders")
        };
        let why = refused(endpoint, distrustful).await;
        assert!(why.contains("not accepted here"), "{why}");
        let elsewhere = ClientTls {
            server_name: Some("elsewhere.example".to_owned()),
            ..ours.client("orders")
        };
        let why = refused(endpoint, elsewhere).await;
        assert!(why.contains("not accepted here"), "{why}");
        // Those that do are served.
        let named = ClientTls {
            server_name: Some("localhost".to_owned()),
            ..ours.client("orders")
        };
        let remote = call(endpoint, named)
            .await
            .unwrap_or_else(|error| panic!("{endpoint}: {error:?}"));
        assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_authority_for_callers_anyone_of_this_machine_may_call() {
    let ours = TestAuthority::new();
    let tls = ServerTls {
        client_ca: None,
        ..ours.server()
    };
    for url in ENCRYPTED {
        let server = serving(url, Some(tls.clone())).await;
        let nobody = ClientTls {
            identity: None,
            ..ours.client("nobody")
        };
        let remote = call(server.local_endpoint(), nobody).await.expect("it can be called");
        assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_this_machine_peers_are_authenticated_or_the_risk_is_named() {
    let ours = TestAuthority::new();
    let open = ServerTls {
        client_ca: None,
        ..ours.server()
    };
    let bind = async |url: &str, options: ListenOptions| {
        let endpoint: Endpoint = url.parse().expect("an endpoint");
        Listener::bind(&endpoint, options).await
    };
    for url in [
        "tcp://0.0.0.0:0",
        "tls://0.0.0.0:0",
        "quic://0.0.0.0:0",
        "webtransport://[::]:0",
        "http://0.0.0.0:0",
    ] {
        let options = ListenOptions {
            tls: Some(open.clone()),
            ..ListenOptions::default()
        };
        let error = bind(url, options.clone()).await.expect_err("anyone could call");
        assert!(matches!(error, Error::Unprotected { .. }), "{url}: {error}");
        assert_eq!(error.code(), "unauthenticated-listener");
        assert!(
            error.to_string().contains("allow_unauthenticated_network_peers"),
            "{error}"
        );
    }
    let options = ListenOptions {
        allow_unauthenticated_network_peers: true,
        ..ListenOptions::default()
    };
    assert!(bind("tcp://0.0.0.0:0", options).await.is_ok());
    let options = ListenOptions {
        tls: Some(ours.server()),
        ..ListenOptions::default()
    };
    assert!(bind("tls://0.0.0.0:0", options.clone()).await.is_ok());
    assert!(bind("quic://0.0.0.0:0", options).await.is_ok());
    // What is no transport any more.
    for url in ["ws://127.0.0.1:0", "wss://bus.example:443/bus"] {
        let error = Error::from(url.parse::<Endpoint>().expect_err("it is none"));
        assert_eq!(error.code(), "invalid-endpoint");
        assert!(error.to_string().contains("https://"), "{error}");
    }
    // Nothing to encrypt with.
    let error = bind("quic://127.0.0.1:0", ListenOptions::default())
        .await
        .expect_err("no certificate");
    assert_eq!(error.code(), "invalid-endpoint");
    let error = bind("nats://127.0.0.1:4222?target=a.b", ListenOptions::default()).await;
    assert_eq!(error.expect_err("for callers only").code(), "invalid-endpoint");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_unreachable() {
    let ours = TestAuthority::new();
    let directory = tempfile::tempdir().expect("a directory");
    let socket = format!("unix:{}", directory.path().join("none.sock").display());
    // Port 9 discards; on this machine nobody does.
    for url in [
        socket.as_str(),
        "tcp://127.0.0.1:9",
        "tls://127.0.0.1:9",
        "quic://127.0.0.1:9",
        "http://127.0.0.1:9",
        "https://127.0.0.1:9",
    ] {
        let options = ConnectOptions {
            tls: Some(ours.client("orders")),
            connect_deadline: std::time::Duration::from_millis(300),
            ..ConnectOptions::default()
        };
        let endpoint: Endpoint = url.parse().expect("an endpoint");
        let error = Remote::connect(&endpoint, options).await.expect_err("nobody is there");
        assert_eq!(
            (error.code(), error.outcome()),
            ("peer-unreachable", Outcome::NotStarted),
            "{error:?}"
        );
        assert!(error.to_string().contains(url), "{error}");
    }
}

/// As wRPC's own servers do with what they can't read.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_instead_of_greeting_was_sent_no_call() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let closing = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
        }
    });
    let endpoint: Endpoint = format!("tcp://{at}").parse().expect("an endpoint");
    let error = Remote::connect(&endpoint, ConnectOptions::default()).await;
    let error = error.expect_err("it does not greet");
    assert_eq!(error.outcome(), Outcome::NotStarted, "{error:?}");
    closing.abort();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_s_path_is_taken_and_left_with_care() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bus.sock");
    let endpoint = Endpoint::Unix(path.clone());
    let options = ListenOptions {
        socket_mode: 0o600,
        ..ListenOptions::default()
    };
    let first = Listener::bind(&endpoint, options.clone()).await.expect("it is free");
    assert_eq!(mode(&path), 0o600);
    // Somebody listens on it.
    let error = Listener::bind(&endpoint, options.clone())
        .await
        .expect_err("it is taken");
    assert_eq!(error.code(), "listen-failed");
    let serving = first.serve(&service(&Echo::default()).await);
    assert!(UnixStream::connect(&path).await.is_ok(), "the first is still there");
    serving.drain(crate::support::PATIENCE).await;
    assert!(!path.exists(), "the path goes with the server");
    // As a killed server leaves it.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("it is free"));
    assert!(path.exists());
    let again = Listener::bind(&endpoint, options.clone())
        .await
        .expect("nobody listens on it");
    drop(again);
    // What is no socket is not ours.
    std::fs::write(&path, "precious").expect("written");
    assert!(Listener::bind(&endpoint, options).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).expect("it is there"), "precious");
    assert_eq!(
        std::fs::read_dir(directory.path()).expect("a directory").count(),
        1,
        "nothing else is left"
    );
}
