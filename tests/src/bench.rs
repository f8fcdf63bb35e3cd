//! The bench: server, provider instances, links and components of one test.

use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, Instant};

use fanout_transport::testing::{NatsServer, NatsSettings};
use wasmcloud_core::{HostData, InterfaceLinkDefinition, OtelConfig};

use crate::nemesis::{self, Proxy};
use crate::{BusStatus, Component, OutcomeState, Provider, SubscriptionStatus};

/// How long any condition may take to come true: on a machine that has nearly no time for it, too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition gives a value.
///
/// # Panics
/// If it does not within 60 s.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(start.elapsed() < PATIENCE, "still not true after {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A link, as a manifest writes it.
#[derive(Clone, Debug)]
pub struct LinkTo {
    /// The component.
    pub component: String,
    /// The link's name.
    pub name: String,
    /// Its interfaces.
    pub interfaces: Vec<String>,
    /// The settings of the bus's end.
    pub settings: Vec<(String, String)>,
    /// Whether the component is the one that calls.
    pub calls: bool,
}

impl LinkTo {
    /// A component that calls the bus for these tenants.
    #[must_use]
    pub fn caller(component: &str, interfaces: &[&str], tenants: &str) -> Self {
        Self::new(component, "default", interfaces, &[("tenants", tenants)], true)
    }

    /// A component that the bus calls. The link is named like the component.
    #[must_use]
    pub fn subscriber(component: &str, interfaces: &[&str], settings: &[(&str, &str)]) -> Self {
        Self::new(component, component, interfaces, settings, false)
    }

    fn new(component: &str, name: &str, interfaces: &[&str], settings: &[(&str, &str)], calls: bool) -> Self {
        Self {
            component: component.into(),
            name: name.into(),
            interfaces: interfaces.iter().map(|i| (*i).into()).collect(),
            settings: settings.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            calls,
        }
    }

    /// The same under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// As the host tells it.
    #[must_use]
    pub fn definition(&self) -> InterfaceLinkDefinition {
        let settings: HashMap<String, String> = self.settings.iter().cloned().collect();
        let (source_id, target) = if self.calls {
            (self.component.clone(), "bus".to_owned())
        } else {
            ("bus".to_owned(), self.component.clone())
        };
        InterfaceLinkDefinition {
            source_id,
            target,
            name: self.name.clone(),
            wit_namespace: "fanout".into(),
            wit_package: "bus".into(),
            interfaces: self.interfaces.clone(),
            source_config: if self.calls { HashMap::new() } else { settings.clone() },
            target_config: if self.calls { settings } else { HashMap::new() },
            source_secrets: None,
            target_secrets: None,
        }
    }
}

/// What most tests need: `ingress` publishes for every tenant, and `invoicing` handles everything, durably.
#[must_use]
pub fn ingress_and_invoicing() -> Vec<LinkTo> {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ]
}

/// One test's world.
pub struct Bench {
    /// The server.
    pub nats: NatsServer,
    /// The provider's instances.
    pub providers: Vec<Provider>,
    client: async_nats::Client,
    config: HashMap<String, String>,
    links: Vec<LinkTo>,
    /// Where instances that are started from now on connect to.
    server: String,
    folder: tempfile::TempDir,
    otel: OtelConfig,
    variables: Vec<(String, String)>,
    /// Servers beside the first that no test touches.
    _others: Vec<NatsServer>,
}

impl Bench {
    /// A server, and one instance of the provider with the policy of a bus `payments` that retries quickly, changed by
    /// `settings`.
    pub async fn start(settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let mut bench = Self::without_provider(settings, links).await;
        bench.add_provider().await;
        bench
    }

    /// The same on a server of its own making.
    pub async fn start_on(nats: NatsSettings, settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let mut bench = Self::without_provider_on(nats, settings, links).await;
        bench.add_provider().await;
        bench
    }

