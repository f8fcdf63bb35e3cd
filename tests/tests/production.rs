//! `deploy/nats` as it lies there: three servers that are one cluster, with their users, and the server of an edge.
//! What docs/production.md says of each user holds, and the server refuses the rest.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use async_nats::ConnectOptions;
use bytes::Bytes;
use fanout_plan::subscription::MadeBy;
use fanout_tests::types::{DeliveryOptions, Filter, Reach};
use fanout_tests::{
    BusStatus, Component, LinkTo, Provider, SERVED_POLICY, Served, beside_the_tests, event, eventually, free_ports,
    ingress_and_invoicing, subscriber,
};
use fanout_transport::testing::{NatsServer, NatsSettings, TestAuthority};
use fanout_transport::{CallContext, Pem};
use futures::StreamExt as _;
use serde_json::{Value, json};
use wasmcloud_core::HostData;

/// What stands in a server's log when a user tried what it may not do.
const VIOLATION: &str = "Violation - ";

/// A bcrypt hash of `operator-password`, at the lowest cost there is.
const OPERATOR_HASH: &str = "$2b$04$a1A69Zei8FoMpKId8JxJeuQy/Z1ePBZb2yjVsS/ySDCEH85JF5F1G";

/// A caller on the loopback, and copies that are on the disks of most servers when a publisher has its receipt.
const THREE_COPIES: &str = "
durability = \"on-disk\"
retention.replicas = 3

[callers.anyone]
loopback = true
publish.tenants = \"*\"
subscribe.tenants = \"*\"
";

/// What a backup holds: all but the bucket of leases, which is in memory.
const ON_DISK: [&str; 7] = [
    "fanout_payments_log",
    "fanout_payments_dead",
    "fanout_payments_scheduled",
    "fanout_payments_marks",
    "fanout_payments_retries",
    "KV_fanout_payments_registry",
    "KV_fanout_payments_attempts",
];

fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats")).join(name)
}

fn password(user: &str) -> String {
    format!("{user}-password")
}

