//! The stock host with what is measured on it, the bus that it reaches over HTTP, and one server of NATS for both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream;
use async_nats::{Client, ConnectOptions};
use fanout_tests::{BusStatus, Served, State, composed, free_ports};
use fanout_transport::testing::NatsServer;
use fanout_v2::manifest::{self, WorkloadDeployment};
use fanout_v2::{Cluster, Registry, Running, WashHost};
use tokio::task::JoinSet;
use tokio::time::Instant;
use webhook_signature::Scheme;
use webhook_source::samples;

use crate::host::{Orders, add_up};
use crate::http::{HASHES, TOKENS};
use crate::tally::Tally;

/// What the manifest names, and is had elsewhere here.
const IMAGES: &str = "ghcr.io/example-org";
const BUS: &str = "bus.example.com:7780";
const COMPONENTS: [&str; 6] = [
    "bench-component",
    "fanout-connector",
    "fanout-runner-batch-handler",
    "fanout-runner-handler",
    "fanout-v1-interfaces",
    "webhook-ingress",
];
/// What is composed of them: the name, the component that is served, and those that serve it.
const COMPOSED: [(&str, &str, &[&str]); 3] = [
    (
        "composed-ingress",
        "webhook-ingress",
        &["fanout-connector", "fanout-v1-interfaces"],
    ),
    ("composed-runner-handler", "fanout-runner-handler", &["bench-component"]),
    (
        "composed-runner-batch-handler",
        "fanout-runner-batch-handler",
        &["bench-component"],
    ),
];
const LOG: &str = "fanout_payments_log";
/// Where the component tells how many it handled: its own constant.
const HANDLED: &str = "bench.handled";
const READY_LIMIT: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// As the other benches have it; one caller may do everything.
const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[retention]
max-bytes = \"8GiB\"

[delivery]
deadline = \"10s\"
ack-wait = \"30s\"

[publish]
deadline = \"30s\"
";

/// The host and what it is measured with.
pub(super) struct WorldV2 {
    pub(super) nats: NatsServer,
    pub(super) client: Client,
    pub(super) js: jetstream::Context,
    /// What the components were given.
    pub(super) handled: Tally,
    pub(super) orders: Orders,
    deployments: BTreeMap<String, WorkloadDeployment>,
    cluster: Cluster,
    host: WashHost,
    _registry: Registry,
    _served: Served,
    _listening: JoinSet<()>,
    folder: tempfile::TempDir,
}