    /// The same with no instance yet; with `FANOUT_TEST_SERVERS=3` in the environment on three servers, of which each has
    /// a copy of everything.
    pub async fn without_provider(settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        if std::env::var("FANOUT_TEST_SERVERS").is_ok_and(|servers| servers == "3") {
            return Self::without_provider_on_three(settings, links).await;
        }
        Self::without_provider_on(NatsSettings::default(), settings, links).await
    }

    /// Three servers, of which each has a copy of everything, and one instance.
    pub async fn start_on_three(settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let mut bench = Self::without_provider_on_three(settings, links).await;
        bench.add_provider().await;
        bench
    }

    async fn without_provider_on_three(settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let settings: Vec<_> = settings.iter().copied().chain([("retention.replicas", "3")]).collect();
        let (bench, others) = Self::without_provider_in_cluster(&settings, links).await;
        Self {
            _others: others,
            ..bench
        }
    }

    /// Neither an instance yet, nor the usual server.
    pub async fn without_provider_on(nats: NatsSettings, settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let nats = NatsServer::start_with(nats).await;
        let client = nats.client().await;
        let config = [
            ("bus", "payments"),
            ("subject", "payments.{tenant}.webhook.{event-type}"),
            ("delivery.deadline", "500ms"),
            ("delivery.ack-wait", "2s"),
            ("retry.schedule", "20ms"),
            ("retry.max-attempts", "3"),
        ]
        .iter()
        .chain(settings)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
        Self {
            client,
            providers: Vec::new(),
            config,
            links: links.to_vec(),
            otel: OtelConfig::default(),
            variables: Vec::new(),
            _others: Vec::new(),
            folder: tempfile::tempdir().expect("there is room for logs"),
            server: nats.url(),
            nats,
        }
    }

    /// No instance yet, on the first of three servers that are one cluster; the others beside it.
    pub async fn without_provider_in_cluster(settings: &[(&str, &str)], links: &[LinkTo]) -> (Self, Vec<NatsServer>) {
        let mut members = nemesis::cluster(3).into_iter();
        let first = members.next().unwrap_or_default();
        let bench = Self::without_provider_on(first, settings, links).await;
        let mut others = Vec::new();
        for member in members {
            others.push(NatsServer::start_with(member).await);
        }
        let js = async_nats::jetstream::new(bench.client.clone());
        eventually("the cluster has a leader", || async {
            js.query_account().await.ok().map(drop)
        })
        .await;
        (bench, others)
    }

    /// A proxy before the server, through which instances that are started from now on reach it. Components and the
    /// test's own client go round it.
    pub async fn put_proxy(&mut self) -> Proxy {
        let proxy = Proxy::before(self.nats.port()).await;
        self.server = proxy.url();
        proxy
    }

    /// Instances that are started from now on reach the server without a proxy.
    pub fn go_round_proxies(&mut self) {
        self.server = self.nats.url();
    }

    /// The usual server, and no instance yet; its configuration will be this and nothing else.
    pub async fn with_config(config: &[(&str, &str)], links: &[LinkTo]) -> Self {
        Self::with_config_on(NatsSettings::default(), config, links).await
    }

    /// The same on a server of its own making.
    pub async fn with_config_on(nats: NatsSettings, config: &[(&str, &str)], links: &[LinkTo]) -> Self {
        let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Self {
            config: config.collect(),
            ..Self::without_provider_on(nats, &[], links).await
        }
    }

    /// Starts one more instance and waits until it serves and every link was looked at.
    pub async fn add_provider(&mut self) {
        let log = self
            .folder
            .path()
            .join(format!("provider-{}.log", self.providers.len()));
        let provider = Provider::start_with(&self.variables, &self.host_data(), &log);
        self.providers.push(provider);
        let links = self.links.len();
        self.status_when("the provider serves", |s| {
            !is_policy(s, OutcomeState::Pending) && s.links.len() >= links
        })
        .await;
    }

