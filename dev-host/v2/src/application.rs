//! The payments application of `deploy/wasmcloud-v2`, as it is run here: its manifests, a caller of the bus for each workload,
//! and what a cluster would have besides.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::cluster::Cluster;
use crate::manifest::{self, WorkloadDeployment};
use crate::registry::Registry;

/// What the manifests name, and somebody else has.
const IMAGES: &str = "ghcr.io/example-org";
const BUS: &str = "bus.example.com:7780";

/// The component files that the manifests name.
pub const COMPONENTS: [&str; 8] = [
    "analytics",
    "entitlements",
    "fanout-connector",
    "fanout-runner-backfill-batch-handler",
    "fanout-runner-batch-handler",
    "fanout-runner-handler",
    "fanout-v1-interfaces",
    "invoicing",
];

/// The one that the world can reach.
pub const INGRESS: &str = "webhook-ingress";

/// What each workload may do: its name, and the lines of its caller in the policy.
const CALLERS: [(&str, &str); 4] = [
    ("analytics", "subscribe.tenants = \"*\""),
    (
        "entitlements",
        "subscribe.tenants = \"*\"\nsubscribe.event-types = [\"customer.subscription.*\"]",
    ),
    (
        "invoicing",
        "subscribe.tenants = \"*\"\nsubscribe.event-types = [\"invoice.*\"]",
    ),
    (INGRESS, "publish.tenants = \"*\"\npublish.sources = [\"/webhooks/*\"]"),
];

/// The application.
#[derive(Debug)]
pub struct Application {
    deployments: BTreeMap<String, WorkloadDeployment>,
    cluster: Cluster,
    callers: String,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    sha256: String,
}

impl Application {
    /// Reads the manifests, and has `fanout` make a token for each workload. `stripe` is the secret of the webhooks.
    ///
    /// # Errors
    /// When the manifests are not legal, or no token can be made.
    pub fn read(manifests: &Path, fanout: &Path, stripe: &str) -> Result<Self> {
        let text = std::fs::read_to_string(manifests).with_context(|| format!("can't read {}", manifests.display()))?;
        let deployments = manifest::read(&text)?.into_iter();
        let secret = BTreeMap::from([("secret.stripe".to_owned(), stripe.to_owned())]);
        let mut application = Self {
            deployments: deployments
                .map(|deployment| (deployment.metadata.name.clone(), deployment))
                .collect(),
            cluster: Cluster::default(),
            callers: String::new(),
        };
        let settings = &mut application.cluster.settings;
        settings.insert("webhook-sources".to_owned(), secret);
        for (caller, rights) in CALLERS {
            let Token { token, sha256 } = token(fanout)?;
            application.callers += &format!("\n[callers.{caller}]\ntoken-sha256 = [\"{sha256}\"]\n{rights}\n");
            let token = BTreeMap::from([("FANOUT_TOKEN".to_owned(), token)]);
            settings.insert(format!("fanout-{caller}"), token);
        }
        Ok(application)
    }

    /// The callers of the bus's policy.
    #[must_use]
    pub fn callers(&self) -> &str {
        &self.callers
    }

    /// Says where the bus is (`http://127.0.0.1:PORT`) and where images are.
    ///
    /// # Errors
    /// When the bus is not called by HTTP.
    pub fn place(&mut self, bus: &str, registry: &Registry) -> Result<()> {
        let authority = bus.strip_prefix("http://").context("the bus is called by http here")?;
        self.cluster.images = (IMAGES.to_owned(), registry.prefix());
        self.cluster.hosts = BTreeMap::from([(BUS.to_owned(), authority.to_owned())]);
        let url = BTreeMap::from([("FANOUT_URL".to_owned(), bus.to_owned())]);
        self.cluster.settings.insert("fanout-bus".to_owned(), url);
        Ok(())
    }

    /// What stands for the cluster.
    #[must_use]
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Each workload's name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.deployments.keys().map(String::as_str)
    }

    /// One of the manifests.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn deployment(&self, name: &str) -> Result<&WorkloadDeployment> {
        self.deployments
            .get(name)
            .with_context(|| format!("there is no manifest of {name}"))
    }

    /// The host name by which the world asks for a workload's component.
    ///
    /// # Errors
    /// When the manifest names none.
    pub fn host(&self, name: &str) -> Result<&str> {
        let mut interfaces = self.deployment(name)?.spec.template.spec.host_interfaces.iter();
        let host = interfaces.find_map(|interface| interface.config.get("host"));
        host.map(String::as_str).with_context(|| format!("{name} has no host"))
    }
}

fn token(fanout: &Path) -> Result<Token> {
    let output = Command::new(fanout).args(["--json", "token"]).output();
    let output = output.with_context(|| format!("can't run {}", fanout.display()))?;
    ensure!(
        output.status.success(),
        "fanout token failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("fanout token says something else")
}
