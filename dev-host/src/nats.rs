//! A nats-server with JetStream on a loopback port that it chooses itself, its store in the run's folder.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, ChildStdin};

use crate::guard::FAREWELL;
use crate::rundir::RunDir;
use crate::wait::{Check, until};

/// The oldest server with everything that Fanout asks of it.
const OLDEST: (u64, u64) = (2, 11);

const START_LIMIT: Duration = Duration::from_secs(15);
const STOP_LIMIT: Duration = Duration::from_secs(10);
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// A running server. It ends with this process, whatever happens to this process: see [`crate::guard`].
#[derive(Debug)]
pub(crate) struct NatsServer {
    guard: Child,
    /// Held open; its end ends the server.
    input: Option<ChildStdin>,
    address: String,
    process: u32,
}

impl NatsServer {
    /// Starts one and waits until it listens. Its store and logs have its name.
    pub(crate) async fn start(program: &Path, run: &RunDir, name: &str) -> Result<Self> {
        let log = run.logs().join(format!("{name}.log"));
        let store = run.store().join(name);
        std::fs::create_dir(&store).with_context(|| format!("can't make {}", store.display()))?;
        let output = File::create(run.logs().join(format!("{name}.out"))).context("can't make the server's log")?;
        let errors = output.try_clone().context("can't make the server's log")?;
        let mut command = Command::new(std::env::current_exe().context("can't find this program")?);
        command
            .args(["guard", "--remove"])
            .arg(run.root())
            .arg("--")
            .arg(program)
            .args(["--addr", "127.0.0.1", "--port", "-1", "--jetstream", "--store_dir"])
            .arg(&store)
            .arg("--log")
            .arg(&log)
            .arg("--ports_file_dir")
            .arg(&store)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors)
            // Out of reach of a terminal's Ctrl-C: the server ends last, when the others are done with it.
            .process_group(0);
        let mut guard = tokio::process::Command::from(command)
            .spawn()
            .context("can't start the guard of nats-server")?;
        let input = guard.stdin.take();
        let ports = until("nats-server to listen", START_LIMIT, CHECK_EVERY, async || {
            if let Some(status) = guard.try_wait().context("can't wait for nats-server")? {
                bail!("nats-server ended ({status}): {}", what_it_said(run, name));
            }
            Ok(match ports_file(&store)? {
                Some(found) => Check::Found(found),
                None => Check::NotYet("it has not written its ports file".into()),
            })
        })
        .await?;
        Ok(Self {
            guard,
            input,
            address: ports.address,
            process: ports.process,
        })
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The server's process id.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Connects to it, and refuses one that is too old.
    pub(crate) async fn connect(&self) -> Result<async_nats::Client> {
        let client = async_nats::connect(&self.address)
            .await
            .with_context(|| format!("can't connect to nats-server at {}", self.address))?;
        let version = client.server_info().version;
        if !new_enough(&version) {
            let (major, minor) = OLDEST;
            bail!("nats-server {version} is too old; Fanout needs {major}.{minor} or newer");
        }
        Ok(client)
    }

    /// Ends it and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        if let Some(mut input) = self.input.take() {
            input
                .write_all(FAREWELL)
                .await
                .context("the guard of nats-server is gone")?;
        }
        match tokio::time::timeout(STOP_LIMIT, self.guard.wait()).await {
            Ok(ended) => ended.context("can't wait for the guard of nats-server").map(drop),
            Err(_) => bail!("nats-server did not end within {} s", STOP_LIMIT.as_secs()),
        }
    }
}

#[derive(Debug)]
struct Ports {
    address: String,
    process: u32,
}

/// The server names the file `nats-server_{pid}.ports` and writes it whole before it is found complete: 2.15 writes
/// it in place, so one that does not parse is one that is not finished.
fn ports_file(folder: &Path) -> Result<Option<Ports>> {
    #[derive(Deserialize)]
    struct Content {
        nats: Vec<String>,
    }
    for entry in std::fs::read_dir(folder).context("can't read the server's folder")? {
        let path = entry.context("can't read the server's folder")?.path();
        let Some(process) = process_of(&path) else { continue };
        let text = std::fs::read(&path).context("can't read the server's ports file")?;
        let Ok(content) = serde_json::from_slice::<Content>(&text) else {
            continue;
        };
        if let Some(url) = content.nats.first() {
            let address = url.strip_prefix("nats://").unwrap_or(url).to_owned();
            return Ok(Some(Ports { address, process }));
        }
    }
    Ok(None)
}

fn process_of(path: &Path) -> Option<u32> {
    if path.extension()? != "ports" {
        return None;
    }
    path.file_stem()?.to_str()?.rsplit_once('_')?.1.parse().ok()
}

fn what_it_said(run: &RunDir, name: &str) -> String {
    let read = |name: &str| -> String {
        let path: PathBuf = run.logs().join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let text = read(&format!("{name}.out")) + &read(&format!("{name}.log"));
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" / ")
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= OLDEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_from_2_11_on_will_do() {
        for (version, expected) in [
            ("2.15.1", true),
            ("2.11.0-RC.1", true),
            ("2.10.29", false),
            ("3.0.0", true),
            ("", false),
        ] {
            assert_eq!(new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn the_ports_file_names_the_process() {
        assert_eq!(process_of(Path::new("/x/nats-server_417.ports")), Some(417));
        assert_eq!(process_of(Path::new("/x/nats-server_417.log")), None);
        assert_eq!(process_of(Path::new("/x/jetstream")), None);
    }
}
