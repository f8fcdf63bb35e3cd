//! The host's process: `wash host`, as it is released.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long the host may take until it is heard of.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running host; it is killed when this is dropped.
#[derive(Debug)]
pub struct WashHost {
    process: Child,
    id: String,
    http: u16,
}

#[derive(Deserialize)]
struct Heartbeat {
    id: String,
    #[serde(default, rename = "httpPort")]
    http_port: u16,
}

impl WashHost {
    /// Starts a host, with a server of NATS for its control plane and its data plane, and waits for its first heartbeat. Its
    /// components answer over HTTP at `http`; images are kept in `folder`, where its log is appended to `host.log`.
    ///
    /// # Errors
    /// When it does not start; the log says why.
    pub async fn start(wash: &Path, nats: &async_nats::Client, url: &str, http: u16, folder: &Path) -> Result<Self> {
        let mut heartbeats = nats
            .subscribe("runtime.operator.heartbeat.>")
            .await
            .context("can't hear of hosts")?;
        nats.flush().await.context("can't hear of hosts")?;
        let path = folder.join("host.log");
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("can't write {}", path.display()))?;
        let name = format!("fanout-{http}");
        let mut process = Command::new(wash)
            .args(["--non-interactive", "host", "--host-name", &name])
            .args(["--scheduler-nats-url", url, "--data-nats-url", url])
            .args(["--http-addr", &format!("127.0.0.1:{http}")])
            .args(["--allow-insecure-registries", "--allow-host-loopback"])
            .arg("--oci-cache-dir")
            .arg(folder.join("images"))
            // What it keeps of itself, and whether a newer one is out, is not this machine's owner's.
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("can't share the host's log")?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't run {}", wash.display()))?;
        let heard = async {
            while let Some(message) = heartbeats.next().await {
                let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(&message.payload) else {
                    continue;
                };
                if heartbeat.http_port == http {
                    return Some(heartbeat.id);
                }
            }
            None
        };
        let heard = tokio::select! {
            heard = timeout(START_LIMIT, heard) => heard.ok().flatten(),
            ended = process.wait() => bail!("the host ended with {:?}: see {}", ended, path.display()),
        };
        let id = heard.with_context(|| format!("the host is not heard of: see {}", path.display()))?;
        Ok(Self { process, id, http })
    }

    /// What its control API knows it by.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where its components answer over HTTP, by the header `Host`.
    #[must_use]
    pub fn http(&self) -> u16 {
        self.http
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.process.id()
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Errors
    /// When it can't be killed.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.kill().await.context("the host can't be killed")
    }
}
