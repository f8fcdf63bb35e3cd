//! What runs: nats-server, the bus, a registry, the stock host, and the workloads on it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fanout_plan::status::State;
use fanout_transport::testing::{NatsServer, free_ports};
use fanout_v2::{Application, COMPONENTS, INGRESS, Registry, Running, WashHost};
use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::addresses;
use crate::bus;
use crate::cli::Demo;
use crate::endpoints::{Endpoint, Endpoints};
use crate::http::{client, send};
use crate::signature::Secret;
use crate::wait::{Check, until};

const START_LIMIT: Duration = Duration::from_secs(20);
/// Of everything, on a machine that does other things.
const READY_LIMIT: Duration = Duration::from_secs(240);
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// The policy of `wadm/local.yaml`; the callers come to it.
const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[retention]
max-age = \"7d\"
max-bytes = \"1GiB\"

[dedupe]
window = \"1h\"

[delivery]
deadline = \"2s\"
ack-wait = \"4s\"

[retry]
schedule = [\"100ms\", \"300ms\", \"1s\"]
max-attempts = 3
";

/// Everything that runs; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stack {
    host: WashHost,
    bus: Child,
    running: BTreeMap<String, Running>,
    /// A host takes an id once.
    started: u32,
    application: Application,
    registry: Registry,
    nats: async_nats::Client,
    nats_server: NatsServer,
    listen: String,
    http: u16,
    wash: PathBuf,
    fanout: PathBuf,
    folder: tempfile::TempDir,
}

