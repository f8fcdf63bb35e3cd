//! nats-servers of an experiment: alone, in a cluster, joined by gateways, as leaves.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::stream::External;
use async_nats::jetstream::{self, context::ContextBuilder};
use fanout_transport::testing::{NatsServer, NatsSettings};

/// How long anything of a server may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a server is configured with besides JetStream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// Its JetStream domain.
    pub(crate) domain: Option<String>,
    /// Each acknowledged message is on disk.
    pub(crate) sync_always: bool,
    /// Its cluster: name, own route port, all route ports.
    pub(crate) cluster: Option<(String, u16, Vec<u16>)>,
    /// Its gateway.
    pub(crate) gateway: Option<Gateway>,
    /// The port on which leaves connect.
    pub(crate) leaf_port: Option<u16>,
    /// The port to connect to as a leaf.
    pub(crate) leaf_of: Option<u16>,
}

/// How a server is joined to other regions.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// The region that it belongs to.
    pub(crate) region: String,
    pub(crate) port: u16,
    /// The port that others are told: that of the link to it.
    pub(crate) advertised: u16,
    /// Every other region, and the ports of the links to it.
    pub(crate) others: Vec<(String, Vec<u16>)>,
}

impl Spec {
    pub(crate) fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    fn config(&self) -> Result<String> {
        let mut text = format!("server_name: {}\n", self.name);
        // A server with gateways and leaves must have a system account, and then others by name too.
        text.push_str(
            "accounts {\n  SYS { users: [ { user: sys, password: sys } ] }\n  APP { jetstream: enabled, users: [ { user: app, password: app } ] }\n}\nsystem_account: SYS\nno_auth_user: app\n",
        );
        writeln!(text, "jetstream {{")?;
        if let Some(domain) = &self.domain {
            writeln!(text, "  domain: {domain}")?;
        }
        if self.sync_always {
            writeln!(text, "  sync_interval: always")?;
        }
        writeln!(text, "}}")?;
        if let Some((name, port, all)) = &self.cluster {
            writeln!(
                text,
                "cluster {{\n  name: {name}\n  listen: \"127.0.0.1:{port}\"\n  no_advertise: true\n  routes: [{}]\n}}",
                urls(all)
            )?;
        }
        if let Some(gateway) = &self.gateway {
            writeln!(
                text,
                "gateway {{\n  name: {}\n  listen: \"127.0.0.1:{}\"\n  advertise: \"127.0.0.1:{}\"\n  connect_retries: 1000\n  gateways: [",
                gateway.region, gateway.port, gateway.advertised
            )?;
            for (region, ports) in &gateway.others {
                writeln!(text, "    {{ name: {region}, urls: [{}] }}", urls(ports))?;
            }
            writeln!(text, "  ]\n}}")?;
        }
        if self.leaf_port.is_some() || self.leaf_of.is_some() {
            writeln!(text, "leafnodes {{\n  reconnect: 1s\n  no_advertise: true")?;
            if let Some(port) = self.leaf_port {
                writeln!(text, "  listen: \"127.0.0.1:{port}\"")?;
            }
            if let Some(port) = self.leaf_of {
                writeln!(
                    text,
                    "  remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]"
                )?;
            }
            writeln!(text, "}}")?;
        }
        Ok(text)
    }
}

fn urls(ports: &[u16]) -> String {
    let urls: Vec<_> = ports.iter().map(|p| format!("\"nats://127.0.0.1:{p}\"")).collect();
    urls.join(", ")
}

/// A running server and its store.
pub(crate) struct Node {
    server: NatsServer,
    store: tempfile::TempDir,
}

impl Node {
    /// A server alone, as it comes.
    pub(crate) async fn alone() -> Result<Self> {
        Self::start(&Spec::named("alone")).await
    }

    pub(crate) async fn start(spec: &Spec) -> Result<Self> {
        let store = tempfile::tempdir().context("a folder for the store")?;
        let server = NatsServer::start_with(NatsSettings {
            store: Some(store.path().to_owned()),
            config: Some(spec.config()?),
            args: Vec::new(),
            ..NatsSettings::default()
        })
        .await;
        Ok(Self { server, store })
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Stops it in order, as an operator does, and waits for its end.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let id = rustix::process::Pid::from_raw(i32::try_from(self.server.id())?).context("a process id")?;
        rustix::process::kill_process(id, rustix::process::Signal::TERM).context("stop the server")?;
        let state = format!("/proc/{}/stat", self.server.id());
        // Ended and not yet waited for: a zombie.
        let ended = || std::fs::read_to_string(&state).map_or(true, |s| s.contains(") Z "));
        until("the server has ended", async || ended()).await
    }

    /// Kills it if it runs, starts it again, and says how long it took until JetStream answered.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        self.kill();
        let start = Instant::now();
        self.server.restart().await;
        let js = self.jetstream().await?;
        ready(&js).await?;
        Ok(start.elapsed())
    }

    /// Where programs connect.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) async fn client(&self) -> Result<async_nats::Client> {
        async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(self.server.address())
            .await
            .context("connect")
    }

    /// JetStream of this server's domain, over a connection of its own.
    pub(crate) async fn jetstream(&self) -> Result<jetstream::Context> {
        Ok(context(self.client().await?, None))
    }

    /// JetStream of another domain, over a connection to this server.
    pub(crate) async fn jetstream_of(&self, domain: &str) -> Result<jetstream::Context> {
        Ok(context(self.client().await?, Some(domain)))
    }

    /// Resident memory in MB.
    pub(crate) fn memory_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server.id())).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|l| l.strip_prefix("VmRSS:"))
            .and_then(|v| v.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1_000.0
    }

    /// Bytes in MB, and files, of the store.
    pub(crate) fn disk(&self) -> (f64, u64) {
        let (bytes, files) = count(self.store.path());
        (bytes as f64 / 1e6, files)
    }
}

fn context(client: async_nats::Client, domain: Option<&str>) -> jetstream::Context {
    let builder = ContextBuilder::new()
        .timeout(Duration::from_secs(5))
        .ack_timeout(Duration::from_secs(5))
        .max_ack_inflight(4_096);
    match domain {
        Some(domain) => builder.domain(domain).build(client),
        None => builder.build(client),
    }
}

/// The API of JetStream in another domain, as a source names it.
pub(crate) fn in_domain(domain: &str) -> External {
    External {
        api_prefix: format!("$JS.{domain}.API"),
        delivery_prefix: None,
    }
}

/// Waits until JetStream answers.
pub(crate) async fn ready(js: &jetstream::Context) -> Result<()> {
    until("JetStream answers", async || js.query_account().await.is_ok()).await
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, holds: impl AsyncFnMut() -> bool) -> Result<()> {
    until_within(PATIENCE, what, holds).await
}

/// The same, for as long as is said.
pub(crate) async fn until_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds().await {
        if start.elapsed() > patience {
            bail!("still not true after {patience:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn count(folder: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    // A file may go while it is looked at.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(data) if data.is_dir() => {
                let (bytes, files) = count(&entry.path());
                sum = (sum.0 + bytes, sum.1 + files);
            }
            Ok(data) => sum = (sum.0 + data.len(), sum.1 + 1),
            Err(_) => {}
        }
    }
    sum
}
