//! The command line `fanout`, run as an operator at one place runs it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fanout_plan::status::BusStatus;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

/// After this long, a verb counts as one that hangs.
const VERB_LIMIT: Duration = Duration::from_secs(90);

/// Who has a policy and reaches the servers of one place.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) fanout: PathBuf,
    pub(crate) nats: String,
    pub(crate) policy: PathBuf,
    /// `--place`, where the bus has places.
    pub(crate) place: Option<&'static str>,
}

impl Operator {
    /// A verb on the policy's bus.
    pub(crate) fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.fanout);
        command.arg(verb).arg(&self.policy).args(arguments);
        if let Some(place) = self.place {
            command.args(["--place", place]);
        }
        command
            .env("NATS_URL", &self.nats)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// What a verb answers.
    pub(crate) async fn run(&self, verb: &str, arguments: &[&str]) -> Result<Value> {
        let mut command = self.command(verb, arguments);
        command.arg("--json");
        let out = run(command, verb).await?;
        serde_json::from_str(&out).with_context(|| format!("`fanout {verb}` prints no JSON: {out}"))
    }

    /// What a verb says to a person.
    pub(crate) async fn says(&self, verb: &str, arguments: &[&str]) -> Result<String> {
        run(self.command(verb, arguments), verb).await
    }

    /// How the bus is doing at this place.
    pub(crate) async fn status(&self) -> Result<BusStatus> {
        let status = self.run("status", &[]).await?;
        serde_json::from_value(status).context("the status makes no sense")
    }
}

/// What a command prints; an error is what it said instead.
async fn run(mut command: Command, verb: &str) -> Result<String> {
    let output = timeout(VERB_LIMIT, command.output()).await;
    let output = output.with_context(|| format!("`fanout {verb}` did not end within {VERB_LIMIT:?}"))?;
    let output = output.with_context(|| format!("can't run {:?}", command.as_std().get_program()))?;
    if !output.status.success() {
        let arguments: Vec<_> = command.as_std().get_args().map(OsStr::to_string_lossy).collect();
        bail!(
            "`fanout {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    String::from_utf8(output.stdout).context("it prints no text")
}
