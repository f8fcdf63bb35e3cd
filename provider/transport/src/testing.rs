//! For tests: a real nats-server on a free port of the loopback and a temporary store, killed and removed on drop; an
//! authority for certificates; byte streams that say whatever a test wants; a network of the test's own.

use std::fs;
use std::io::{self, Read as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

mod authority;
pub mod decoders;
pub(crate) mod network;
mod ports;
mod raw;

pub use authority::{TestAuthority, TestNames};
pub use network::{Network, NetworkListener, NetworkStream, use_network};
pub use ports::free_ports;
pub use raw::{RawStream, raw_stream};

/// A server whose disk is slow, on a machine that is busy, first reads all of its store.
const START_DEADLINE: Duration = Duration::from_secs(120);
/// In the server's directory.
const LOG: &str = "nats.log";
const POLL: Duration = Duration::from_millis(5);

/// How to start a [`NatsServer`].
#[derive(Clone, Debug, Default)]
pub struct NatsSettings {
    /// Instead of a free port.
    pub port: Option<u16>,
    /// Instead of a temporary JetStream store; it outlives the server.
    pub store: Option<PathBuf>,
    /// A configuration file's text.
    pub config: Option<String>,
    /// A configuration file that stands for itself: where the server listens and what it stores is said there, `port` is
    /// the port that it names, and `store`, `config` and `without_jetstream` say nothing.
    pub config_file: Option<PathBuf>,
    /// Variables of its environment, which a configuration may name.
    pub variables: Vec<(String, String)>,
    /// Instead of the one that `FANOUT_NATS_SERVER` names.
    pub binary: Option<PathBuf>,
    /// More arguments.
    pub args: Vec<String>,
    /// Without JetStream.
    pub without_jetstream: bool,
}

/// A nats-server process with JetStream.
#[derive(Debug)]
pub struct NatsServer {
    settings: NatsSettings,
    directory: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl NatsServer {
    /// Starts one with a store of its own.
    ///
    /// # Panics
    /// If there is no nats-server, or it does not start.
    pub async fn start() -> Self {
        Self::start_with(NatsSettings::default()).await
    }

    /// Starts one.
    ///
    /// # Panics
    /// If there is no nats-server, or it does not start.
    pub async fn start_with(settings: NatsSettings) -> Self {
        let started = tokio::task::spawn_blocking(move || {
            let directory = tempfile::tempdir()?;
            let port = settings.port.unwrap_or_else(|| free_ports(1)[0]);
            let process = spawn(&settings, directory.path(), port)?;
            io::Result::Ok(Self {
                settings,
                directory,
                process,
                port,
            })
        });
        match started.await {
            Ok(Ok(server)) => server,
            Ok(Err(error)) => panic!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }

    /// `127.0.0.1:{port}`
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `nats://127.0.0.1:{port}`
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it logged so far.
    ///
    /// # Panics
    /// If it logs nothing.
    #[must_use]
    pub fn log(&self) -> String {
        match fs::read_to_string(self.directory.path().join(LOG)) {
            Ok(log) => log,
            Err(error) => panic!("nats-server has no log: {error}"),
        }
    }

    /// A connection without credentials.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn client(&self) -> async_nats::Client {
        match async_nats::connect(self.address()).await {
            Ok(client) => client,
            Err(error) => panic!("{error}"),
        }
    }

    /// Stops it with SIGKILL.
    ///
    /// # Panics
    /// If the process can't be waited for.
    pub fn kill(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            panic!("nats-server can't be killed: {error}");
        }
    }

    /// The same with another binary, from now on.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart_as(&mut self, binary: PathBuf) {
        self.settings.binary = Some(binary);
        self.restart().await;
    }

    /// Kills it if it runs, and starts it on the same port and store.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.kill();
        let settings = self.settings.clone();
        let directory = self.directory.path().to_owned();
        let port = self.port;
        let started = tokio::task::spawn_blocking(move || spawn(&settings, &directory, port)).await;
        match started {
            Ok(Ok(process)) => self.process = process,
            Ok(Err(error)) => panic!("{error}"),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        // It may be gone already; nothing else can be done about it here.
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}

/// Starts a server and waits until it answers. JetStream is up before its port is.
fn spawn(settings: &NatsSettings, directory: &Path, port: u16) -> io::Result<Child> {
    let binary = match &settings.binary {
        Some(binary) => binary.display().to_string(),
        None => std::env::var("FANOUT_NATS_SERVER").unwrap_or_else(|_| "nats-server".to_owned()),
    };
    let log = directory.join(LOG);
    let mut command = Command::new(&binary);
    match (&settings.config_file, &settings.config) {
        (Some(file), _) => {
            command.arg("--config").arg(file);
        }
        (None, config) => {
            if let Some(config) = config {
                let file = directory.join("nats.conf");
                fs::write(&file, config)?;
                command.arg("--config").arg(file);
            }
            let store = settings.store.clone().unwrap_or_else(|| directory.join("store"));
            command
                .args(["--addr", "127.0.0.1"])
                .args((!settings.without_jetstream).then_some("--jetstream"))
                .arg("--store_dir")
                .arg(store)
                .arg("--port")
                .arg(port.to_string());
        }
    }
    let mut process = command
        .envs(settings.variables.iter().map(|(name, value)| (name, value)))
        .arg("--log")
        .arg(&log)
        .args(&settings.args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| {
            io::Error::new(
                error.kind(),
                format!(
                    "{binary} can't be started ({error}). Run the tests by `cargo xtask test`, which brings \
                     nats-server along, or name one in FANOUT_NATS_SERVER"
                ),
            )
        })?;
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait()? {
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("nats-server ended with {status}:\n{log}")));
        }
        if answers(port) {
            return Ok(process);
        }
        if start.elapsed() > START_DEADLINE {
            process.kill()?;
            process.wait()?;
            let log = fs::read_to_string(&log).unwrap_or_default();
            return Err(io::Error::other(format!("nats-server does not answer:\n{log}")));
        }
        std::thread::sleep(POLL);
    }
}

/// A server that takes clients greets them.
fn answers(port: u16) -> bool {
    let greeted = || -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut greeting = [0; 5];
        stream.read_exact(&mut greeting)?;
        Ok(&greeting == b"INFO ")
    };
    greeted().unwrap_or(false)
}
