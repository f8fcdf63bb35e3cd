//! One instance of the bus: between proxies, with a clock of its own and of an older version where the schedule asks for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use fanout_tests::nemesis::Proxy;
use fanout_tests::{Served, beside_the_tests};
use jiff::Timestamp;

use crate::world::START_WITHIN;

/// How far a clock is stepped.
const STEP: Duration = Duration::from_secs(3_600);

/// A running or killed instance.
pub(crate) struct Instance {
    pub(crate) name: String,
    pub(crate) served: Option<Served>,
    /// Between it and each server.
    pub(crate) store: Vec<Proxy>,
    /// Between its callers and it.
    pub(crate) clients: Proxy,
    nats: String,
    args: Vec<String>,
    /// Says how far its clock is off, where it may be.
    clock: Option<PathBuf>,
    /// The program that it is until it is upgraded.
    older: Option<PathBuf>,
}

impl Instance {
    /// Starts one, and waits until it serves.
    pub(crate) async fn start(
        name: &str,
        policy: &Path,
        store: Vec<Proxy>,
        args: Vec<String>,
        clock: Option<PathBuf>,
        older: Option<PathBuf>,
    ) -> Result<Self> {
        let mut instance = Self {
            name: name.to_owned(),
            served: None,
            nats: store.iter().map(Proxy::url).collect::<Vec<_>>().join(","),
            store,
            clients: Proxy::before(1).await,
            args,
            clock,
            older,
        };
        instance.step_clock(None)?;
        let anywhere = ["tls://127.0.0.1:0", "tcp://127.0.0.1:0"];
        let with = anywhere
            .iter()
            .flat_map(|url| ["--listen".to_owned(), (*url).to_owned()]);
        instance.start_at(policy, with.collect()).await?;
        // From now on, where it is.
        let listens = instance.listens()?.to_vec();
        for url in &listens {
            instance.args.extend(["--listen".to_owned(), url.clone()]);
        }
        instance.clients = Proxy::before(port_of(&listens[0])?).await;
        Ok(instance)
    }

    /// Starts it where it was.
    pub(crate) async fn start_again(&mut self, policy: &Path) -> Result<()> {
        self.start_at(policy, Vec::new()).await
    }

    /// It starts as the newer program from now on; says whether it was the older.
    pub(crate) fn upgrade(&mut self) -> bool {
        self.older.take().is_some()
    }

    /// Steps its clock by an hour, or back to the true time.
    pub(crate) fn step_clock(&self, ahead: Option<bool>) -> Result<()> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let off = match ahead {
            None => 0,
            Some(true) => i64::try_from(STEP.as_secs())?,
            Some(false) => -i64::try_from(STEP.as_secs())?,
        };
        // A clock is never read from half a file.
        let new = clock.with_extension("new");
        std::fs::write(&new, format!("{off:+}\n"))?;
        Ok(std::fs::rename(new, clock)?)
    }

    /// How far its clock is off by the last line of its log that has a text.
    pub(crate) fn clock_is_off(&self, text: &str) -> bool {
        let log = self.served.as_ref().map(Served::log).unwrap_or_default();
        let last = log.lines().rev().find(|line| line.contains(text));
        let at = last.and_then(|line| line.split_whitespace().next()?.parse::<Timestamp>().ok());
        at.is_some_and(|at| at.duration_since(Timestamp::now()).unsigned_abs() > STEP / 2)
    }

    /// Whether it runs, and a line of its log ends so.
    pub(crate) fn has_logged(&self, line: &str) -> bool {
        let log = self.served.as_ref().map(Served::log).unwrap_or_default();
        log.lines().any(|logged| logged.ends_with(line))
    }

    fn command(&self) -> Command {
        let mut command = match &self.older {
            Some(older) => Command::new(older),
            None => Command::new(beside_the_tests("fanout")),
        };
        if let (Some(clock), Some(library)) = (&self.clock, faketime()) {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", clock)
                .env("FAKETIME_CACHE_DURATION", "1")
                // Timers of a machine whose clock is set go on.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command
    }

    async fn start_at(&mut self, policy: &Path, more: Vec<String>) -> Result<()> {
        let end = tokio::time::Instant::now() + START_WITHIN;
        // One policy for both, and a log beside each: the log's name is that of the policy file.
        let own = policy.with_file_name(format!("bus-{}.toml", self.name));
        if !own.exists() {
            std::os::unix::fs::symlink(policy, &own)?;
        }
        loop {
            let (nats, own, command) = (self.nats.clone(), own.clone(), self.command());
            let args: Vec<_> = self.args.iter().chain(&more).cloned().collect();
            let started = tokio::task::spawn_blocking(move || {
                let args: Vec<_> = args.iter().map(String::as_str).collect();
                Served::try_start_by(command, &nats, &own, &args)
            });
            match started.await? {
                Ok(served) => {
                    self.served = Some(served);
                    return Ok(());
                }
                Err(said) if tokio::time::Instant::now() > end => {
                    return Err(anyhow!("instance {} does not start: {said}", self.name));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    /// Where it listens.
    pub(crate) fn listens(&self) -> Result<&[String]> {
        Ok(&self.served.as_ref().context("it does not run")?.listen)
    }

    /// Sends it a signal, if it runs.
    pub(crate) fn signal(&self, name: &str) {
        if let Some(served) = &self.served {
            served.signal(name);
        }
    }
}

/// The library that gives a program a clock of its own, if one is named.
pub(crate) fn faketime() -> Option<PathBuf> {
    std::env::var_os("FANOUT_FAKETIME").map(PathBuf::from)
}

/// The older `fanout` that instances begin as, if one is named.
pub(crate) fn older_bus() -> Option<PathBuf> {
    std::env::var_os("FANOUT_OLDER").map(PathBuf::from)
}

/// The port of a URL.
pub(crate) fn port_of(url: &str) -> Result<u16> {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    port.with_context(|| format!("{url} has no port"))
}
