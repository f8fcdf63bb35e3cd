//! What a round runs on: servers, two instances of the bus behind proxies, an edge with a component, and who may do what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream;
use fanout_campaign_checker::history::What;
use fanout_client::{Bus, Options, Pem, connect_with};
use fanout_tests::nemesis::Proxy;
use fanout_tests::{Bench, LinkTo};
use fanout_transport::testing::{NatsSettings, TestAuthority};
use futures::TryStreamExt as _;

use crate::cluster::{Cluster, Disks};
use crate::instance::{self, Instance};
use crate::recorder::Recorder;
use crate::rules::Rules;
use crate::schedule::{Kind, Means, Schedule};

/// The stream that the bus's log begins with; those of later partitions have a number behind it.
pub(crate) const LOG: &str = "fanout_payments_log";
/// How an instance's log line ends that says by which policy it goes.
const IN_FORCE: &str = "the policy is in force revision=";
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
    pub(crate) rules: Rules,
    /// An instance may not go by them yet.
    is_waited_for: bool,
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
        let js = jetstream::new(admin.clone());
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
            rules: Rules::new(cluster.servers.len(), durability, ordering),
            is_waited_for: false,
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

    /// Writes the policy, and says so.
    pub(crate) fn put_policy(&mut self) -> Result<()> {
        // A policy is never read from half a file.
        let new = self.policy.with_extension("new");
        let written = std::fs::write(&new, self.rules.text()).and_then(|()| std::fs::rename(&new, &self.policy));
        written.with_context(|| format!("can't write {}", self.policy.display()))?;
        self.recorder.tell("operator", What::Policy(self.rules.policy()?));
        Ok(())
    }

    /// Changes a part of the policy.
    pub(crate) fn change_policy(&mut self, kind: Kind, target: usize) -> Result<()> {
        self.rules.change(kind, target);
        self.is_waited_for = true;
        self.put_policy()
    }

    /// Looks whether every instance goes by the policy of now, and tells it once they do.
    pub(crate) fn see_policy_in_force(&mut self) -> bool {
        let line = format!("{IN_FORCE}{}", self.rules.revision);
        if self.is_waited_for && self.buses.iter().all(|bus| bus.has_logged(&line)) {
            self.is_waited_for = false;
            self.recorder.tell("campaign", What::InForce);
        }
        !self.is_waited_for
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
        let links = [LinkTo::caller("ingress", &["publisher"], "*"), Self::handler_link()];
        self.edge = Bench::with_config(&settings, &links).await;
        self.edge.add_provider().await;
    }

    /// What gives the component behind the edge its subscription.
    pub(crate) fn handler_link() -> LinkTo {
        let subscription = [("subscription", "handled"), ("need", "durable")];
        LinkTo::subscriber("invoicing", &["handler"], &subscription)
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

/// The streams of the log, with their partitions.
pub(crate) async fn partitions(js: &jetstream::Context) -> Result<Vec<(u32, String)>> {
    let names: Vec<String> = js.stream_names().try_collect().await?;
    let numbered = names.into_iter().filter_map(|name| {
        let number = match name.strip_prefix(LOG)? {
            "" => 0,
            rest => rest.strip_prefix('_')?.parse().ok()?,
        };
        Some((number, name))
    });
    let mut partitions: Vec<_> = numbered.collect();
    partitions.sort();
    Ok(partitions)
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
