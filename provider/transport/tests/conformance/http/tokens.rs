//! Tokens: whose they are, where they are required, and that none goes in the clear.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fanout_transport::testing::TestAuthority;
use fanout_transport::{
    CallContext, ClientTls, ConnectOptions, Error, Identity, ListenOptions, Listener, Outcome, Remote, SecretFrom,
    ServerTls, Service, Serving,
};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{OneToken, TOKEN, at, request, serving, status_of};
use crate::support::bindings::test::echo::echo;
use crate::support::{INSTANCE, PATIENCE, eventually};

fn token(text: &str) -> Option<SecretFrom> {
    Some(SecretFrom::Value(text.into()))
}

async fn connect(server: &Serving, tls: Option<ClientTls>, token: Option<SecretFrom>) -> Result<Remote, Error> {
    let options = ConnectOptions {
        tls,
        token,
        ..ConnectOptions::default()
    };
    Remote::connect(server.local_endpoint(), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_holder_s_or_nobody_s() {
    let (server, _, guard) = serving("http://127.0.0.1:0", ListenOptions::default()).await;
    let at = at(&server);
    let of = |header: &str| request(&format!("POST /{INSTANCE}/who"), &[header], "");
    let known = format!("authorization: Bearer {TOKEN}");
    assert_eq!(status_of(&at, &of(&known)).await.0, 200);
    // This machine's processes may call, and none of these is one of them.
    assert_eq!(status_of(&at, &of("x-nothing: 1")).await.0, 200);
    for unknown in [
        "authorization: Bearer fanout_of-another",
        "authorization: Bearer ",
        "authorization: Basic b3JkZXJzOmE=",
        &format!("authorization: {TOKEN}"),
        &format!("{known}\r\n{known}"),
    ] {
        let (status, answer) = status_of(&at, &of(unknown)).await;
        assert_eq!(status, 401, "{unknown}: {answer}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(answer.contains("unauthenticated-caller"), "{answer}");
        assert!(!answer.contains("of-another"), "{answer}");
    }
    let remote = connect(&server, None, token(TOKEN)).await.expect("it is known");
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    let error = connect(&server, None, token("fanout_of-another"))
        .await
        .expect_err("it is not");
    assert_eq!((error.code(), error.outcome()), ("peer-refused", Outcome::NotStarted));
    assert!(error.to_string().contains("token-sha256"), "{error}");
    // A stream that goes on ends when its token is taken back.
    let mut stream = TcpStream::connect(&at).await.expect("it is there");
    stream
        .write_all(&request("GET /ticks", &[&known], ""))
        .await
        .expect("it is sent");
    eventually("it goes on", || server.in_flight() == 1).await;
    *guard.revoked.lock().expect("no test panics with it") = true;
    let mut ticks = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut ticks)).await;
    read.expect("it ends").expect("in order");
    assert_eq!(status_of(&at, &of(&known)).await.0, 401);
    let error = echo::who(&remote, CallContext::default())
        .await
        .expect_err("it was taken back");
    assert_eq!(Error::find(&error).map(Error::code), Some("peer-refused"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_loopback_https_requires_a_token_where_it_requires_no_certificate() {
    let authority = TestAuthority::new();
    let open = ServerTls {
        client_ca: None,
        ..authority.server()
    };
    let options = ListenOptions {
        tls: Some(open),
        ..ListenOptions::default()
    };
    let error = Listener::bind(&"http://0.0.0.0:0".parse().expect("an endpoint"), options.clone()).await;
    assert_eq!(error.expect_err("anyone reads it").code(), "unauthenticated-listener");
    let (server, ..) = serving("https://0.0.0.0:0", options).await;
    let port = server.local_endpoint().authority().expect("a port").port();
    let Some(own) = own_address() else {
        // A machine without a network has nobody beyond it.
        return;
    };
    let endpoint = format!("https://{own}:{port}").parse().expect("an endpoint");
    let tls = ClientTls {
        identity: None,
        server_name: Some("localhost".to_owned()),
        ..authority.client("nobody")
    };
    let call = async |token| {
        let options = ConnectOptions {
            tls: Some(tls.clone()),
            token,
            ..ConnectOptions::default()
        };
        Remote::connect(&endpoint, options).await
    };
    let error = call(None).await.expect_err("nobody");
    assert!(error.to_string().contains("shows no token"), "{error}");
    let remote = call(token(TOKEN)).await.expect("it is known");
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
}

/// An address of this machine that is not the loopback's, if it has one.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only chooses where it would be sent from.
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_nowhere_in_the_clear() {
    let options = ConnectOptions {
        token: token(TOKEN),
        ..ConnectOptions::default()
    };
    for url in ["http://bus.example:80", "http://192.0.2.1:80", "tcp://127.0.0.1:9"] {
        let endpoint = url.parse().expect("an endpoint");
        let error = Remote::connect(&endpoint, options.clone())
            .await
            .expect_err("it is not shown");
        assert_eq!(error.code(), "invalid-endpoint", "{error}");
        assert!(
            error.to_string().contains("token") && !error.to_string().contains(TOKEN),
            "{error}"
        );
    }
    assert!(!format!("{options:?}").contains(TOKEN));
    let Some(own) = own_address() else { return };
    let open = ListenOptions {
        allow_unauthenticated_network_peers: true,
        ..ListenOptions::default()
    };
    let (server, ..) = serving("http://0.0.0.0:0", open).await;
    let port = server.local_endpoint().authority().expect("a port").port();
    let line = format!("POST /{INSTANCE}/who");
    let bytes = request(&line, &[&format!("authorization: Bearer {TOKEN}")], "");
    let (status, answer) = status_of(&format!("{own}:{port}"), &bytes).await;
    assert!(status == 403 && answer.contains("use https"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_a_certificate_are_judged_together() {
    let authority = TestAuthority::new();
    let seen = Arc::new(Mutex::new(None));
    let note = Arc::clone(&seen);
    let service = Service::new().guarded(OneToken::default()).direct(
        INSTANCE,
        "length",
        move |caller, (_, _): (String, Bytes)| {
            *note.lock().expect("no test panics with it") = Some(caller.identity);
            async { Ok(Ok::<u64, String>(0)) }
        },
    );
    let options = ListenOptions {
        tls: Some(authority.server()),
        ..ListenOptions::default()
    };
    let endpoint = "https://127.0.0.1:0".parse().expect("an endpoint");
    let server = Listener::bind(&endpoint, options)
        .await
        .expect("it is free")
        .serve(&service);
    let tls = Some(authority.client("orders.example"));
    let remote = connect(&server, tls.clone(), token(TOKEN))
        .await
        .expect("both are known");
    let length = echo::length(&remote, CallContext::default(), "", &Bytes::new()).await;
    length.expect("an answer").expect("a length");
    let identity = seen.lock().expect("no test panics with it").take();
    let Some(Identity::Token(proof)) = identity else {
        panic!("by its token: {identity:?}");
    };
    assert_eq!(proof.sha256, <[u8; 32]>::from(Sha256::digest(TOKEN)));
    let names = proof.certificate.as_ref().expect("and its certificate");
    assert_eq!(names.common_names, ["orders.example"]);
    assert!(!format!("{proof:?}").contains(TOKEN));
    // A certificate does not help a token that nobody knows.
    let error = connect(&server, tls, token("fanout_of-another")).await;
    assert_eq!(error.expect_err("it is not known").code(), "peer-refused");
}
