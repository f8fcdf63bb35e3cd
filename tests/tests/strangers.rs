//! What strangers do to a listener costs them, and neither other listeners nor the log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanout_client::{Bus, ClientTls, ErrorKind, Event, Options, connect_with};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, eventually, mutual_tls};
use fanout_transport::raise_open_files;
use fanout_transport::testing::{NatsServer, TestAuthority, TestNames};
use futures::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// No honest request takes longer: this is a bound, not a measure.
const SOON: Duration = Duration::from_secs(4);

fn options(tls: Option<ClientTls>) -> Options {
    let mut options = Options::default();
    options.tls = tls;
    options.deadline = SOON;
    options
}

fn address(url: &str) -> SocketAddr {
    let (_, address) = url.split_once("://").unwrap();
    address.parse().unwrap()
}

async fn publish(url: &str, tls: Option<ClientTls>, id: &str) -> Result<Bus, fanout_client::Error> {
    let bus = connect_with(url, options(tls)).await?;
    bus.publish(&Event::new("acme", "invoice.paid", id)).await?;
    Ok(bus)
}

/// Says nothing, and connects again when it is closed, for as long as it is to.
async fn silent(at: SocketAddr, again: Arc<AtomicBool>) {
    while again.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(at).await {
            let mut rest = [0; 64];
            while let Ok(1..) = stream.read(&mut rest).await {}
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_one_listener_stop_no_other() {
    raise_open_files();
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let authority = TestAuthority::new();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    let more = format!("unix-uid = {uid}\ncertificate-dns = \"billing.example\"\n");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}{more}")).unwrap();
    let socket = format!("unix:{}", folder.path().join("bus.sock").display());
    let files = mutual_tls(folder.path(), &authority);
    let listen = ["tcp://127.0.0.1:0", &socket, "tls://127.0.0.1:0", "quic://127.0.0.1:0"];
    let mut args: Vec<&str> = listen.iter().flat_map(|url| ["--listen", url]).collect();
    args.extend(files.iter().map(String::as_str));
    let served = Served::start_with_files(1024, &nats.url(), &policy, &args);

    // More than there are files, on two of the listeners, anew when they are closed.
    let mut strangers = JoinSet::new();
    let again = Arc::new(AtomicBool::new(true));
    for url in [&served.listen[0], &served.listen[2]] {
        let at = address(url);
        for _ in 0..1100 {
            strangers.spawn(silent(at, Arc::clone(&again)));
        }
    }
    let tls = authority.client("billing.example");
    let local = |url: &str| url.replace("127.0.0.1", "localhost");
    let elsewhere = [
        (served.listen[1].clone(), None),
        (local(&served.listen[3]), Some(tls.clone())),
    ];
    eventually("strangers are refused", || async {
        served.log().contains("connections are refused").then_some(())
    })
    .await;
    for round in 0..10 {
        for (url, tls) in &elsewhere {
            let published = publish(url, tls.clone(), &format!("{round} {url}")).await;
            assert!(published.is_ok(), "{url}: {published:?}");
        }
    }
    // And on those listeners, from the address of the strangers: whoever speaks takes the place of one that does not.
    again.store(false, Ordering::Relaxed);
    for (url, tls) in [(served.listen[0].clone(), None), (local(&served.listen[2]), Some(tls))] {
        eventually("a place", || async {
            publish(&url, tls.clone(), &format!("among strangers {url}")).await.ok()
        })
        .await;
    }
    // The store is reached all the while, and files are there to be read.
    served.signal("HUP");
    eventually("the policy is read", || async {
        served.log().contains("the policy was read again").then_some(())
    })
    .await;
    strangers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_strangers_is_a_few_lines_in_the_log() {
    raise_open_files();
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let files = mutual_tls(folder.path(), &TestAuthority::new());
    let mut args = vec!["--listen", "tcp://127.0.0.1:0", "--listen", "tls://127.0.0.1:0"];
    args.extend(files.iter().map(String::as_str));
    let served = Served::start(&nats.url(), &policy, &args);
    let before = served.log().lines().count();
    // What is no call; a call of nothing; a handshake of nobody.
    let nothing = b"\x00\x21fanout:bus/publisher@0.2.0\x00";
    for (url, bytes) in [
        (&served.listen[0], &b"GET :1:2: HTTP/1.1\r\n\r\n"[..]),
        (&served.listen[0], nothing),
        (&served.listen[0], b"\x00\x01a\x01b\x00\x01\x00"),
        (&served.listen[1], b"\x16\x03\x01\x00\x01\x00"),
    ] {
        let at = address(url);
        let started = std::time::Instant::now();
        let mut flood = JoinSet::new();
        for _ in 0..500 {
            flood.spawn(async move {
                if let Ok(mut stream) = TcpStream::connect(at).await
                    && stream.write_all(bytes).await.is_ok()
                    && stream.shutdown().await.is_ok()
                {
                    let mut rest = Vec::new();
                    drop(stream.read_to_end(&mut rest).await);
                }
            });
        }
        flood.join_all().await;
        let seconds = started.elapsed().as_secs() as usize + 1;
        let lines = served.log().lines().count() - before;
        assert!(
            lines < 20 + 10 * seconds,
            "{lines} lines in {seconds} s:\n{}",
            served.log()
        );
    }
    assert!(served.log().contains("handshakes failed"), "{}", served.log());
    assert!(publish(&served.listen[0], None, "1").await.is_ok(), "it serves on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_what_its_names_are_and_nothing_more() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let authority = TestAuthority::new();
    let callers = "
[callers.billing]
certificate-uri = \"spiffe://example.org/billing\"
certificate-dns = \"billing.example\"
publish.tenants = \"acme\"

[callers.audit]
certificate-cn = \"audit\"
publish.tenants = \"acme\"
";
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}{callers}")).unwrap();
    let files = mutual_tls(folder.path(), &authority);
    let listen = [
        "tls://127.0.0.1:0",
        "quic://127.0.0.1:0",
        "webtransport://127.0.0.1:0/bus",
    ];
    let mut args: Vec<&str> = listen.iter().flat_map(|url| ["--listen", url]).collect();
    args.extend(files.iter().map(String::as_str));
    let served = Served::start(&nats.url(), &policy, &args);
    let of = |uris: &'static [&'static str], dns: &'static [&'static str], common_name| TestNames {
        uris,
        dns,
        common_name,
        ..TestNames::default()
    };
    for url in &served.listen {
        let url = url.replace("127.0.0.1", "localhost");
        for (n, names) in [
            of(&["spiffe://example.org/billing"], &[], None),
            of(
                &["spiffe://example.org/other", "spiffe://example.org/billing"],
                &["x.example"],
                Some("x"),
            ),
            of(&[], &["x.example", "BILLING.example"], None),
            of(&[], &[], Some("audit")),
        ]
        .iter()
        .enumerate()
        {
            let published = publish(&url, Some(authority.client_with(names)), &format!("{n} {url}")).await;
            assert!(published.is_ok(), "{url} {names:?}: {published:?}");
        }
        for names in [
            // Not the loopback, from which it comes, and whose caller may do everything.
            of(&[], &[], None),
            of(&[], &[], Some("spiffe://example.org/billing")),
            of(&[], &[], Some("billing.example")),
            of(&[], &["audit"], None),
            of(&["spiffe://example.org/billing/x"], &["x.billing.example"], Some("")),
            // Two callers at once.
            of(&["spiffe://example.org/billing"], &[], Some("audit")),
        ] {
            let refused = publish(&url, Some(authority.client_with(&names)), "x").await;
            let refused = refused.expect_err("it is no caller");
            assert_eq!(
                (refused.kind, refused.code.as_str()),
                (ErrorKind::NotPermitted, "unknown-caller"),
                "{url} {names:?}: {refused}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_once_the_list_is_read() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let authority = TestAuthority::new();
    let crl = folder.path().join("revoked.crl");
    std::fs::write(&crl, authority.revoke_der(&[])).unwrap();
    let callers = "\n[callers.billing]\ncertificate-dns = \"billing.example\"\npublish.tenants = \"acme\"\n";
    let setting = format!("tls.client-crl = {:?}\n", crl.display().to_string());
    let files = mutual_tls(folder.path(), &authority);
    let tls = format!(
        "tls.certificate = {:?}\ntls.key = {:?}\ntls.client-ca = {:?}\n{setting}",
        files[1], files[3], files[5]
    );
    std::fs::write(&policy, format!("{tls}{SERVED_POLICY}{callers}")).unwrap();
    let args = ["--listen", "tls://127.0.0.1:0", "--listen", "quic://127.0.0.1:0"];
    let served = Served::start(&nats.url(), &policy, &args);
    let holder = |serial| {
        authority.client_with(&TestNames {
            dns: &["billing.example"],
            serial: Some(serial),
            ..TestNames::default()
        })
    };
    let mut callers = Vec::new();
    for url in &served.listen {
        let url = url.replace("127.0.0.1", "localhost");
        let bus = publish(&url, Some(holder(7)), &format!("7 {url}")).await.unwrap();
        let other = publish(&url, Some(holder(8)), &format!("8 {url}")).await.unwrap();
        callers.push((url, bus, other));
    }
    std::fs::write(&crl, authority.revoke_der(&[7])).unwrap();
    served.signal("HUP");
    for (url, bus, other) in callers {
        // Its connection is over as well.
        let event = |id: &str| Event::new("acme", "invoice.paid", format!("{id} {url}"));
        eventually("it is refused", || async {
            let refused = bus.publish(&event("revoked")).await.err()?;
            (refused.code == "peer-refused" && refused.message.contains("CertificateRevoked")).then_some(())
        })
        .await;
        eventually("the other comes back", || async {
            other.publish(&event("valid")).await.ok()
        })
        .await;
    }
}

/// A session of a peer that says by itself what it sends: calls of one function, numbered from 0.
fn calls(instance: &str, func: &str, parameters: &[u8], count: u32) -> Vec<u8> {
    let mut texts = vec![0, 0, 0, 0];
    for text in [instance, func, "", "", ""] {
        texts.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        texts.extend(text.as_bytes());
    }
    let mut payload = u16::try_from(texts.len()).unwrap().to_be_bytes().to_vec();
    payload.extend(texts);
    payload.extend(parameters);
    let mut bytes = b"\xfafanout\x01".to_vec();
    for call in 0..count {
        bytes.push(0x11);
        bytes.extend(call.to_be_bytes());
        bytes.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
        bytes.extend(&payload);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_more_is_fetched_for_who_reads_no_answers() {
    const EVENTS: usize = 120;
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let text = format!(
        "bus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\n[delivery]\nack-wait = \"5m\"\n\
         [subscriptions.work]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\n{ANYONE_HERE}"
    );
    std::fs::write(&policy, text).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let url = &served.listen[0];
    let bus = connect_with(url, options(None)).await.unwrap();
    let data = vec![b'x'; 500 << 10];
    for i in 0..EVENTS {
        let large = Event::new("acme", "invoice.paid", format!("e{i}")).data(data.clone());
        bus.publish(&large).await.unwrap();
    }
    let mut silent = TcpStream::connect(address(url)).await.unwrap();
    let fetch = ("work".to_owned(), 1_000_u32, Some(8_u64 << 20), 5_000_u32);
    let fetch = fanout_transport::encode(fetch).unwrap();
    let bytes = calls("fanout:bus/inbox@0.2.0", "fetch", &fetch, 12);
    silent.write_all(&bytes).await.unwrap();
    let log = async_nats::jetstream::new(nats.client().await);
    let log = log.get_stream("fanout_payments_log").await.unwrap();
    let fetched = || async {
        let consumers: Vec<_> = log.consumers().try_collect().await.ok()?;
        Some(consumers.iter().map(|consumer| consumer.num_ack_pending).sum::<usize>())
    };
    eventually("some are fetched", || async { fetched().await.filter(|n| *n >= 16) }).await;
    // Twelve fetches could have all of them. Two are answered at a time, and what the kernel takes besides; so it stays.
    for _ in 0..150 {
        let fetched = fetched().await.unwrap_or_default();
        assert!(fetched < EVENTS * 2 / 3, "{fetched} of {EVENTS} for who reads nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(silent);
}