impl Stack {
    /// Starts everything but the workloads.
    pub(crate) async fn start(demo: &Demo, secret: &Secret) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("fanout-v2-")
            .tempdir()
            .context("no temporary folder")?;
        let mut application = Application::read(&demo.manifest, &demo.fanout, secret.expose())?;
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, format!("{POLICY}{}", application.callers())).context("can't write the policy")?;
        let [bus_port, http] = *free_ports(2) else {
            bail!("there are no two free ports")
        };
        let listen = format!("http://127.0.0.1:{bus_port}");
        let nats_server = NatsServer::start().await;
        let nats = nats_server.client().await;
        let names: Vec<_> = COMPONENTS.into_iter().chain([INGRESS]).collect();
        let registry = Registry::serve(&demo.components, &names).await?;
        application.place(&listen, &registry)?;
        let bus = start_bus(&demo.fanout, &folder, &nats_server.url(), &listen).await?;
        let host = WashHost::start(&demo.wash, &nats, &nats_server.url(), http, folder.path()).await?;
        Ok(Self {
            host,
            bus,
            running: BTreeMap::new(),
            started: 0,
            application,
            registry,
            nats,
            nats_server,
            listen,
            http,
            wash: demo.wash.clone(),
            fanout: demo.fanout.clone(),
            folder,
        })
    }

    /// Starts the workloads that are not running, and waits until every part answers.
    pub(crate) async fn deploy(&mut self) -> Result<()> {
        let missing = self
            .application
            .names()
            .filter(|name| !self.running.contains_key(*name));
        let missing: Vec<_> = missing.map(str::to_owned).collect();
        self.started += 1;
        let started = missing.into_iter().map(async |name| {
            let deployment = self.application.deployment(&name)?;
            let id = format!("{name}-{}", self.started);
            let running = self
                .application
                .cluster()
                .start(&self.nats, self.host.id(), &id, deployment)
                .await?;
            anyhow::Ok((name, running))
        });
        let started = try_join_all(started).await?;
        self.running.extend(started);
        self.ready().await
    }

    /// Stops one of them.
    pub(crate) async fn undeploy(&mut self, name: &str) -> Result<()> {
        let running = self
            .running
            .remove(name)
            .with_context(|| format!("{name} does not run"))?;
        running.stop(&self.nats).await
    }

    /// Whether the host says that a workload runs.
    pub(crate) async fn is_deployed(&self, name: &str) -> Result<bool> {
        match self.running.get(name) {
            Some(running) => running.runs(&self.nats).await,
            None => Ok(false),
        }
    }

    /// Waits until every component answers, and the bus has the subscriptions of the runners.
    async fn ready(&self) -> Result<()> {
        let http = client()?;
        let endpoints = self.endpoints()?;
        let answers = async |endpoint: &Endpoint| match send(http.get(endpoint.probe())).await {
            Ok(answer) if !answer.status.is_server_error() => None,
            Ok(answer) => Some(format!("{} ({}): {answer}", endpoint.name(), endpoint.component())),
            Err(error) => Some(format!("{} ({}): {error:#}", endpoint.name(), endpoint.component())),
        };
        until("every part to answer", READY_LIMIT, CHECK_EVERY, async || {
            for endpoint in endpoints.all() {
                if let Some(why) = answers(endpoint).await {
                    return Ok(Check::NotYet(why));
                }
            }
            let status = match bus::status(&self.nats, self.bus_status()).await {
                Ok(status) => status,
                Err(error) => return Ok(Check::NotYet(format!("{error:#}"))),
            };
            for name in ["entitlements", "invoicing"] {
                match status.subscription(name) {
                    Some(subscription) if subscription.state != State::Waiting => {}
                    _ => return Ok(Check::NotYet(format!("nobody subscribes as {name}"))),
                }
            }
            Ok(Check::Found(()))
        })
        .await
    }

    /// The bus's process.
    pub(crate) fn bus(&self) -> Option<u32> {
        self.bus.id()
    }

    /// Kills the bus with SIGKILL and starts another.
    pub(crate) async fn kill_bus(&mut self) -> Result<()> {
        self.bus.kill().await.context("the bus can't be killed")?;
        self.bus = start_bus(&self.fanout, &self.folder, &self.nats_server.url(), &self.listen).await?;
        self.ready().await
    }

    /// Kills the host with SIGKILL, and everything on it. Starts another, and the workloads, as an operator would.
    pub(crate) async fn kill_host(&mut self) -> Result<()> {
        self.host.kill().await?;
        self.running.clear();
        let url = self.nats_server.url();
        self.host = WashHost::start(&self.wash, &self.nats, &url, self.http, self.folder.path()).await?;
        self.deploy().await
    }

    /// The host's process.
    pub(crate) fn host(&self) -> Option<u32> {
        self.host.process()
    }

    /// The server's process.
    pub(crate) fn nats_process(&self) -> u32 {
        self.nats_server.id()
    }

    /// A client of the bus's server.
    pub(crate) fn bus_client(&self) -> &async_nats::Client {
        &self.nats
    }

    /// Where the bus is asked how it is doing.
    #[allow(clippy::unused_self, reason = "as `dev-host` has it")]
    pub(crate) fn bus_status(&self) -> String {
        bus::STATUS.to_owned()
    }

    /// Where the components answer.
    pub(crate) fn endpoints(&self) -> Result<Endpoints> {
        addresses::of(&self.application, self.http)
    }

    /// How many images there are.
    pub(crate) fn images(&self) -> usize {
        self.registry.digests().len()
    }

    /// Where the bus listens.
    pub(crate) fn bus_url(&self) -> &str {
        &self.listen
    }

    /// Copies what the parts said to a folder that outlives the run.
    pub(crate) fn keep_logs(&self, to: &std::path::Path) -> Result<PathBuf> {
        let name = self.folder.path().file_name().context("the run's folder has no name")?;
        let kept = to.join(name);
        std::fs::create_dir_all(&kept).with_context(|| format!("can't make {}", kept.display()))?;
        for log in ["host.log", "bus.log"] {
            std::fs::copy(self.folder.path().join(log), kept.join(log)).with_context(|| format!("can't keep {log}"))?;
        }
        Ok(kept)
    }
}

async fn start_bus(fanout: &PathBuf, folder: &tempfile::TempDir, nats: &str, listen: &str) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.path().join("bus.log"));
    let mut bus = Command::new(fanout)
        .args(["--json", "serve", "--nats", nats, "--listen", listen, "--policy"])
        .arg(folder.path().join("policy.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.context("can't make the bus's log")?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("can't run {}", fanout.display()))?;
    let output = bus.stdout.take().context("the bus has no output")?;
    let mut line = String::new();
    let said = timeout(START_LIMIT, BufReader::new(output).read_line(&mut line)).await;
    said.context("the bus does not get ready")?
        .context("the bus can't be heard")?;
    if !line.contains("serving") {
        bail!("the bus did not start: {line}: its log says why");
    }
    Ok(bus)
}
