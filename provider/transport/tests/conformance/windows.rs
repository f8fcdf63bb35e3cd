//! What a server holds of peers over QUIC: windows, within a budget.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fanout_transport::testing::TestAuthority;
use fanout_transport::{CallContext, ClientIdentity, Endpoint, ListenOptions, Listener, Options, Pem, Serving};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::timeout;

use crate::suite::{Wire as _, service};
use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, PATIENCE, eventually};

const HELLO: &[u8] = b"\xfafanout\x01";
/// Long enough for a window to be used up, and short enough to do it often.
const BLOCKED: Duration = Duration::from_millis(300);

fn text(pem: &Pem) -> &str {
    let Pem::Text(text) = pem else {
        panic!("it is in memory")
    };
    text
}

/// What a caller of this name speaks.
pub(crate) fn trusting(authority: &TestAuthority, name: &str, alpn: &[u8]) -> rustls::ClientConfig {
    trusting_as(authority, authority.sign(name), alpn)
}

/// What a caller that shows this certificate speaks.
pub(crate) fn trusting_as(authority: &TestAuthority, identity: ClientIdentity, alpn: &[u8]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(text(&authority.certificate()).as_bytes()).expect("a certificate");
    roots.add(ca).expect("an authority");
    let ClientIdentity { certificate, key } = identity;
    let chain = vec![CertificateDer::from_pem_slice(text(&certificate).as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(text(&key).as_bytes()).expect("a key");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a key of its certificate");
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

struct Peer {
    endpoint: quinn::Endpoint,
    at: SocketAddr,
}

impl Peer {
    fn new(server: &Serving, authority: &TestAuthority, name: &str) -> Self {
        Self::with_alpn(server, authority, name, b"fanout")
    }

    fn with_alpn(server: &Serving, authority: &TestAuthority, name: &str, alpn: &[u8]) -> Self {
        Self::pinging(server, authority, (name, alpn), None)
    }

    /// It stays connected for as long as the server answers.
    fn pinging(
        server: &Serving,
        authority: &TestAuthority,
        (name, alpn): (&str, &[u8]),
        pings: Option<Duration>,
    ) -> Self {
        let crypto = QuicClientConfig::try_from(trusting(authority, name, alpn)).expect("for QUIC");
        let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        // It sends whatever it may.
        let mut transport = quinn::TransportConfig::default();
        transport.send_window(1 << 30).keep_alive_interval(pings);
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        let at = server.local_endpoint().authority().expect("a port");
        let at = SocketAddr::new(at.host().parse().expect("an address"), at.port());
        Self { endpoint, at }
    }

    async fn connect(&self) -> Option<quinn::Connection> {
        let connecting = self.endpoint.connect(self.at, "localhost").expect("it can be tried");
        timeout(PATIENCE, connecting).await.expect("an answer").ok()
    }
}

/// Bytes that the server lets a peer send on a stream without reading them.
async fn fill(stream: &mut quinn::SendStream) -> usize {
    let mut sent = 0;
    while let Ok(Ok(written)) = timeout(BLOCKED, stream.write(&[0xee; 4096])).await {
        sent += written;
    }
    sent
}

async fn serving(authority: &TestAuthority, options: ListenOptions) -> Serving {
    let endpoint: Endpoint = "quic://127.0.0.1:0".parse().expect("an endpoint");
    let options = ListenOptions {
        tls: Some(authority.server()),
        ..options
    };
    let listener = Listener::bind(&endpoint, options).await.expect("it is free");
    listener.serve(&service(&Echo::default()).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_begun_no_call_is_held_few_bytes() {
    let authority = TestAuthority::new();
    let server = serving(&authority, ListenOptions::default()).await;
    let peer = Peer::new(&server, &authority, "hoarder");
    let connection = peer.connect().await.expect("it is taken");
    let mut streams = Vec::new();
    while let Ok(Ok(stream)) = timeout(BLOCKED, connection.open_bi()).await {
        streams.push(stream);
    }
    assert!((1..=4).contains(&streams.len()), "{} streams", streams.len());
    // What is no hello, and whatever else may be sent.
    let mut sent = 0;
    for (stream, _) in &mut streams {
        sent += fill(stream).await;
    }
    assert!(sent <= 64 << 10, "{sent} bytes without a call");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_begun_a_call_gets_wide_windows() {
    let authority = TestAuthority::new();
    let server = serving(&authority, ListenOptions::default()).await;
    let peer = Peer::new(&server, &authority, "caller");
    let connection = peer.connect().await.expect("it is taken");
    let (mut writer, mut reader) = connection.open_bi().await.expect("a stream");
    writer.write_all(HELLO).await.expect("sent");
    let mut greeting = [0; 20];
    reader.read_exact(&mut greeting).await.expect("a greeting");
    let mut streams = Vec::new();
    for _ in 0..16 {
        let stream = timeout(PATIENCE, connection.open_bi()).await.expect("there are more");
        streams.push(stream.expect("it is connected"));
    }
}

/// A thousand connections would otherwise hold a thousand windows.
#[tokio::test(flavor = "multi_thread")]
async fn the_windows_of_one_peer_are_within_its_budget() {
    let authority = TestAuthority::new();
    let options = ListenOptions {
        window_bytes_per_peer: 2 << 20,
        window_bytes: 4 << 20,
        ..ListenOptions::default()
    };
    let server = serving(&authority, options).await;
    let peer = Peer::new(&server, &authority, "hoarder");
    let mut held = Vec::new();
    for _ in 0..40 {
        held.extend(peer.connect().await);
    }
    eventually("21 of 96 KiB are 2 MiB", || server.connections() <= 21).await;
    assert!(server.connections() > 8, "{}", server.connections());
    // Another caller of the same address has its own.
    let other = Peer::new(&server, &authority, "other");
    let connection = other.connect().await.expect("it is taken");
    let (mut writer, mut reader) = connection.open_bi().await.expect("a stream");
    writer.write_all(HELLO).await.expect("sent");
    let greeted = reader.read_exact(&mut [0; 20]).await;
    greeted.expect("it is served");
    // Those that begin no call are let go.
    for connection in held {
        timeout(PATIENCE, connection.closed()).await.expect("it is let go");
    }
}

/// Heads that do not end, frames of what is not HTTP, and streams that say nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_let_go() {
    let wire = crate::Listening::new("webtransport://127.0.0.1:0/bus");
    let options = ListenOptions {
        first_call_deadline: Duration::from_secs(2),
        idle_deadline: Duration::from_secs(3),
        ..ListenOptions::default()
    };
    let server = wire.start(&service(&Echo::default()).await, options).await;
    let control: &[u8] = b"\x00\x04\x00";
    let scripts: [(&[u8], &[u8]); 9] = [
        (b"", b""),
        (control, b""),
        (control, b"GET :1:2: HTTP/1.1\r\n\r\n"),
        // A head of 2^62 bytes, one of 4096, one that is no QPACK, a frame of WebTransport of no session.
        (control, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff"),
        (control, b"\x01\x50\x00aaaa"),
        (control, b"\x01\x08\xff\xff\xff\xff\xff\xff\xff\xff"),
        (control, b"\x40\x41\x00\xfafanout\x01"),
        // Settings twice, and of no length.
        (b"\x00\x04\x00\x04\x00", b""),
        (b"\x00\x04\xff\xff\xff\xff\xff\xff\xff\xff", b""),
    ];
    let (server_ref, authority) = (&server, wire.authority());
    let hostile = scripts.map(|(uni, bidi)| async move {
        let peer = Peer::with_alpn(server_ref, authority, "stranger", b"h3");
        let connection = peer.connect().await.expect("it is taken");
        let sent = async {
            let mut control = connection.open_uni().await.ok()?;
            control.write_all(uni).await.ok()?;
            let (mut writer, reader) = connection.open_bi().await.ok()?;
            writer.write_all(bidi).await.ok()?;
            Some((control, writer, reader))
        };
        let _held = timeout(PATIENCE, sent).await.expect("it is not held up");
        timeout(PATIENCE, connection.closed()).await.expect("it is let go");
    });
    futures::future::join_all(hostile).await;
    let remote = wire.call(Options::default()).await.expect("it serves on");
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
}

/// Connections whose handshake was given up, and which pings keep alive, keep their places.
#[tokio::test(flavor = "multi_thread")]
async fn who_never_ends_a_handshake_has_as_many_connections_as_another() {
    const PLACES: usize = 4;
    let wire = crate::Listening::new("webtransport://127.0.0.1:0/bus");
    let options = ListenOptions {
        first_call_deadline: BLOCKED,
        connections_per_peer: PLACES,
        ..ListenOptions::default()
    };
    let server = wire.start(&service(&Echo::default()).await, options).await;
    let peer = Peer::pinging(&server, wire.authority(), ("stranger", b"h3"), Some(BLOCKED));
    let mut alive = Vec::new();
    let begun = std::time::Instant::now();
    // Long enough for each of them to be given up, and for others to ask for its place.
    while begun.elapsed() < 8 * BLOCKED {
        if let Some(connection) = peer.connect().await
            && let Ok(mut control) = connection.open_uni().await
            && let Ok((mut request, answer)) = connection.open_bi().await
            && control.write_all(b"\x00\x04\x00").await.is_ok()
            && request.write_all(b"\x01\x50\x00aaaa").await.is_ok()
        {
            alive.push((connection, control, request, answer));
        }
        alive.retain(|(connection, ..)| connection.close_reason().is_none());
        assert!(alive.len() <= PLACES, "{} connections", alive.len());
    }
    assert!(
        !alive.is_empty(),
        "the server closes them itself: its places need not be kept"
    );
    // They are free again with their connections.
    for (connection, ..) in &alive {
        connection.close(0_u8.into(), b"");
    }
    eventually("no place is taken", || server.connections() == 0).await;
}
