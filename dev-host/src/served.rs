//! The bus as a process of its own beside the host: `fanout serve`, with a nats-server that nobody else knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};

use crate::guard::FAREWELL;
use crate::processes;
use crate::rundir::RunDir;
use crate::transport::{Certificates, Transport, policy_file};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running bus. It ends with this process, whatever happens to this process: see [`crate::guard`].
#[derive(Debug)]
pub(crate) struct ServedBus {
    guard: Child,
    /// Held open; its end ends the bus.
    input: Option<ChildStdin>,
    url: String,
    name: String,
}

impl ServedBus {
    /// Starts one and waits until it takes calls.
    pub(crate) async fn start(
        program: &Path,
        run: &RunDir,
        nats: &str,
        transport: Transport,
        policy: &BTreeMap<String, String>,
        certificates: Option<&Certificates>,
    ) -> Result<Self> {
        let listen = transport.listen().context("the bus is the provider itself")?;
        let file = run.root().join("policy.toml");
        std::fs::write(&file, policy_file(policy, certificates)?)
            .with_context(|| format!("can't write {}", file.display()))?;
        let log = std::fs::File::create(run.logs().join("bus.log")).context("can't make the bus's log")?;
        let mut command = Command::new(std::env::current_exe().context("can't find this program")?);
        command
            .args(["guard", "--"])
            .arg(program)
            .args([
                "--json",
                "serve",
                "--nats",
                &format!("nats://{nats}"),
                "--listen",
                listen,
                "--policy",
            ])
            .arg(&file);
        if let Some(Certificates {
            authority,
            bus: (certificate, key),
            ..
        }) = certificates
        {
            command
                .arg("--tls-certificate")
                .arg(certificate)
                .arg("--tls-key")
                .arg(key)
                .arg("--tls-client-ca")
                .arg(authority);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Out of reach of a terminal's Ctrl-C, as the server.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut guard = tokio::process::Command::from(command)
            .spawn()
            .context("can't start the guard of the bus")?;
        let input = guard.stdin.take();
        let said = guard.stdout.take().context("the bus has no output")?;
        let mut line = String::new();
        let mut said = BufReader::new(said);
        match tokio::time::timeout(START_LIMIT, said.read_line(&mut line)).await {
            Ok(read) => read.context("can't hear the bus")?,
            Err(_) => bail!("the bus takes no calls after {} s", START_LIMIT.as_secs()),
        };
        #[derive(Deserialize)]
        struct Ready {
            serving: String,
            listen: Vec<String>,
        }
        let Ok(Ready { serving, listen }) = serde_json::from_str(&line) else {
            let log = std::fs::read_to_string(run.logs().join("bus.log")).unwrap_or_default();
            bail!("the bus did not start: {}", log.trim());
        };
        let url = listen.into_iter().next().context("the bus listens nowhere")?;
        Ok(Self {
            guard,
            input,
            url,
            name: serving,
        })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The subject of its status, on its own server.
    pub(crate) fn status_subject(&self) -> String {
        format!("fanout.served.{}.status", self.name)
    }

    /// Its process.
    pub(crate) fn process(&self) -> Option<u32> {
        processes::child_of(self.guard.id()?)
    }

    /// Tells it to end, and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(process) = self.process() {
            processes::terminate(process)?;
        }
        if tokio::time::timeout(STOP_LIMIT, self.guard.wait()).await.is_ok() {
            return Ok(());
        }
        if let Some(mut input) = self.input.take() {
            input
                .write_all(FAREWELL)
                .await
                .context("the guard of the bus is gone")?;
        }
        self.guard.wait().await.context("can't wait for the guard of the bus")?;
        bail!("the bus did not end within {} s and was killed", STOP_LIMIT.as_secs())
    }
}
