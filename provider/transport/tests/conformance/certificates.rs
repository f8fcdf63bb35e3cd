//! What a certificate proves of its caller, for how long, and what ends it before.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fanout_transport::testing::{TestAuthority, TestNames};
use fanout_transport::{
    CallContext, CertificateNames, ClientIdentity, ClientTls, ConnectOptions, Endpoint, Error, Identity, ListenOptions,
    Listener, Outcome, Pem, Remote, ServerTls, Service, Serving,
};

use crate::security::ENCRYPTED;
use crate::stock_peer::StockPeer;
use crate::support::bindings::test::echo::echo;
use crate::support::{INSTANCE, PATIENCE, eventually, eventually_async};

/// Whoever called last.
type Seen = Arc<Mutex<Option<Identity>>>;

fn noting() -> (Seen, Service) {
    let seen = Seen::default();
    let note = Arc::clone(&seen);
    let service = Service::new().direct(INSTANCE, "poke", move |caller, ()| {
        *note.lock().expect("no test panics with it") = Some(caller.identity);
        async { Ok(true) }
    });
    (seen, service)
}

async fn bind(url: &str, tls: ServerTls) -> Result<Listener, Error> {
    let endpoint: Endpoint = url.parse().expect("an endpoint");
    let options = ListenOptions {
        tls: Some(tls),
        ..ListenOptions::default()
    };
    Listener::bind(&endpoint, options).await
}

async fn serving(url: &str, tls: ServerTls) -> (Seen, Serving) {
    let (seen, service) = noting();
    (seen, bind(url, tls).await.expect("it is free").serve(&service))
}

async fn connect(server: &Serving, tls: ClientTls) -> Result<Remote, Error> {
    let options = ConnectOptions {
        tls: Some(tls),
        ..ConnectOptions::default()
    };
    Remote::connect(server.local_endpoint(), options).await
}

async fn poke(remote: &Remote) -> Result<(), Error> {
    let cx = CallContext::within(PATIENCE);
    let (true,) = remote.call_values::<_, (bool,)>(cx, INSTANCE, "poke", ()).await? else {
        panic!("the handler says true")
    };
    Ok(())
}