/// Writes what an authority made.
fn write(folder: &Path, name: &str, pem: &Pem) -> String {
    let Pem::Text(text) = pem else {
        panic!("an authority makes text")
    };
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The three servers of `deploy/nats`.
struct Cluster {
    servers: Vec<NatsServer>,
    monitors: Vec<u16>,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = TestAuthority::new();
        let ca = write(folder.path(), "ca.pem", &authority.certificate());
        let ports = free_ports(9);
        let mut servers = Vec::new();
        for n in 1..=3 {
            let name = format!("fanout-{n}");
            let shown = authority.sign(&name);
            let store = folder.path().join(&name);
            let mut variables = vec![
                ("CA".to_owned(), ca.clone()),
                (
                    "CERTIFICATE".to_owned(),
                    write(folder.path(), &format!("{name}.pem"), &shown.certificate),
                ),
                (
                    "KEY".to_owned(),
                    write(folder.path(), &format!("{name}.key"), &shown.key),
                ),
                ("LISTEN".to_owned(), format!("127.0.0.1:{}", ports[n - 1])),
                ("ROUTES_LISTEN".to_owned(), format!("127.0.0.1:{}", ports[n + 2])),
                ("MONITOR".to_owned(), format!("127.0.0.1:{}", ports[n + 5])),
                ("STORE".to_owned(), store.display().to_string()),
                ("DISK".to_owned(), "8GB".to_owned()),
                ("SYNC".to_owned(), "always".to_owned()),
            ];
            for other in 1..=3 {
                let url = format!("tls://127.0.0.1:{}", ports[other + 2]);
                variables.push((format!("ROUTE_{other}"), url));
            }
            let mut variables: Vec<_> = variables
                .into_iter()
                .map(|(name, value)| (format!("FANOUT_NATS_{name}"), value))
                .collect();
            for user in ["bus", "operator", "monitor", "backup", "host", "system"] {
                // A hash holds `$`, and stands in quotes of the configuration for that.
                let secret = match user {
                    "operator" => format!("'{OPERATOR_HASH}'"),
                    _ => password(user),
                };
                variables.push((format!("FANOUT_{}_PASSWORD", user.to_uppercase()), secret));
            }
            let settings = NatsSettings {
                port: Some(ports[n - 1]),
                config_file: Some(file(&format!("server-{n}.conf"))),
                variables,
                ..NatsSettings::default()
            };
            servers.push(NatsServer::start_with(settings).await);
        }
        let cluster = Self {
            servers,
            monitors: ports[6..].to_vec(),
            folder,
        };
        let js = async_nats::jetstream::new(cluster.client("bus").await);
        eventually("the cluster has a leader", || async {
            js.query_account().await.ok().map(drop)
        })
        .await;
        cluster
    }

    /// Where the servers are, as `--nats` takes it.
    fn urls(&self) -> String {
        let urls: Vec<_> = self
            .servers
            .iter()
            .map(|s| format!("tls://127.0.0.1:{}", s.port()))
            .collect();
        urls.join(",")
    }

    fn ca(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// The arguments by which a program comes as a user.
    fn comes_as(&self, user: &str) -> Vec<String> {
        let secret = self.folder.path().join(format!("{user}.password"));
        std::fs::write(&secret, password(user)).unwrap();
        let secret = secret.display().to_string();
        [
            "--nats-user",
            user,
            "--nats-password-file",
            &secret,
            "--nats-ca",
            &self.ca(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        ConnectOptions::with_user_and_password(user.to_owned(), password(user))
            .add_root_certificates(self.ca().into())
            .require_tls(true)
            .connect(self.urls().split(',').map(str::to_owned).collect::<Vec<_>>())
            .await
            .unwrap()
    }

    /// A policy of three copies, that of `fanout serve`.
    fn policy(&self) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        // Settings of the bus itself stand before the first section.
        let (bus, sections) = SERVED_POLICY.split_once("\n\n").unwrap();
        let (own, callers) = THREE_COPIES.split_once("\n\n").unwrap();
        std::fs::write(&path, format!("{bus}{own}\n\n{sections}\n{callers}")).unwrap();
        path
    }

    /// A verb of `fanout` as the operator: its exit code and output.
    fn operator(&self, verb: &[&str], policy: &str) -> (i32, String) {
        let mut args: Vec<_> = verb.iter().map(|word| (*word).to_owned()).collect();
        // The policy follows the verb.
        let at = if verb[0] == "dead-letters" { 2 } else { 1 };
        args.insert(at, policy.to_owned());
        args.extend(["--nats".to_owned(), self.urls()]);
        args.extend(self.comes_as("operator"));
        fanout(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// What the servers refused to a user, a line each.
    fn refused_to(&self, user: &str) -> Vec<String> {
        self.servers
            .iter()
            .flat_map(|server| refused_by(server, user))
            .collect()
    }

    /// Tries to publish where a user may not, and waits until each was refused.
    async fn is_refused(&self, user: &str, subjects: &[&str]) {
        let nats = self.client(user).await;
        for subject in subjects {
            nats.publish((*subject).to_owned(), "{}".into()).await.unwrap();
        }
        nats.flush().await.unwrap();
        eventually("the servers refused it all", || async {
            let refused = self.refused_to(user);
            subjects
                .iter()
                .all(|subject| refused.iter().any(|line| line.contains(&format!("\"{subject}\""))))
                .then_some(())
        })
        .await;
        assert_eq!(self.refused_to(user).len(), subjects.len(), "nothing else was refused");
    }

    /// Whether a server says that it serves.
    async fn is_healthy(&self, n: usize) -> Option<()> {
        let url = format!("http://127.0.0.1:{}/healthz", self.monitors[n]);
        reqwest::get(url).await.ok()?.error_for_status().ok().map(drop)
    }

    /// The log's configuration and what it holds, as the bus sees them.
    async fn log(&self) -> async_nats::jetstream::stream::Info {
        let js = async_nats::jetstream::new(self.client("bus").await);
        let log = eventually("the log's leader answers", || async {
            js.get_stream("fanout_payments_log").await.ok()
        });
        log.await.cached_info().clone()
    }
}

/// The variables of the page's table, with its examples.
fn examples() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/production.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut examples = Vec::new();
    for row in page.lines().filter(|line| line.starts_with("| `FANOUT_NATS_")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let names: Vec<_> = cells[0].split('`').skip(1).step_by(2).collect();
        let (common, _) = names[0].rsplit_once('_').unwrap();
        let value = cells[1].trim_matches('`');
        examples.push((names[0].to_owned(), value.to_owned()));
        // The example of the first of three hosts stands for each.
        examples.extend(names[1..].iter().map(|end| {
            let value = value.replace("nats-1", &format!("nats{}", end.replace('_', "-")));
            (format!("{common}{end}"), value)
        }));
    }
    examples
}

#[test]
fn the_servers_read_the_examples_of_the_page_as_they_are_meant() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let shown = authority.sign("fanout-1");
    let files = [
        ("CA", write(folder.path(), "ca.pem", &authority.certificate())),
        ("CERTIFICATE", write(folder.path(), "1.pem", &shown.certificate)),
        ("KEY", write(folder.path(), "1.key", &shown.key)),
        ("STORE", folder.path().display().to_string()),
    ];
    let examples = examples();
    assert!(examples.len() > 11, "{examples:?}");
    let users = ["BUS", "OPERATOR", "MONITOR", "BACKUP", "HOST", "SYSTEM"];
    // It only reads its configuration, and fails where a value is not of its setting's kind.
    let read = Command::new(std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into()))
        .args(["-t", "--config"])
        .arg(file("server-1.conf"))
        .envs(examples)
        .envs(files.map(|(name, value)| (format!("FANOUT_NATS_{name}"), value)))
        .envs(users.map(|user| (format!("FANOUT_{user}_PASSWORD"), "secret")))
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
}

fn refused_by(server: &NatsServer, user: &str) -> Vec<String> {
    let needle = format!("user:{user}\"");
    let log = server.log();
    let lines = log.lines().filter(|l| l.contains(VIOLATION) && l.contains(&needle));
    lines.map(str::to_owned).collect()
}

/// Exit code and output of `fanout`, errors included.
fn fanout(args: &[&str]) -> (i32, String) {
    let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    (status.code().unwrap_or(-1), text)
}

fn publish(to: &str, id: &str) {
    let mut args = vec!["publish", "--to", to, "--tenant", "acme", "--type", "invoice.paid"];
    args.extend(["--id", id, "--data", "{}", "--timeout", "30"]);
    let (code, text) = fanout(&args);
    assert_eq!(code, 0, "{text}");
}

/// What the subscription `audit` is given next: the next of what is stored.
fn audited(to: &str, count: usize) -> String {
    let count = count.to_string();
    let (code, text) = fanout(&[
        "subscribe",
        "--to",
        to,
        "--need",
        "backfill",
        "--name",
        "audit",
        "--from",
        "first",
        "--count",
        &count,
    ]);
    assert_eq!(code, 0, "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_are_a_cluster_on_which_each_user_does_its_work_and_no_other() {
    let mut cluster = Cluster::start().await;
    let policy = cluster.policy();
    let mut args = cluster.comes_as("bus");
    args.extend(["--listen", "tcp://127.0.0.1:0"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    publish(&to, "e1");
    publish(&to, "e2");
    assert_eq!(audited(&to, 2).lines().count(), 2);
    let log = cluster.log().await;
    assert_eq!((log.config.num_replicas, log.state.messages), (3, 2));

    // The operator: what the command line needs.
    let file = policy.display().to_string();
    for verb in [
        &["plan"][..],
        &["status"],
        &["lost", "--seen"],
        &["tail", "--count", "2", "--from", "first"],
        &["pause", "audit"],
        &["resume", "audit"],
        &["rewind", "audit", "--to", "first"],
        &["dead-letters", "list"],
    ] {
        let (code, text) = cluster.operator(verb, &file);
        assert_eq!(code, 0, "{verb:?}: {text}");
    }
    // The bus notes how far its subscriptions have come, some moments later.
    eventually("the store is as the policy says", || async {
        let (_, text) = cluster.operator(&["plan"], &file);
        text.contains("nothing to do").then_some(())
    })
    .await;
    assert_eq!(cluster.refused_to("bus"), [""; 0]);
    assert_eq!(cluster.refused_to("operator"), [""; 0]);
    let not_the_operators = [
        "payments.acme.webhook.invoice.paid",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_dead",
        "$JS.API.STREAM.UPDATE.fanout_payments_log",
        "$JS.API.STREAM.CREATE.another",
        "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish",
        "$SYS.REQ.SERVER.PING.JSZ",
    ];
    cluster.is_refused("operator", &not_the_operators).await;

    // Who watches: the status and the metrics.
    let monitor = cluster.client("monitor").await;
    let answer = monitor.request("fanout.served.payments.status", "".into()).await;
    let status: BusStatus = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert!(status.subscription("audit").is_some(), "{status:?}");
    assert!(
        status.notices.is_empty(),
        "the servers keep `on-disk` and say so: {status:?}"
    );
    // Of what was just rewound nobody knows the count at once.
    eventually("the metrics count what waits", || async {
        let metrics = monitor.request("fanout.served.payments.metrics", "".into()).await;
        let metrics = String::from_utf8(metrics.ok()?.payload.to_vec()).ok()?;
        metrics.contains("fanout_pending{").then_some(())
    })
    .await;
    let not_the_monitors = [
        "payments.acme.webhook.invoice.paid",
        "fanout.dead.payments.audit.acme.0.1",
        "$KV.fanout_payments_registry.mine",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.MSG.GET.fanout_payments_log",
        "$JS.API.CONSUMER.CREATE.fanout_payments_log",
        "_INBOX.somebody",
        "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish",
    ];
    cluster.is_refused("monitor", &not_the_monitors).await;
    let not_the_buses = [
        "$JS.API.STREAM.CREATE.another",
        "$JS.API.STREAM.DELETE.KV_LATTICEDATA_default",
        "$SYS.REQ.SERVER.PING.CONNZ",
        "wasmbus.ctl.v1.default.host.get",
    ];
    cluster.is_refused("bus", &not_the_buses).await;
    assert_eq!(cluster.log().await.state.messages, 2);

    // One server after another, as for an upgrade: the bus goes on meanwhile.
    for n in 0..3 {
        cluster.servers[n].kill();
        publish(&to, &format!("e{}", n + 3));
        cluster.servers[n].restart().await;
        eventually("it is healthy", || cluster.is_healthy(n)).await;
        eventually("it has what the others have", || async {
            let replicas = cluster.log().await.cluster?.replicas;
            (replicas.len() == 2 && replicas.iter().all(|r| r.current && !r.offline)).then_some(())
        })
        .await;
    }
    // It was rewound, and is given all of them.
    let given = audited(&to, 5);
    for n in 1..=5 {
        assert!(given.contains(&format!(" e{n} ")), "{given}");
    }
}

/// A stream as a backup holds it.
struct Copied {
    name: String,
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
}

/// The answer of JetStream, which is no error.
async fn ask(nats: &async_nats::Client, subject: &str, request: Value) -> Value {
    let answer = nats.request(subject.to_owned(), request.to_string().into()).await;
    let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}

/// As `nats stream backup --consumers` does it.
async fn back_up(nats: &async_nats::Client, name: &str) -> Copied {
    let inbox = nats.new_inbox();
    let mut coming = nats.subscribe(inbox.clone()).await.unwrap();
    let subject = format!("$JS.API.STREAM.SNAPSHOT.{name}");
    let request = json!({ "deliver_subject": inbox, "no_consumers": false });
    let said = ask(nats, &subject, request).await;
    let mut chunks = Vec::new();
    let all = async {
        while let Some(message) = coming.next().await {
            if message.payload.is_empty() {
                break;
            }
            if let Some(reply) = message.reply {
                nats.publish(reply, Bytes::new()).await.unwrap();
            }
            chunks.push(message.payload);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    Copied {
        name: name.to_owned(),
        config: said["config"].clone(),
        state: said["state"].clone(),
        chunks,
    }
}

/// As `nats stream restore` does it.
async fn restore(nats: &async_nats::Client, copied: &Copied) {
    let subject = format!("$JS.API.STREAM.RESTORE.{}", copied.name);
    let request = json!({ "config": copied.config, "state": copied.state });
    let said = ask(nats, &subject, request).await;
    let to = said["deliver_subject"].as_str().unwrap().to_owned();
    for chunk in &copied.chunks {
        nats.request(to.clone(), chunk.clone()).await.unwrap();
    }
    let answer = nats.request(to, Bytes::new()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{}: {answer}", copied.name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_every_stream_is_the_bus_as_it_was() {
    let cluster = Cluster::start().await;
    let policy = cluster.policy();
    let mut args = cluster.comes_as("bus");
    args.extend(["--listen", "tcp://127.0.0.1:0"].map(str::to_owned));
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let mut bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    for id in ["e1", "e2", "e3"] {
        publish(&to, id);
    }
    assert_eq!(audited(&to, 2).lines().count(), 2);
    bus.signal("TERM");
    assert!(bus.ended());

    let backup = cluster.client("backup").await;
    let mut copies = Vec::new();
    for name in ON_DISK {
        copies.push(back_up(&backup, name).await);
    }
    let js = async_nats::jetstream::new(cluster.client("bus").await);
    for name in ON_DISK.into_iter().chain(["KV_fanout_payments_leases"]) {
        js.delete_stream(name).await.unwrap();
    }
    for copied in &copies {
        restore(&backup, copied).await;
    }
    assert_eq!(cluster.refused_to("backup"), [""; 0]);
    let not_the_backups = [
        "payments.acme.webhook.invoice.paid",
        "$KV.fanout_payments_registry.mine",
        "$JS.API.STREAM.DELETE.fanout_payments_log",
        "$JS.API.STREAM.PURGE.fanout_payments_log",
        "$JS.API.STREAM.RESTORE.another",
    ];
    cluster.is_refused("backup", &not_the_backups).await;

    let bus = Served::start(&cluster.urls(), &policy, &args);
    let to = bus.listen[0].clone();
    publish(&to, "e4");
    let given = audited(&to, 2);
    let ids: Vec<_> = given.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(ids, ["e3", "e4"], "it goes on where it was: {given}");
    let log = cluster.log().await;
    assert_eq!((log.config.num_replicas, log.state.messages), (3, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_and_its_host_need_no_more_than_the_file_of_an_edge_gives() {
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let ca = write(folder.path(), "ca.pem", &authority.certificate());
    let shown = |name: &str| {
        let signed = authority.sign(name);
        let certificate = write(folder.path(), &format!("{name}.pem"), &signed.certificate);
        (certificate, write(folder.path(), &format!("{name}.key"), &signed.key))
    };
    // The bus, elsewhere. Its store is no matter of the edge's.
    let hub = NatsServer::start().await;
    let policy = folder.path().join("policy.toml");
    let caller = "\n[callers.edge-frankfurt]\ncertificate-dns = \"edge-frankfurt.example.org\"\n\
        publish.tenants = \"*\"\nsubscribe.tenants = \"*\"\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{caller}")).unwrap();
    let (certificate, key) = shown("bus.example.org");
    let mut args = vec!["--listen", "tls://127.0.0.1:0", "--tls-client-ca", &ca];
    args.extend(["--tls-certificate", &certificate, "--tls-key", &key]);
    let bus = Served::start(&hub.url(), &policy, &args);

    let port = free_ports(1)[0];
    let mut variables = vec![
        ("FANOUT_EDGE_LISTEN".to_owned(), format!("127.0.0.1:{port}")),
        (
            "FANOUT_EDGE_STORE".to_owned(),
            folder.path().join("store").display().to_string(),
        ),
    ];
    for user in ["edge", "monitor", "host"] {
        variables.push((format!("FANOUT_{}_PASSWORD", user.to_uppercase()), password(user)));
    }
    let nats = NatsServer::start_with(NatsSettings {
        port: Some(port),
        config_file: Some(file("edge.conf")),
        variables,
        ..NatsSettings::default()
    })
    .await;
    let client = |user: &'static str| {
        let options = ConnectOptions::with_user_and_password(user.to_owned(), password(user));
        let address = nats.address();
        async move { options.connect(address).await.unwrap() }
    };
    let (certificate, key) = shown("edge-frankfurt.example.org");
    let settings = [
        ("role", "edge"),
        ("upstream", &bus.listen[0]),
        ("tls.server-ca", &ca),
        ("tls.certificate", &certificate),
        ("tls.key", &key),
    ];
    let settings: HashMap<_, _> = settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let mut links = ingress_and_invoicing();
    links.push(LinkTo::caller("reports", &["subscriber"], "*"));
    let data = HostData {
        host_id: "test-host".into(),
        lattice_rpc_prefix: "default".into(),
        lattice_rpc_url: format!("nats://edge:{}@{}", password("edge"), nats.address()),
        provider_key: "bus".into(),
        config: settings,
        link_definitions: links.iter().map(LinkTo::definition).collect(),
        ..HostData::default()
    };
    let _edge = Provider::start(&data, &folder.path().join("provider.log"));
    let host = client("host").await;
    let ingress = Component::new(host.clone(), "ingress").await;
    let invoicing = Component::new(host.clone(), "invoicing").await;
    let reports = Component::new(host.clone(), "reports").await;
    invoicing.up().await;
    reports.up().await;

    // A subscription by a call, which the edge remembers in its bucket.
    let options = DeliveryOptions {
        filter: Filter {
            tenants: Vec::new(),
            event_types: Vec::new(),
        },
        reach: Reach::Handler,
        batch_size: None,
        concurrency: None,
    };
    eventually("the bus makes it", || async {
        let within = CallContext::within(Duration::from_secs(10));
        let made = subscriber::subscribe_durable(reports.bus(), within, "report", &options).await;
        made.ok()?.ok()
    })
    .await;
    let monitor = client("monitor").await;
    eventually("both subscriptions are there", || async {
        let answer = monitor.request("fanout.default.bus.status", "".into()).await.ok()?;
        let status: BusStatus = serde_json::from_slice(&answer.payload).ok()?;
        let made_by_call = status.subscription("report")?.made_by == Some(MadeBy::Call);
        (made_by_call && status.subscription("invoicing")?.problem.is_none()).then_some(())
    })
    .await;
    eventually("the bus stores it", || async {
        ingress.publish(event("acme", "invoice.paid", "e1")).await.ok()
    })
    .await;
    eventually("both are given it", || async {
        (invoicing.handled() == ["e1"] && reports.handled() == ["e1"]).then_some(())
    })
    .await;
    for user in ["edge", "monitor", "host"] {
        assert_eq!(refused_by(&nats, user), [""; 0], "{user}");
    }

    let attacks = [
        ("edge", "wasmbus.ctl.v1.default.host.get"),
        ("edge", "$KV.LATTICEDATA_default.mine"),
        ("edge", "$JS.API.STREAM.DELETE.KV_fanout_edge_default_bus"),
        ("edge", "$JS.API.STREAM.CREATE.fanout_payments_log"),
        ("host", "$KV.fanout_edge_default_bus.report"),
        ("host", "$JS.API.STREAM.DELETE.KV_fanout_edge_default_bus"),
        ("monitor", "default.bus.wrpc.0.0.1.fanout:bus/publisher@0.2.0.publish"),
        ("monitor", "$KV.fanout_edge_default_bus.report"),
    ];
    for (user, subject) in attacks {
        let nats = client(user).await;
        nats.publish(subject, "{}".into()).await.unwrap();
        nats.flush().await.unwrap();
    }
    for (user, subject) in attacks {
        eventually("the server refused it", || async {
            let refused = refused_by(&nats, user);
            refused
                .iter()
                .any(|line| line.contains(&format!("\"{subject}\"")))
                .then_some(())
        })
        .await;
    }
}

/// The names of metrics in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let names = words.filter(|word| word.starts_with("fanout_"));
    names.map(str::to_owned).collect()
}

#[test]
fn the_alerts_and_the_page_name_metrics_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
    let source = read("provider/src/metrics.rs");
    let there: BTreeSet<_> = source.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let alerts = metrics_in(&read("deploy/prometheus/alerts.yaml"));
    assert!(alerts.len() >= 9, "{alerts:?}");
    let page = read("docs/production.md");
    let section = page.split_once("## Metrics and alerts").unwrap().1;
    let told = metrics_in(section.split("\n## ").next().unwrap());
    assert!(
        alerts.is_subset(&told),
        "docs/production.md does not say what {alerts:?} are for"
    );
    let unknown: Vec<_> = told.difference(&there).collect();
    assert!(
        unknown.is_empty(),
        "docs/production.md names {unknown:?}, which there are not"
    );
    let metrics = there.iter().filter(|name| name.starts_with("fanout_"));
    let untold: Vec<_> = metrics.filter(|name| !told.contains(*name)).collect();
    assert!(untold.is_empty(), "docs/production.md does not name {untold:?}");
}
