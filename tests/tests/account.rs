//! A bus in an account that may not have everything, beside streams of others, and in the JetStream of another server:
//! what can't be is said before anything is made.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use async_nats::jetstream::stream;
use async_nats::jetstream::{self, context::ContextBuilder};
use fanout_tests::{ANYONE_HERE, Cli, SERVED_POLICY, Served, beside_the_tests, eventually};
use fanout_transport::testing::{NatsServer, NatsSettings};
use futures::TryStreamExt as _;

const POLICY: &str = "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n";
const ACCOUNT: &str = "app:pw";

/// A server whose one user's account may have so much.
async fn limited(jetstream: &str) -> NatsServer {
    let config =
        format!("accounts {{ APP {{ jetstream: {{ {jetstream} }}, users: [ {{ user: app, password: pw }} ] }} }}\n");
    with(config).await
}

async fn with(config: String) -> NatsServer {
    let settings = NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    };
    NatsServer::start_with(settings).await
}

fn cli(nats: &NatsServer) -> Cli {
    Cli::new(format!("nats://{ACCOUNT}@{}", nats.address()))
}

async fn context(nats: &NatsServer) -> jetstream::Context {
    let options = async_nats::ConnectOptions::with_user_and_password("app".into(), "pw".into());
    jetstream::new(options.connect(nats.address()).await.unwrap())
}

