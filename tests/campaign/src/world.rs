//! What a round runs on: servers, two instances of the bus behind proxies, an edge with a component, and who may do what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use fanout_campaign_checker::history::{Durability, Ordering, Policy, What};
use fanout_client::{Bus, Options, Pem, connect_with};
use fanout_tests::nemesis::Proxy;
use fanout_tests::{Bench, LinkTo};
use fanout_transport::testing::{NatsSettings, TestAuthority};

use crate::cluster::{Cluster, Disks};
use crate::instance::{self, Instance};
use crate::recorder::Recorder;
use crate::schedule::{Kind, Means, Schedule};

/// The stream of the bus's log.
pub(crate) const LOG: &str = "fanout_payments_log";
/// A tenant with a quota, and what it may be.
pub(crate) const LIMITED: &str = "initech";
pub(crate) const RATES: [u64; 2] = [6, 12];
/// Refusals that make a dead letter.
const MAX_ATTEMPTS: u32 = 3;
/// Longer than any round.
const DEDUPE: Duration = Duration::from_secs(2 * 3_600);
/// Within which time after the last fault healed the bus must work again.
pub(crate) const RECOVERY: Duration = Duration::from_secs(30);
/// How long it is tried to start an instance.
pub(crate) const START_WITHIN: Duration = Duration::from_secs(60);

/// A round's world.
pub(crate) struct World {
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) cluster: Cluster,
    pub(crate) buses: Vec<Instance>,
    pub(crate) edge: Bench,
    /// Between the edge and its bus.
    pub(crate) upstream: Proxy,
    /// Goes round every proxy.
    pub(crate) admin: async_nats::Client,
    pub(crate) policy: PathBuf,
    pub(crate) authority: TestAuthority,
    ordering: Ordering,
    durability: Durability,
    /// Raised with each change of the policy.
    revision: u64,
    pub(crate) folder: PathBuf,
}

impl World {
    /// Starts everything, and waits until it serves.
    pub(crate) async fn start(
        schedule: &Schedule,
        folder: &Path,
        recorder: Arc<Recorder>,
        means: Means,
    ) -> Result<Self> {
        let (ordering, durability) = (schedule.ordering, schedule.durability);
        let disks = match (means.disks && schedule.needs_disks(), schedule.needs_devices()) {
            (false, _) => Disks::None,
            (true, false) => Disks::Plain,
            (true, true) => Disks::OnDevices,
        };
        let cluster = Cluster::start(folder, schedule.replicas, durability, disks).await?;
        let admin = cluster.client().await?;
        let js = async_nats::jetstream::new(admin.clone());
        until("the cluster has a leader", START_WITHIN, async || {
            js.query_account().await.is_ok()
        })
        .await?;
        let authority = TestAuthority::new();
        let mut world = Self {
            upstream: Proxy::before(1).await,
            edge: Bench::without_provider_on(NatsSettings::default(), &[], &[]).await,
            buses: Vec::new(),
            admin,
            policy: folder.join("policy.toml"),
            authority,
            ordering,
            durability,
            revision: 0,
            folder: folder.to_owned(),
            cluster,
            recorder,
        };
        world.put_certificate()?;
        world.put_policy()?;
        for name in ["a", "b"] {
            let instance = world.new_instance(name, schedule).await?;
            world.buses.push(instance);
        }
        let port = instance::port_of(&world.buses[0].listens()?[1])?;
        world.upstream = Proxy::before(port).await;
        world.start_edge().await;
        Ok(world)
    }

    /// Writes the policy of the next revision, and says so.
    pub(crate) fn put_policy(&mut self) -> Result<()> {
        let rate = RATES[usize::try_from(self.revision)? % RATES.len()];
        self.revision += 1;
        let replicas = self.cluster.servers.len();
        let (ordering, durability) = (
            match self.ordering {
                Ordering::None => "none",
                Ordering::Tenant => "tenant",
                Ordering::Key => "key",
            },
            match self.durability {
                Durability::Acknowledged => "acknowledged",
                Durability::OnDisk => "on-disk",
            },
        );
        let text = format!(
            r#"bus = "payments"
subject = "payments.{{tenant}}.webhook.{{event-type}}"
ordering = "{ordering}"
durability = "{durability}"
revision = {revision}
dedupe.window = "{dedupe}s"
publish.deadline = "3s"
delivery.deadline = "1s"
delivery.ack-wait = "3s"

[retention]
replicas = {replicas}
max-bytes = "256MiB"

[retry]
schedule = "50ms,200ms"
max-attempts = {MAX_ATTEMPTS}

[quota.tenant.{LIMITED}]
events-per-second = {rate}

[callers.ingress]
certificate-cn = "ingress"
publish.tenants = "*"

[callers.billing]
certificate-cn = "billing"
subscribe.tenants = ["acme", "globex"]

[callers.audit]
certificate-cn = "audit"
subscribe.tenants = "*"

[callers.edge]
loopback = true
publish.tenants = "*"
subscribe.tenants = "*"
"#,
            revision = self.revision,
            dedupe = DEDUPE.as_secs(),
        );
        std::fs::write(&self.policy, text).with_context(|| format!("can't write {}", self.policy.display()))?;
        self.recorder.tell(
            "operator",
            What::Policy(Policy {
                durability: self.durability,
                ordering: self.ordering,
                max_attempts: MAX_ATTEMPTS,
                dedupe: u64::try_from(DEDUPE.as_micros())?,
                quotas: [(LIMITED.to_owned(), rate)].into(),
                recovery: u64::try_from(RECOVERY.as_micros())?,
            }),
        );
        Ok(())
    }