fn names(uris: &[&str], dns: &[&str], common_name: Option<&str>) -> Identity {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Identity::Certificate(Arc::new(CertificateNames {
        uris: owned(uris),
        dns: owned(dns),
        common_names: owned(common_name.as_slice()),
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_known_by_every_name_of_its_certificate_each_of_its_kind() {
    let authority = TestAuthority::new();
    let (uris, dns) = (["spiffe://a/one", "spiffe://a/two"], ["one.example", "two.example"]);
    let all = TestNames {
        uris: &uris,
        dns: &dns,
        common_name: Some("spiffe://a/three"),
        ..TestNames::default()
    };
    let only = |common_name| TestNames {
        common_name,
        ..TestNames::default()
    };
    for url in ENCRYPTED {
        let (seen, server) = serving(url, authority.server()).await;
        let last = || seen.lock().expect("no test panics with it").take();
        for (shown, expected) in [
            (&all, names(&uris, &dns, Some("spiffe://a/three"))),
            (&only(Some("spiffe://a/one")), names(&[], &[], Some("spiffe://a/one"))),
            // Of this machine's loopback, and nobody all the same.
            (&only(None), Identity::Nobody),
        ] {
            let remote = connect(&server, authority.client_with(shown)).await;
            poke(&remote.expect("it can be called")).await.expect("an answer");
            assert_eq!(last(), Some(expected.clone()), "{url} {shown:?}");
            if !url.starts_with("webtransport") {
                let peer = StockPeer::connect(&server, &authority, shown).await;
                // It has no result to wait for.
                echo::poke(&peer, ()).await.expect("it is sent");
                eventually("a stock peer is known as well", || last() == Some(expected.clone())).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_is_known_only_where_nobody_is_authenticated() {
    let authority = TestAuthority::new();
    let tls = ServerTls {
        client_ca: None,
        ..authority.server()
    };
    for url in ENCRYPTED {
        let (seen, server) = serving(url, tls.clone()).await;
        let nobody = ClientTls {
            identity: None,
            ..authority.client("nobody")
        };
        let remote = connect(&server, nobody).await.expect("it can be called");
        poke(&remote).await.expect("an answer");
        let seen = seen.lock().expect("no test panics with it").take();
        assert_eq!(seen, Some(Identity::Loopback), "{url}");
    }
}

/// In a moment that a certificate still has to be used.
fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_caller_s_certificate() {
    let authority = TestAuthority::new();
    for url in ENCRYPTED {
        let (_, server) = serving(url, authority.server()).await;
        let short = TestNames {
            dns: &["short.example"],
            not_after: Some(soon()),
            ..TestNames::default()
        };
        let remote = connect(&server, authority.client_with(&short)).await;
        let remote = remote.expect("its certificate holds");
        poke(&remote).await.expect("an answer");
        let lasting = connect(&server, authority.client("lasting.example")).await;
        let lasting = lasting.expect("it can be called");
        eventually_async("the connection ends", async || match poke(&remote).await {
            Ok(()) => false,
            Err(error) => {
                assert_eq!(error.outcome(), Outcome::NotStarted, "{url}: {error}");
                matches!(&error, Error::Refused { reason, .. } if reason.contains("CertificateExpired"))
            }
        })
        .await;
        eventually("only the other is left", || server.connections() <= 1).await;
        poke(&lasting).await.expect("whose certificate holds is served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_a_stock_peer_ends_with_its_certificate_too() {
    let authority = TestAuthority::new();
    let (_, server) = serving("quic://127.0.0.1:0", authority.server()).await;
    let short = TestNames {
        dns: &["short.example"],
        not_after: Some(soon()),
        ..TestNames::default()
    };
    let peer = StockPeer::connect(&server, &authority, &short).await;
    echo::poke(&peer, ()).await.expect("it is sent");
    eventually("it is closed", || server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_session_ends_with_its_caller_s_certificate_too() {
    let authority = TestAuthority::new();
    for url in ENCRYPTED {
        let (_, server) = serving(url, authority.server()).await;
        let short = TestNames {
            common_name: Some("short"),
            not_after: Some(soon()),
            ..TestNames::default()
        };
        let _remote = connect(&server, authority.client_with(&short)).await;
        assert_eq!(server.connections(), 1, "{url}");
        eventually("it is closed", || server.connections() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_certificate_was_renewed_comes_back_by_itself() {
    let authority = TestAuthority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, pem: &Pem| {
        let Pem::Text(text) = pem else {
            panic!("it is in memory")
        };
        std::fs::write(folder.path().join(name), text).expect("written");
    };
    let file = |name: &str| Pem::File(folder.path().join(name));
    let put = |names: &TestNames<'_>| {
        let identity = authority.issue(names);
        write("caller.pem", &identity.certificate);
        write("caller.key", &identity.key);
    };
    for url in ENCRYPTED {
        let (seen, server) = serving(url, authority.server()).await;
        put(&TestNames {
            dns: &["caller.example"],
            common_name: Some("old"),
            not_after: Some(soon()),
            ..TestNames::default()
        });
        let tls = ClientTls {
            server_ca: authority.certificate(),
            identity: Some(ClientIdentity {
                certificate: file("caller.pem"),
                key: file("caller.key"),
            }),
            server_name: None,
        };
        let remote = connect(&server, tls).await.expect("it can be called");
        poke(&remote).await.expect("an answer");
        // Half of a renewal is none.
        write("caller.key", &Pem::Text("no key yet".to_owned()));
        put(&TestNames {
            dns: &["caller.example"],
            common_name: Some("new"),
            ..TestNames::default()
        });
        eventually_async("it shows the new one", async || {
            if let Err(error) = poke(&remote).await {
                assert_eq!(error.outcome(), Outcome::NotStarted, "{url}: {error}");
            }
            let seen = seen.lock().expect("no test panics with it").take();
            seen == Some(names(&[], &["caller.example"], Some("new")))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_certificate_is_revoked_is_refused() {
    let authority = TestAuthority::new();
    let folder = tempfile::tempdir().expect("a folder");
    let der = folder.path().join("revoked.crl");
    std::fs::write(&der, authority.revoke_der(&[7])).expect("written");
    let holder = |serial| {
        authority.client_with(&TestNames {
            dns: &["caller.example"],
            serial: Some(serial),
            ..TestNames::default()
        })
    };
    for url in ENCRYPTED {
        for list in [authority.revoke(&[7]), Pem::File(der.clone())] {
            let tls = ServerTls {
                client_crl: Some(list),
                ..authority.server()
            };
            let (_, server) = serving(url, tls).await;
            let remote = connect(&server, holder(8)).await;
            poke(&remote.expect("it is not revoked")).await.expect("an answer");
            let error = connect(&server, holder(7)).await.expect_err("revoked");
            assert_eq!(error.code(), "peer-refused", "{url}: {error:?}");
            assert!(error.to_string().contains("CertificateRevoked"), "{url}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_would_refuse_everybody_is_refused_itself() {
    let (authority, foreign) = (TestAuthority::new(), TestAuthority::new());
    for (list, why) in [
        (foreign.revoke(&[7]), "no revocation list of the authority"),
        (authority.certificate(), "no revocation list in PEM or DER"),
        (Pem::Text("nothing".to_owned()), "no revocation list in PEM or DER"),
        (Pem::File("/nowhere/at/all.crl".into()), "No such file"),
    ] {
        let tls = ServerTls {
            client_crl: Some(list),
            ..authority.server()
        };
        let error = bind("tls://127.0.0.1:0", tls).await.expect_err("it can't be used");
        assert_eq!(error.code(), "invalid-credentials");
        assert!(error.to_string().contains("client_crl"), "{error}");
        let source = std::error::Error::source(&error).expect("a reason").to_string();
        assert!(source.contains(why), "{source}");
    }
}

/// A session that is resumed would not be verified again.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_of_tls_is_resumed() {
    let authority = TestAuthority::new();
    let (_, server) = serving("tls://127.0.0.1:0", authority.server()).await;
    let at = server.local_endpoint().authority().expect("a port").to_string();
    let config = Arc::new(crate::windows::trusting(&authority, "caller.example", b"fanout"));
    for _ in 0..2 {
        let tcp = tokio::net::TcpStream::connect(&at).await.expect("it listens");
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&config));
        let name = "localhost".try_into().expect("a name");
        let mut tls = connector.connect(name, tcp).await.expect("a handshake");
        // Tickets come with the first bytes.
        let (mut greeting, hello) = ([0; 20], b"\xfafanout\x01");
        tokio::io::AsyncWriteExt::write_all(&mut tls, hello)
            .await
            .expect("sent");
        let greeted = tokio::io::AsyncReadExt::read_exact(&mut tls, &mut greeting).await;
        greeted.expect("a greeting");
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}