/// The streams that there are.
async fn streams(js: &jetstream::Context) -> Vec<stream::Info> {
    js.streams().try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_wants_sizes_has_a_size_of_everything() {
    let nats = limited("max_mem: 1G, max_file: 10G, max_bytes_required: true").await;
    let cli = cli(&nats);
    let quota = "\n[quota]\nmax-bytes = \"1MiB\"\n";
    let policy = cli.policy(&format!("{POLICY}{quota}"));
    let (code, out, err) = cli.run(&["plan"], &policy, &["--nats", cli.nats()]);
    assert_eq!((code, err), (0, format!("read the store at {}\n", nats.url())), "{out}");
    assert!(
        out.contains("the whole bus takes 9 streams, and at most 2.3 GiB of disk"),
        "{out}"
    );
    assert!(!out.contains("any number"), "{out}");
    let (code, out, err) = cli.run(&["apply"], &policy, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let js = context(&nats).await;
    let made = streams(&js).await;
    assert_eq!(made.len(), 9);
    assert!(made.iter().all(|s| s.config.max_bytes > 0), "{made:?}");
    let (code, out, _) = cli.run(&["apply"], &policy, &[]);
    assert!(code == 0 && out.contains("nothing to do"), "{out}");
    // Each is a setting.
    let sizes = "[dead-letters]\nmax-bytes = \"100MiB\"\n[scheduled]\nmax-bytes = \"50MiB\"\nmarks-max-bytes = \"5MiB\"\n[registry]\nmax-bytes = \"20MiB\"\n\
        [attempts]\nmax-bytes = \"30MiB\"\n[retention]\nmax-bytes = \"200MiB\"\n\
        [retry]\nmax-bytes = \"40MiB\"\n";
    let policy = cli.policy(&format!("{POLICY}{quota}counters-max-bytes = \"10MiB\"\n{sizes}"));
    let (code, out, err) = cli.run(&["apply"], &policy, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let mut sizes: Vec<_> = streams(&js).await.iter().map(|s| s.config.max_bytes >> 20).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [4, 5, 10, 20, 30, 40, 50, 100, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_of_the_account_that_would_be_passed_is_named_and_nothing_is_made() {
    for (bounds, named) in [
        ("max_file: 1G", "10047"),
        ("max_file: 10G, max_streams: 4", "10027"),
        ("max_file: 10G, disk_max_stream_bytes: 900M", "10122"),
        ("max_file: 10G, max_consumers: 1", "10026"),
    ] {
        let nats = limited(bounds).await;
        let cli = cli(&nats);
        let two = "[subscriptions.a]\nneed = \"durable\"\n[subscriptions.b]\nneed = \"durable\"\n";
        let policy = cli.policy(&format!("{POLICY}{two}"));
        let url = cli.nats().to_owned();
        for (verb, more) in [
            ("plan", &["--nats", &url][..]),
            ("check", &["--nats", &url]),
            ("apply", &[]),
        ] {
            let (code, out, err) = cli.run(&[verb], &policy, more);
            assert_eq!(code, 1, "{bounds} {verb}: {out}{err}");
            assert!(
                err.contains(named) && err.contains("[account-limit]"),
                "{bounds} {verb}: {err}"
            );
        }
        assert!(streams(&context(&nats).await).await.is_empty(), "{bounds}");
    }
    // In memory, the disk's bound says nothing, and memory's does.
    let nats = limited("max_mem: 2G, max_file: 10K").await;
    let cli = cli(&nats);
    let memory = |bytes: &str| {
        let policy = cli.policy(&format!(
            "{POLICY}[retention]\nstorage = \"memory\"\nmax-bytes = \"{bytes}\"\n"
        ));
        cli.run(&["apply"], &policy, &[])
    };
    let (code, _, err) = memory("1GiB");
    assert!(
        code == 1 && err.contains("of memory") && err.contains("[account-limit]"),
        "{err}"
    );
    assert!(streams(&context(&nats).await).await.is_empty());
    assert_eq!(memory("64MiB").0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_server_knows_leaves_nothing_half_made() {
    let nats = with("jetstream { max_file: 600M }\n".to_owned()).await;
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{POLICY}[retention]\nmax-bytes = \"400MiB\"\n"));
    let (code, out, err) = cli.run(&["apply"], &policy, &[]);
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains("[account-limit]"), "{err}");
    assert!(out.contains("create bucket"), "some of it fitted: {out}");
    let js = jetstream::new(nats.client().await);
    assert!(streams(&js).await.is_empty());
    let less = ["retention", "dead-letters", "scheduled"].map(|part| format!("[{part}]\nmax-bytes = \"64MiB\"\n"));
    let policy = cli.policy(&format!("{POLICY}{}", less.concat()));
    let (code, out, err) = cli.run(&["apply"], &policy, &[]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_holds_a_subject_is_named_and_nothing_is_made() {
    for subjects in [
        &["orders.>", "payments.>"][..],
        &["payments.acme.webhook.invoice.paid"],
        &["fanout.dead.payments.*.>"],
        &["$KV.fanout_payments_registry.x"],
    ] {
        let nats = NatsServer::start().await;
        let js = jetstream::new(nats.client().await);
        let theirs = stream::Config {
            name: "THEIRS".into(),
            subjects: subjects.iter().map(|s| (*s).into()).collect(),
            ..stream::Config::default()
        };
        js.create_stream(theirs).await.unwrap();
        let cli = Cli::new(nats.url());
        let policy = cli.policy(POLICY);
        for (verb, more) in [
            ("plan", &["--nats", cli.nats()][..]),
            ("check", &["--nats", cli.nats()]),
            ("apply", &[]),
        ] {
            let (code, out, err) = cli.run(&[verb], &policy, more);
            assert_eq!(code, 1, "{subjects:?} {verb}: {out}");
            assert!(
                err.contains("stream THEIRS holds") && err.contains("[subject-taken]"),
                "{err}"
            );
        }
        assert_eq!(streams(&js).await.len(), 1, "{subjects:?}");
    }
    // Of another bus too.
    let nats = NatsServer::start().await;
    let cli = Cli::new(nats.url());
    assert_eq!(cli.run(&["apply"], &cli.policy(POLICY), &[]).0, 0);
    let other = cli.policy(&POLICY.replace("\"payments\"", "\"more\""));
    let (code, _, err) = cli.run(&["apply"], &other, &[]);
    assert!(code == 1 && err.contains("fanout_payments_log"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_without_a_size_is_given_one() {
    let nats = NatsServer::start().await;
    let cli = Cli::new(nats.url());
    let policy = cli.policy(POLICY);
    assert_eq!(cli.run(&["apply"], &policy, &[]).0, 0);
    let js = jetstream::new(nats.client().await);
    for name in [
        "KV_fanout_payments_registry",
        "KV_fanout_payments_attempts",
        "fanout_payments_dead",
        "fanout_payments_scheduled",
    ] {
        let mut config = js.get_stream(name).await.unwrap().cached_info().config.clone();
        config.max_bytes = -1;
        js.update_stream(config).await.unwrap();
    }
    let (code, out, err) = cli.run(&["plan"], &policy, &["--nats", cli.nats()]);
    assert_eq!((code, err), (0, format!("read the store at {}\n", cli.nats())));
    assert!(out.contains("0 to make, 4 to change, 0 to remove"), "{out}");
    assert!(out.contains("bytes any number -> 64.0 MiB"), "{out}");
    assert_eq!(cli.run(&["apply"], &policy, &[]).0, 0);
    assert!(streams(&js).await.iter().all(|s| s.config.max_bytes > 0));
    assert!(cli.run(&["apply"], &policy, &[]).1.contains("nothing to do"));
}

/// A hub with a domain, and a leaf without JetStream.
struct HubAndLeaf {
    hub: NatsServer,
    leaf: NatsServer,
    folder: tempfile::TempDir,
}

impl HubAndLeaf {
    async fn start() -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let hub = with(format!(
            "server_name: hub\njetstream {{ domain: hub }}\nleafnodes {{ listen: \"127.0.0.1:{port}\" }}\n"
        ))
        .await;
        let leaf = NatsServer::start_with(NatsSettings {
            config: Some(format!(
                "server_name: leaf\nleafnodes {{ remotes: [ {{ url: \"nats-leaf://127.0.0.1:{port}\" }} ] }}\n"
            )),
            without_jetstream: true,
            ..NatsSettings::default()
        })
        .await;
        // The leaf's connection to its hub is there when a request reaches it.
        let at_leaf = ContextBuilder::new().domain("hub").build(leaf.client().await);
        eventually("the leaf reaches the hub", async || at_leaf.query_account().await.ok()).await;
        Self {
            hub,
            leaf,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn policy(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn fanout(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_at_a_leaf_is_in_the_hub_s_domain() {
    let world = HubAndLeaf::start().await;
    let leaf = world.leaf.url();
    let plain = format!("{SERVED_POLICY}{ANYONE_HERE}");
    let policy = world.policy(&plain).display().to_string();
    for verb in ["apply", "status", "plan"] {
        let (code, _, err) = fanout(&[verb, &policy, "--nats", &leaf]);
        assert_eq!(code, 3, "{verb}: {err}");
        assert!(
            err.contains("jetstream.domain") && err.contains("[jetstream-missing]"),
            "{verb}: {err}"
        );
    }
    let (code, _, err) = fanout(&["apply", &policy, "--nats", &leaf, "--jetstream-domain", "nowhere"]);
    assert!(
        code == 3 && err.contains("`nowhere`") && err.contains("[jetstream-missing]"),
        "{code}: {err}"
    );
    let (code, _, err) = fanout(&["apply", &policy, "--nats", &leaf, "--jetstream-domain", "a.b"]);
    assert!(
        code == 1 && err.contains("--jetstream-domain") && err.contains("[invalid-setting]"),
        "{code}: {err}"
    );
    for flag in [["--jetstream-domain", "hub"], ["--jetstream-api-prefix", "$JS.hub.API"]] {
        let (code, out, err) = fanout(&[&["apply", &policy, "--nats", &leaf][..], &flag].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{flag:?}: {out}");
    }
    let at_hub = jetstream::new(world.hub.client().await);
    assert_eq!(streams(&at_hub).await.len(), 8);

    // The whole life of an event, with the policy's own setting; quotas read the store in a way of their own.
    let policy = world.policy(&format!(
        "{plain}\n[jetstream]\ndomain = \"hub\"\n[quota]\nmax-bytes = \"1MiB\"\n"
    ));
    let served = Served::start(&leaf, &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = fanout_client::connect(&served.listen[0]).await.unwrap();
    let subscription = || fanout_client::Subscription::durable("invoicing");
    let mut deliveries = bus.subscribe(subscription()).await.unwrap();
    for id in ["1", "2", "2"] {
        let event = fanout_client::Event::new("acme", "invoice.paid", id).data("{}");
        bus.publish(&event).await.unwrap();
    }
    let first = deliveries.recv().await.unwrap().unwrap();
    assert_eq!(first.event().id, "1");
    first.ack().await.unwrap();
    // Refused once, it comes again, and then is a dead letter.
    let second = deliveries.recv().await.unwrap().unwrap();
    second.retry_now("no").await.unwrap();
    let again = deliveries.recv().await.unwrap().unwrap();
    assert_eq!((again.event().id.as_str(), again.attempt()), ("2", 2));
    again.dead_letter("never").await.unwrap();
    let policy = policy.display().to_string();
    eventually("the dead letter is there", async || {
        let (_, out, _) = fanout(&["--json", "dead-letters", "list", &policy, "--nats", &leaf]);
        let listed: serde_json::Value = serde_json::from_str(&out).ok()?;
        (listed["dead_letters"].as_array()?.len() == 1).then_some(())
    })
    .await;
    let (code, out, err) = fanout(&["tail", &policy, "--nats", &leaf, "--from", "first", "--count", "2"]);
    assert_eq!((code, out.lines().count()), (0, 2), "{err}");
}

#[test]
fn a_domain_and_a_prefix_are_one_too_many() {
    let cli = Cli::new(String::new());
    let both = "\n[jetstream]\ndomain = \"hub\"\napi-prefix = \"$JS.hub.API\"\n";
    let (code, _, err) = cli.run(&["plan"], &cli.policy(&format!("{POLICY}{both}")), &[]);
    assert!(code == 1 && err.contains("[conflicting-settings]"), "{err}");
    let (code, _, err) = cli.run(
        &["plan"],
        &cli.policy(&format!("{POLICY}\n[jetstream]\ndomain = \"a b\"\n")),
        &[],
    );
    assert!(
        code == 1 && err.contains("[invalid-setting]") && err.contains("jetstream.domain"),
        "{err}"
    );
}
