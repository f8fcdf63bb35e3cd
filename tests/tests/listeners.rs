//! Where a bus listens changes while it runs, and what does not change goes on.

use std::path::Path;

use fanout_client::{Bus, ClientTls, Event, Options, Pem, connect, connect_with};
use fanout_tests::{ANYONE_HERE, Bench, LinkTo, OutcomeState, SERVED_POLICY, Served, eventually};
use fanout_transport::testing::{NatsServer, TestAuthority};

fn event(id: &str) -> Event {
    Event::new("acme", "invoice.paid", id)
}

/// Publishes, or says why not.
async fn publish(bus: &Bus, id: &str) -> Result<(), String> {
    let published = bus.publish(&event(id)).await;
    published.map(drop).map_err(|e| e.code.to_string())
}

fn is_open(tcp: &str) -> bool {
    std::net::TcpStream::connect(tcp.trim_start_matches("tcp://")).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_reads_where_it_listens_again() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let socket = folder.path().join("bus.sock");
    let (any_port, unix) = ("tcp://127.0.0.1:0", format!("unix:{}", socket.display()));
    let listen = |urls: &[&str]| {
        std::fs::write(&policy, format!("listen = {urls:?}\n{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    };
    listen(&[any_port]);
    let served = Served::start(&nats.url(), &policy, &[]);
    let tcp = served.listen[0].clone();
    let bus = connect(&tcp).await.unwrap();
    publish(&bus, "1").await.unwrap();

    listen(&[any_port, &unix]);
    served.signal("HUP");
    eventually("it listens on the socket", || async { socket.exists().then_some(()) }).await;
    // Whom the policy does not name is told so by one who listens.
    let beside = connect(&unix).await.unwrap();
    assert_eq!(publish(&beside, "2").await, Err("unknown-caller".to_owned()));
    publish(&bus, "3").await.unwrap();
    assert!(is_open(&tcp), "the port that the system chose stays");

    // What can't be had changes nothing.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&[&format!("tcp://{}", taken.local_addr().unwrap())]);
    served.signal("HUP");
    eventually("it says that it can't", || async {
        served.log().contains("listen-failed").then_some(())
    })
    .await;
    publish(&bus, "4").await.unwrap();
    assert!(socket.exists());

    listen(&[&unix]);
    served.signal("HUP");
    eventually("it left the port", || async { (!is_open(&tcp)).then_some(()) }).await;
    assert_eq!(publish(&beside, "5").await, Err("unknown-caller".to_owned()));
}

/// Puts an authority's certificates where the server reads them.
fn put(folder: &Path, authority: &TestAuthority) {
    let tls = authority.server();
    for (name, pem) in [
        ("bus.pem", &tls.certificate),
        ("bus.key", &tls.key),
        ("ca.pem", &authority.certificate()),
    ] {
        let Pem::Text(text) = pem else {
            panic!("it is in memory")
        };
        std::fs::write(folder.join(name), text).unwrap();
    }
}

fn trusting(tls: ClientTls) -> Options {
    let mut options = Options::default();
    options.tls = Some(tls);
    options.deadline = std::time::Duration::from_secs(2);
    options
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_taken_and_broken_ones_are_not() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let callers = "\n[callers.billing]\ncertificate-dns = \"billing.example\"\npublish.tenants = \"acme\"\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{callers}")).unwrap();
    let (old, new) = (TestAuthority::new(), TestAuthority::new());
    put(folder.path(), &old);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key, ca) = (path("bus.pem"), path("bus.key"), path("ca.pem"));
    let mut args = vec!["--listen", "quic://127.0.0.1:0", "--listen", "tls://127.0.0.1:0"];
    args.extend([
        "--tls-certificate",
        &certificate,
        "--tls-key",
        &key,
        "--tls-client-ca",
        &ca,
    ]);
    let served = Served::start(&nats.url(), &policy, &args);
    let urls: Vec<_> = served
        .listen
        .iter()
        .map(|u| u.replace("127.0.0.1", "localhost"))
        .collect();
    let reaches = |url: String, authority: &TestAuthority| {
        let options = trusting(authority.client("billing.example"));
        async move {
            let bus = connect_with(&url, options).await.ok()?;
            publish(&bus, "1").await.ok()
        }
    };
    for url in &urls {
        assert!(reaches(url.clone(), &old).await.is_some(), "{url}");
    }

    std::fs::write(&certificate, "no certificate").unwrap();
    served.signal("HUP");
    eventually("it says that it can't", || async {
        served.log().contains("listen-failed").then_some(())
    })
    .await;
    for url in &urls {
        assert!(reaches(url.clone(), &old).await.is_some(), "{url} goes on");
    }

    put(folder.path(), &new);
    served.signal("HUP");
    for url in &urls {
        let what = format!("{url} shows the new certificate");
        eventually(&what, || reaches(url.clone(), &new)).await;
        assert!(
            reaches(url.clone(), &old).await.is_none(),
            "{url} takes nobody's old one"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_takes_changed_settings_where_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    let socket = |name: &str| folder.path().join(name);
    let url = |name: &str| format!("unix:{}", socket(name).display());
    let links = [LinkTo::caller("ingress", &["publisher"], "*")];
    let mut bench = Bench::start(&[("listen", &url("a.sock"))], &links).await;
    assert!(socket("a.sock").exists());

    // A setting of the policy alone: what is the instance's own is none of the policy's problems.
    bench.change("tenants.allowed", "acme").await;
    let ingress = bench.silent_component("ingress").await;
    eventually("the new policy is in force", || async {
        let refused = ingress
            .publish(fanout_tests::event("globex", "invoice.paid", "1"))
            .await;
        refused.is_err().then_some(())
    })
    .await;
    let policy = bench.status().await.unwrap().policy.unwrap();
    assert_eq!(policy.state, OutcomeState::Applied, "{policy:?}");

    bench
        .change("listen", &format!("{},{}", url("a.sock"), url("b.sock")))
        .await;
    eventually("it listens on both", || async {
        socket("b.sock").exists().then_some(())
    })
    .await;
    let bus = connect(&url("b.sock")).await.unwrap();
    assert_eq!(publish(&bus, "2").await, Err("unknown-caller".to_owned()));

    bench.change("listen", &url("b.sock")).await;
    eventually("it left the first", || async {
        (!socket("a.sock").exists()).then_some(())
    })
    .await;
    assert_eq!(publish(&bus, "3").await, Err("unknown-caller".to_owned()));
    let event = fanout_tests::event("acme", "invoice.paid", "4");
    ingress.publish(event).await.unwrap();
}