impl WorldV2 {
    /// Starts everything but the workloads.
    pub(super) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let nats = NatsServer::start().await;
        let client = ConnectOptions::new()
            // Whatever comes while this program is not scheduled.
            .subscription_capacity(1 << 20)
            .request_timeout(Some(Duration::from_secs(60)))
            .connect(nats.url())
            .await?;
        let js = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(10))
            .ack_timeout(Duration::from_secs(60))
            .build(client.clone());
        let ports = free_ports(2);
        let policy = folder.path().join("policy.toml");
        let caller = format!(
            "\n[callers.bench]\ntoken-sha256 = [\"{}\"]\npublish.tenants = \"*\"\nsubscribe.tenants = \"*\"\n",
            HASHES[0]
        );
        std::fs::write(&policy, format!("{POLICY}{caller}"))?;
        let listen = format!("127.0.0.1:{}", ports[0]);
        let served = Served::start(&nats.url(), &policy, &["--listen", &format!("http://{listen}")]);
        let images = folder.path().join("components");
        gather(&named("FANOUT_COMPONENTS")?, &images)?;
        let composed = COMPOSED.iter().map(|(name, ..)| *name);
        let names: Vec<_> = COMPONENTS.into_iter().chain(composed).collect();
        let registry = Registry::serve(&images, &names).await?;
        let host = WashHost::start(&named("FANOUT_WASH")?, &client, &nats.url(), ports[1], folder.path()).await?;
        let text = std::fs::read_to_string(named("FANOUT_HOST_V2_MANIFEST")?)?;
        let deployments = manifest::read(&text)?;
        let handled = Tally::default();
        let mut listening = JoinSet::new();
        listening.spawn(add_up(client.subscribe(HANDLED).await?, handled.clone()));
        Ok(Self {
            orders: Orders::new(client.clone()),
            deployments: deployments.into_iter().map(|d| (d.metadata.name.clone(), d)).collect(),
            cluster: Cluster {
                images: (IMAGES.to_owned(), registry.prefix()),
                hosts: BTreeMap::from([(BUS.to_owned(), listen.clone())]),
                settings: settings(&listen),
            },
            nats,
            client,
            js,
            handled,
            host,
            _registry: registry,
            _served: served,
            _listening: listening,
            folder,
        })
    }

    /// Where the host's components answer.
    pub(super) fn http(&self) -> String {
        format!("127.0.0.1:{}", self.host.http())
    }

    /// Starts a workload, and waits until it runs. Until it is stopped, it is there beside the others.
    pub(super) async fn deploy(&self, name: &str) -> Result<Running> {
        let deployment = self
            .deployments
            .get(name)
            .with_context(|| format!("no manifest of {name}"))?;
        let started = self.cluster.start(&self.client, self.host.id(), name, deployment).await;
        started.with_context(|| format!("the host said:\n{}", self.said()))
    }

    /// Ends a workload, so that it takes nothing of what is measured next.
    pub(super) async fn end(&self, running: &Running) -> Result<()> {
        running.stop(&self.client).await
    }

    /// Waits until a runner has made its subscription.
    pub(super) async fn subscribed(&self, name: &str) -> Result<()> {
        let until = Instant::now() + READY_LIMIT;
        loop {
            let reply = self.client.request("fanout.served.payments.status", "".into()).await?;
            let status: BusStatus = serde_json::from_slice(&reply.payload)?;
            match status.subscription(name) {
                Some(subscription) if subscription.state == State::Active => return Ok(()),
                _ if Instant::now() > until => bail!("nobody subscribes as {name}; the host said:\n{}", self.said()),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Empties the log.
    pub(super) async fn clear(&self) -> Result<()> {
        let log = self.js.get_stream_no_info(LOG).await?;
        log.purge().await.context("empty the log")?;
        Ok(())
    }

    /// The end of the host's log.
    pub(super) fn said(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("host.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// Config maps and secrets.
fn settings(bus: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let sample = samples::of(Scheme::Stripe);
    let mut sources: BTreeMap<_, _> = sample.source_settings().into_iter().collect();
    sources.insert(format!("secret.{}", sample.name()), sample.verifies_with.to_owned());
    let bus = BTreeMap::from([
        ("FANOUT_URL".to_owned(), format!("http://{bus}")),
        ("FANOUT_TOKEN".to_owned(), TOKENS[0].to_owned()),
    ]);
    BTreeMap::from([("fanout-bus".to_owned(), bus), ("webhook-sources".to_owned(), sources)])
}

/// Puts the components into a folder, and what is composed of them.
fn gather(from: &Path, to: &Path) -> Result<()> {
    let file = |name: &str| format!("{}.wasm", name.replace('-', "_"));
    std::fs::create_dir_all(to)?;
    for name in COMPONENTS {
        let path = from.join(file(name));
        std::fs::copy(&path, to.join(file(name))).with_context(|| format!("can't copy {}", path.display()))?;
    }
    for (name, socket, plugs) in COMPOSED {
        let plugs: Vec<_> = plugs.iter().map(|plug| to.join(file(plug))).collect();
        composed::plug(&to.join(file(socket)), &plugs, &to.join(file(name)))?;
    }
    Ok(())
}

/// What `cargo xtask bench` names.
fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.with_context(|| {
        format!("{variable} is not set: run `cargo xtask bench host-v2`, which finds or builds what it names")
    })
}
