//! The bus as a plain server: `fanout serve` as a process, on free ports of this machine.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fanout_transport::Pem;
use fanout_transport::testing::{NatsServer, TestAuthority};
use serde_json::Value;

use crate::{Cli, beside_the_tests};

/// A policy of a bus `payments` that retries quickly and whose holds are short; without callers.
pub const SERVED_POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"

[retry]
schedule = [\"20ms\"]
max-attempts = 3
";

/// A caller that may do everything, on the loopback.
pub const ANYONE_HERE: &str = "
[callers.anyone]
loopback = true
metrics = true
publish.tenants = \"*\"
subscribe.tenants = \"*\"
";

/// Flags of a server that speaks TLS and asks for certificates of an authority, whose files are put into a folder.
///
/// # Panics
/// If they can't be written.
#[must_use]
pub fn mutual_tls(folder: &Path, authority: &TestAuthority) -> [String; 6] {
    let tls = authority.server();
    let file = |name: &str, pem: &Pem| {
        let Pem::Text(text) = pem else {
            panic!("it is in memory")
        };
        let path = folder.join(name);
        std::fs::write(&path, text).expect("it can be written");
        path.display().to_string()
    };
    [
        "--tls-certificate".to_owned(),
        file("bus.pem", &tls.certificate),
        "--tls-key".to_owned(),
        file("bus.key", &tls.key),
        "--tls-client-ca".to_owned(),
        file("ca.pem", &authority.certificate()),
    ]
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Served {
    process: Child,
    /// Where it listens, in the order of its arguments.
    pub listen: Vec<String>,
    log: PathBuf,
}

impl Served {
    /// Starts a server with a policy file, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start(nats: &str, policy: &Path, args: &[&str]) -> Self {
        Self::start_by(Command::new(beside_the_tests("fanout")), nats, policy, args)
    }

    /// The same, with variables.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_with(variables: &[(&str, &str)], nats: &str, policy: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(beside_the_tests("fanout"));
        command.envs(variables.iter().copied());
        Self::start_by(command, nats, policy, args)
    }

    /// The same, where the store may be away.
    ///
    /// # Errors
    /// What it said instead of being ready.
    ///
    /// # Panics
    /// If it can't be run at all.
    pub fn try_start(nats: &str, policy: &Path, args: &[&str]) -> Result<Self, String> {
        Self::try_start_by(Command::new(beside_the_tests("fanout")), nats, policy, args)
    }

    /// The same, where a process may have so many open files and no more.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn start_with_files(files: u32, nats: &str, policy: &Path, args: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]);
        shell.arg(beside_the_tests("fanout"));
        Self::start_by(shell, nats, policy, args)
    }

    fn start_by(command: Command, nats: &str, policy: &Path, args: &[&str]) -> Self {
        Self::try_start_by(command, nats, policy, args).unwrap_or_else(|said| panic!("the server is not ready: {said}"))
    }

    /// The same by a program of the caller's, with its variables.
    ///
    /// # Errors
    /// What it said instead of being ready.
    ///
    /// # Panics
    /// If it can't be run at all.
    pub fn try_start_by(mut command: Command, nats: &str, policy: &Path, args: &[&str]) -> Result<Self, String> {
        let log = policy.with_extension("log");
        let log_file = std::fs::File::options().create(true).append(true).open(&log);
        let mut process = command
            .args(["--json", "serve", "--nats", nats, "--policy"])
            .arg(policy)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file.expect("the server's log opens"))
            .spawn()
            .expect("the server starts");
        let mut ready = String::new();
        let out = process.stdout.take().expect("it has an output");
        BufReader::new(out).read_line(&mut ready).expect("it says something");
        let Ok(ready) = serde_json::from_str::<Value>(&ready) else {
            // It may have ended already.
            drop(process.kill());
            drop(process.wait());
            return Err(std::fs::read_to_string(&log).unwrap_or_default());
        };
        let listen = ready["listen"].as_array().expect("it says where it listens");
        let listen = listen
            .iter()
            .map(|url| url.as_str().expect("a URL").to_owned())
            .collect();
        Ok(Self { process, listen, log })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// If it can't be killed.
    pub fn kill(&mut self) {
        self.process.kill().expect("the server can be killed");
        self.process.wait().expect("the server ends");
    }

    /// Sends it a signal, by name as `kill` takes it.
    ///
    /// # Panics
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        crate::provider::signal(self.process.id(), name);
    }

    /// Waits for its end; says whether it was a good one.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn ended(&mut self) -> bool {
        self.process.wait().expect("the server ends").success()
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("--- the server's log ---\n{}", self.log());
        }
    }
}

/// A served bus with a caller that may do everything, and the command line and a client that reach it.
pub struct ServedBus {
    /// The command line, at the bus's store.
    pub cli: Cli,
    /// The bus's policy.
    pub policy: PathBuf,
    /// The server.
    pub served: Served,
    /// A client of the server.
    pub bus: fanout_client::Bus,
    /// The bus's store.
    pub nats: NatsServer,
}

/// [`SERVED_POLICY`] for anyone here, with leases that outlast a test.
#[must_use]
pub(crate) fn with_long_leases() -> String {
    let text = SERVED_POLICY.replace("ack-wait = \"2s\"", "ack-wait = \"10m\"");
    format!("{text}{ANYONE_HERE}")
}

impl ServedBus {
    /// One whose leases outlast a test: an event that comes again was released, or refused.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn with_long_leases() -> Self {
        let nats = NatsServer::start().await;
        let cli = Cli::new(nats.url());
        let policy = cli.policy(&with_long_leases());
        let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
        let bus = fanout_client::connect(&served.listen[0]).await.expect("it is ready");
        Self {
            cli,
            policy,
            served,
            bus,
            nats,
        }
    }
}
