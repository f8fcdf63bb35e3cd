//! wadm inside this process: it turns a manifest into what the host runs.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::task::JoinSet;
use tokio::time::sleep;
use wadm_client::Client;
use wadm_types::Manifest;
use wadm_types::api::StatusType;

use crate::host::{Inventory, LATTICE};
use crate::wait::{Check, until};

/// wadm 0.21 subscribes inside its tasks and has no sign for "I listen": a host that starts before that is seen only
/// at its next heartbeat. Nothing observable tells when it is over, so this one wait is by the clock.
const SUBSCRIBE_TIME: Duration = Duration::from_millis(250);

const KNOWS_HOST_LIMIT: Duration = Duration::from_secs(30);
const DEPLOY_LIMIT: Duration = Duration::from_secs(90);
const UNDEPLOY_LIMIT: Duration = Duration::from_secs(20);
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// The running wadm.
pub(crate) struct Deployer {
    tasks: JoinSet<Result<()>>,
    client: Client,
    nats: async_nats::Client,
}

impl Deployer {
    /// Starts wadm on the server at `address`.
    pub(crate) async fn start(address: &str, nats: async_nats::Client) -> Result<Self> {
        let config = wadm::config::WadmConfig {
            nats_server: address.to_owned(),
            ..Default::default()
        };
        let tasks = wadm::start_wadm(config).await.context("wadm did not start")?;
        sleep(SUBSCRIBE_TIME).await;
        Ok(Self {
            tasks,
            client: Client::from_nats_client(LATTICE, None, nats.clone()),
            nats,
        })
    }

    /// Waits until wadm has the host on record. A manifest that is deployed before that is planned for no hosts, and
    /// then waits for a heartbeat.
    pub(crate) async fn knows_host(&self, host: &str) -> Result<()> {
        let state = async_nats::jetstream::new(self.nats.clone())
            .get_key_value("wadm_state")
            .await
            .context("wadm has no state")?;
        let key = format!("host_{LATTICE}");
        until("wadm to know the host", KNOWS_HOST_LIMIT, CHECK_EVERY, async || {
            let hosts = state
                .get(&key)
                .await
                .context("can't read wadm's state")?
                .unwrap_or_default();
            Ok(if String::from_utf8_lossy(&hosts).contains(host) {
                Check::Found(())
            } else {
                Check::NotYet("it has no host of that id on record".into())
            })
        })
        .await
    }

    /// Puts a version of a manifest and deploys it. wadm refuses a version that it has seen before.
    pub(crate) async fn deploy(&self, manifest: &Manifest) -> Result<()> {
        self.client
            .put_and_deploy_manifest(manifest)
            .await
            .map(drop)
            .map_err(|error| anyhow!("wadm refused the manifest: {error}"))
    }

    /// Waits until wadm says that what is deployed is what the manifest says.
    pub(crate) async fn deployed(&self, name: &str) -> Result<()> {
        until("wadm to say Deployed", DEPLOY_LIMIT, CHECK_EVERY, async || {
            let status = self.status(name).await?;
            Ok(match status.status_type {
                StatusType::Deployed => Check::Found(()),
                other => Check::NotYet(format!("it says {other:?}: {}", status.message)),
            })
        })
        .await
    }

    /// Takes the application down and waits until the host runs nothing any more.
    pub(crate) async fn undeploy(&self, name: &str, host: &str) -> Result<()> {
        self.client
            .undeploy_manifest(name)
            .await
            .map_err(|error| anyhow!("wadm refused to undeploy: {error}"))?;
        until("the host to run nothing", UNDEPLOY_LIMIT, CHECK_EVERY, async || {
            let inventory = Inventory::of(&self.nats, host).await?;
            let ids = inventory.ids();
            Ok(if ids.is_empty() {
                Check::Found(())
            } else {
                Check::NotYet(format!("it still runs {}", ids.join(", ")))
            })
        })
        .await
    }

    /// Stops wadm.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }

    async fn status(&self, name: &str) -> Result<wadm_types::api::StatusInfo> {
        let status = self
            .client
            .get_manifest_status(name)
            .await
            .map_err(|error| anyhow!("wadm has no status: {error}"))?;
        Ok(status.info)
    }
}
