//! What a certificate proves of its caller, for how long, and what ends it before.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fanout_transport::testing::{TestAuthority, TestNames};
use fanout_transport::{
    CallContext, CertificateNames, ClientIdentity, ClientTls, ConnectOptions, Endpoint, Error, Identity, ListenOptions,
    Listener, Outcome, Pem, Remote, ServerTls, Service, Serving,
};
use wrpc_transport::InvokeExt as _;

use crate::security::ENCRYPTED;
use crate::stock_peer::StockPeer;
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

async fn poke_as_stock(peer: &StockPeer) {
    let no_paths: [&[Option<usize>]; 0] = [];
    let poked = peer.invoke_values_blocking::<_, _, (bool,)>((), INSTANCE, "poke", (), no_paths);
    assert_eq!(poked.await.expect("an answer"), (true,));
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
            if !url.starts_with("webtransport") && !url.starts_with("https") {
                let peer = StockPeer::connect(&server, &authority, shown).await;
                poke_as_stock(&peer).await;
                assert_eq!(last(), Some(expected), "stock over {url} {shown:?}");
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

fn write(folder: &Path, name: &str, pem: &Pem) {
    let Pem::Text(text) = pem else {
        panic!("it is in memory")
    };
    std::fs::write(folder.join(name), text).expect("written");
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
    poke_as_stock(&peer).await;
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
    let write = |name: &str, pem: &Pem| write(folder.path(), name, pem);
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

/// What a listener reads from files, which are renewed while it goes on.
struct Renewed {
    folder: tempfile::TempDir,
    callers: TestAuthority,
}

impl Renewed {
    /// A certificate of `authority` is shown, and callers that are not revoked are let in.
    fn new(authority: &TestAuthority) -> Self {
        let renewed = Self {
            folder: tempfile::tempdir().expect("a folder"),
            callers: TestAuthority::new(),
        };
        renewed.show(authority);
        renewed.write("callers.pem", &renewed.callers.certificate());
        renewed.write("callers.crl", &renewed.callers.revoke(&[]));
        renewed
    }

    fn write(&self, name: &str, pem: &Pem) {
        write(self.folder.path(), name, pem);
    }

    fn show(&self, authority: &TestAuthority) {
        let tls = authority.server();
        self.write("bus.pem", &tls.certificate);
        self.write("bus.key", &tls.key);
    }

    fn options(&self) -> ListenOptions {
        let file = |name: &str| Pem::File(self.folder.path().join(name));
        ListenOptions {
            tls: Some(ServerTls {
                certificate: file("bus.pem"),
                key: file("bus.key"),
                client_ca: Some(file("callers.pem")),
                client_crl: Some(file("callers.crl")),
            }),
            ..ListenOptions::default()
        }
    }

    async fn serving(&self, url: &str) -> Serving {
        let endpoint: Endpoint = url.parse().expect("an endpoint");
        let listener = Listener::bind(&endpoint, self.options()).await.expect("it is free");
        listener.serve(&noting().1)
    }

    /// A caller that trusts certificates of `authority`.
    async fn connect(&self, server: &Serving, authority: &TestAuthority, serial: u64) -> Result<Remote, Error> {
        let names = TestNames {
            dns: &["caller.example"],
            serial: Some(serial),
            ..TestNames::default()
        };
        let tls = ClientTls {
            server_ca: authority.certificate(),
            ..self.callers.client_with(&names)
        };
        connect(server, tls).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_costs_no_connection() {
    let (old, new) = (TestAuthority::new(), TestAuthority::new());
    for url in ENCRYPTED {
        let files = Renewed::new(&old);
        let server = files.serving(url).await;
        let before = files.connect(&server, &old, 1).await.expect("it can be called");
        poke(&before).await.expect("an answer");

        files.write("bus.key", &Pem::Text("half of a renewal".to_owned()));
        let error = server.read_again(&files.options()).expect_err("it can't be used");
        assert_eq!(error.code(), "invalid-credentials");
        assert!(error.to_string().contains("bus.key"), "{error}");
        let kept = files.connect(&server, &old, 2).await.expect("the old one is shown");
        poke(&kept).await.expect("an answer");

        files.show(&new);
        server.read_again(&files.options()).expect("it can be used").apply();
        let after = files.connect(&server, &new, 3).await.expect("the new one is shown");
        poke(&after).await.expect("an answer");
        let error = files
            .connect(&server, &old, 4)
            .await
            .expect_err("nobody is shown the old one");
        assert_eq!(error.code(), "peer-refused", "{url}");
        // They could not connect again: these are their first connections.
        for remote in [&before, &kept] {
            poke(remote).await.expect("it goes on");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_by_a_renewal_is_let_go_and_nobody_else() {
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    for url in ENCRYPTED {
        let files = Renewed::new(&authority);
        let server = files.serving(url).await;
        let revoked = files.connect(&server, &authority, 7).await.expect("it can be called");
        let stays = files.connect(&server, &authority, 8).await.expect("it can be called");
        poke(&revoked).await.expect("an answer");
        poke(&stays).await.expect("an answer");
        files.write("callers.crl", &files.callers.revoke(&[7]));
        // Whoever has to connect again finds a server that it does not trust.
        files.show(&other);
        server.read_again(&files.options()).expect("it can be used").apply();
        eventually_async("it is let go", async || poke(&revoked).await.is_err()).await;
        eventually("its connection is closed", || server.connections() == 1).await;
        poke(&stays).await.expect("it goes on");
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
        assert!(
            error.to_string().contains("the list of revoked certificates"),
            "{error}"
        );
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
