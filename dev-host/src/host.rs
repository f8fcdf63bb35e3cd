//! The wasmCloud v1 host inside this process, and what it says it runs.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use wasmcloud_host::WasmbusHostConfig;
use wasmcloud_host::url::Url;
use wasmcloud_host::wasmbus::{Features, Host};

use crate::{control, secrets};

/// The lattice of a run.
pub(crate) const LATTICE: &str = "default";

/// The version that the host reports; wadm and the control interface want one of a released host.
const REPORTED_VERSION: &str = "1.9.2";

/// A component is trapped after this long. It is what bounds a call to something that hangs or was killed in the midst
/// of it: the host's own invocation time-out covers only the handshake of a call.
const MAX_EXECUTION_TIME: Duration = Duration::from_secs(5);

/// How long a provider may take to settle what it has under way when it is stopped.
const PROVIDER_SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(10);

type Shutdown = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// The running host.
pub(crate) struct EmbeddedHost {
    host: Arc<Host>,
    shutdown: Shutdown,
    id: String,
}

impl EmbeddedHost {
    /// Starts a host on the server at `address`. Its key, and so the folder of its provider cache, is this run's own.
    pub(crate) async fn start(address: &str) -> Result<Self> {
        let key = nkeys::KeyPair::new_server();
        let id = key.public_key();
        let url = Url::parse(&format!("nats://{address}")).context("the server's address is not a URL")?;
        let config = WasmbusHostConfig {
            ctl_nats_url: url.clone(),
            rpc_nats_url: url,
            lattice: Arc::from(LATTICE),
            host_key: Some(Arc::new(key)),
            allow_file_load: true,
            version: REPORTED_VERSION.to_owned(),
            experimental_features: Features::new()
                .enable_builtin_http_server()
                // Runs only where a manifest names it: the bench `host` compares the bus with it.
                .enable_builtin_messaging_nats(),
            max_execution_time: MAX_EXECUTION_TIME,
            provider_shutdown_delay: Some(PROVIDER_SHUTDOWN_DELAY),
            heartbeat_interval: Some(HEARTBEAT_INTERVAL),
            // Asked only for what a manifest names as a secret.
            secrets_topic_prefix: Some(secrets::TOPIC.to_owned()),
            ..Default::default()
        };
        // Boxed: the future is large, and a debug build moves it about on the stack.
        let (host, shutdown) = Box::pin(Host::new(config))
            .await
            .context("the wasmCloud host did not start")?;
        Ok(Self {
            host,
            shutdown: Box::pin(shutdown),
            id,
        })
    }

    /// The host's public key.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Stops it.
    pub(crate) async fn stop(self) -> Result<()> {
        drop(self.host);
        match tokio::time::timeout(STOP_LIMIT, self.shutdown).await {
            Ok(stopped) => stopped.context("the wasmCloud host did not stop cleanly"),
            Err(_) => bail!("the wasmCloud host did not stop within {} s", STOP_LIMIT.as_secs()),
        }
    }
}

/// What a host runs.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Inventory {
    #[serde(default)]
    components: Vec<Running>,
    #[serde(default)]
    providers: Vec<Running>,
}

#[derive(Debug, Deserialize)]
struct Running {
    id: String,
}

impl Inventory {
    /// Asks the host over the lattice.
    pub(crate) async fn of(client: &async_nats::Client, host: &str) -> Result<Self> {
        control::ask(client, &format!("host.get.{host}")).await
    }

    /// True when a component of this id runs.
    pub(crate) fn has_component(&self, id: &str) -> bool {
        self.components.iter().any(|running| running.id == id)
    }

    /// The ids of everything that runs.
    pub(crate) fn ids(&self) -> Vec<&str> {
        let all = self.components.iter().chain(&self.providers);
        all.map(|running| running.id.as_str()).collect()
    }
}