    /// Puts a new certificate where the instances read it.
    pub(crate) fn put_certificate(&self) -> Result<()> {
        let tls = self.authority.server();
        let files = [
            ("bus.pem", tls.certificate),
            ("bus.key", tls.key),
            ("ca.pem", self.authority.certificate()),
        ];
        for (name, pem) in files {
            let Pem::Text(text) = pem else {
                return Err(anyhow!("a certificate is not in memory"));
            };
            std::fs::write(self.folder.join(name), text)?;
        }
        Ok(())
    }

    async fn new_instance(&self, name: &str, schedule: &Schedule) -> Result<Instance> {
        let mut store = Vec::new();
        for node in &self.cluster.servers {
            store.push(Proxy::before(node.nats.port()).await);
        }
        let path = |name: &str| self.folder.join(name).display().to_string();
        let args = ["--tls-certificate", "--tls-key", "--tls-client-ca"].into_iter();
        let args = args.zip(["bus.pem", "bus.key", "ca.pem"]);
        let args = args.flat_map(|(name, file)| [name.to_owned(), path(file)]).collect();
        let clock = schedule
            .has(Kind::StepClock)
            .then(|| self.folder.join(format!("clock-{name}")));
        let older = schedule.has(Kind::UpgradeBus).then(instance::older_bus).flatten();
        let instance = Instance::start(name, &self.policy, store, args, clock, older).await?;
        self.recorder.tell(
            name,
            What::InstanceBack {
                instance: name.to_owned(),
            },
        );
        Ok(instance)
    }

    async fn start_edge(&mut self) {
        let upstream = format!("tcp://127.0.0.1:{}", self.upstream.port());
        let settings = [
            ("role", "edge"),
            ("upstream", upstream.as_str()),
            ("delivery.deadline", "1s"),
        ];
        let subscription = [("subscription", "handled"), ("need", "durable")];
        let links = [
            LinkTo::caller("ingress", &["publisher"], "*"),
            LinkTo::subscriber("invoicing", &["handler"], &subscription),
        ];
        self.edge = Bench::with_config(&settings, &links).await;
        self.edge.add_provider().await;
    }

    /// Starts an instance again where it was.
    pub(crate) async fn restart(&mut self, i: usize) -> Result<()> {
        let policy = self.policy.clone();
        let instance = &mut self.buses[i];
        instance.start_again(&policy).await?;
        let name = instance.name.clone();
        self.recorder.tell(&name, What::InstanceBack { instance: name.clone() });
        Ok(())
    }

    /// Connects as a caller to an instance, through its proxy.
    pub(crate) async fn connect(&self, i: usize, caller: &str) -> Result<Bus> {
        let mut options = options();
        options.tls = Some(self.authority.client(caller));
        let url = format!("tls://localhost:{}", self.buses[i].clients.port());
        connect_with(&url, options)
            .await
            .with_context(|| format!("{caller} connects to {url}"))
    }

    /// Connects as a component to the edge.
    pub(crate) async fn connect_to_edge(&self, component: &str) -> Result<Bus> {
        let mut options = options();
        options.component = component.to_owned();
        let url = format!("{}?target=default.bus", self.edge.nats.url());
        connect_with(&url, options)
            .await
            .with_context(|| format!("{component} connects to {url}"))
    }
}

/// A call is tried for some seconds; then the program says that it does not know, and goes on.
fn options() -> Options {
    let mut options = Options::default();
    options.deadline = Duration::from_secs(8);
    options.try_deadline = Duration::from_secs(3);
    options
}

/// Waits until something is so.
///
/// # Errors
/// If it is not in time.
pub(crate) async fn until(what: &str, within: Duration, is_so: impl AsyncFn() -> bool) -> Result<()> {
    let end = tokio::time::Instant::now() + within;
    while !is_so().await {
        if tokio::time::Instant::now() > end {
            return Err(anyhow!("still not true after {within:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