    /// Kills an instance and starts it again with the links of now, as a host does.
    pub async fn restart_provider(&mut self, i: usize) {
        self.providers[i].kill();
        let log = self.folder.path().join(format!("provider-{i}.log"));
        self.providers[i] = Provider::start_with(&self.variables, &self.host_data(), &log);
        // An edge has none: it is its bus's.
        self.status_when("the provider serves again", |s| {
            s.policy.is_none() || is_policy(s, OutcomeState::Applied)
        })
        .await;
    }

    /// Changes a setting for instances that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.config.insert(key.to_owned(), value.to_owned());
    }

    /// Changes a setting of all instances while they run, as the host does.
    pub async fn change(&mut self, key: &str, value: &str) {
        self.set(key, value);
        let config = serde_json::to_vec(&self.config).expect("settings are JSON");
        self.client
            .publish("wasmbus.rpc.default.bus.config.update", config.into())
            .await
            .expect("the server takes it");
        self.client.flush().await.expect("the server takes it");
    }

    /// Instances that are started from now on have this variable.
    pub fn give(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Instances that are started from now on export what they do.
    pub fn watch(&mut self, otel: OtelConfig) {
        self.otel = otel;
    }

    fn host_data(&self) -> HostData {
        HostData {
            otel_config: self.otel.clone(),
            host_id: "test-host".into(),
            lattice_rpc_prefix: "default".into(),
            lattice_rpc_url: self.server.clone(),
            provider_key: "bus".into(),
            config: self.config.clone(),
            link_definitions: self.links.iter().map(LinkTo::definition).collect(),
            ..HostData::default()
        }
    }

    /// A component, serving its exports.
    pub async fn component(&self, id: &str) -> Component {
        let component = self.silent_component(id).await;
        component.up().await;
        component
    }

    /// A component that does not serve its exports yet.
    pub async fn silent_component(&self, id: &str) -> Component {
        Component::new(self.nats.client().await, id).await
    }

    /// A plain connection to the server.
    #[must_use]
    pub fn client(&self) -> &async_nats::Client {
        &self.client
    }

    /// Puts or changes a link, as the host does.
    pub async fn put_link(&mut self, link: &LinkTo) {
        self.links
            .retain(|l| (&l.component, &l.name, l.calls) != (&link.component, &link.name, link.calls));
        self.links.push(link.clone());
        self.announce("put", link).await;
    }

    /// Deletes a link, as the host does.
    pub async fn delete_link(&mut self, link: &LinkTo) {
        self.links
            .retain(|l| (&l.component, &l.name, l.calls) != (&link.component, &link.name, link.calls));
        self.announce("del", link).await;
    }

    async fn announce(&self, verb: &str, link: &LinkTo) {
        let payload = serde_json::to_vec(&link.definition()).expect("a link is JSON");
        self.client
            .publish(format!("wasmbus.rpc.default.bus.linkdefs.{verb}"), payload.into())
            .await
            .expect("the server takes it");
        self.client.flush().await.expect("the server takes it");
    }

    /// The provider's status.
    pub async fn status(&self) -> Option<BusStatus> {
        let reply = self.client.request("fanout.default.bus.status", "".into()).await.ok()?;
        serde_json::from_slice(&reply.payload).ok()
    }

    /// Waits until the status fulfils a condition.
    pub async fn status_when(&self, what: &str, holds: impl Fn(&BusStatus) -> bool) -> BusStatus {
        eventually(what, || async { self.status().await.filter(&holds) }).await
    }

    /// Waits until a subscription's status fulfils a condition.
    pub async fn subscription_when(
        &self,
        name: &str,
        what: &str,
        holds: impl Fn(&SubscriptionStatus) -> bool,
    ) -> SubscriptionStatus {
        eventually(&format!("subscription {name}: {what}"), || async {
            self.status().await?.subscription(name).cloned().filter(&holds)
        })
        .await
    }
}

/// What came of the policy.
fn is_policy(status: &BusStatus, state: OutcomeState) -> bool {
    status.policy.as_ref().is_some_and(|policy| policy.state == state)
}
