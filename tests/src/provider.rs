//! The provider's binary, started as a wasmCloud host starts it.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use wasmcloud_core::HostData;

/// A running provider process; killed on drop.
#[derive(Debug)]
pub struct Provider {
    process: Child,
    log: PathBuf,
}

impl Provider {
    /// Starts the provider with a host's data. Its log goes to `log`.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start(data: &HostData, log: &Path) -> Self {
        Self::start_with(&[], data, log)
    }

    /// The same, with variables.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start_with(variables: &[(String, String)], data: &HostData, log: &Path) -> Self {
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .expect("the provider's log opens");
        let mut process = Command::new(binary())
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "info,fanout_provider=debug".into()),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log_file)
            .spawn()
            .expect("the provider starts");
        let line =
            base64::engine::general_purpose::STANDARD.encode(serde_json::to_vec(data).expect("host data is JSON"));
        let mut stdin = process.stdin.take().expect("it has a standard input");
        stdin
            .write_all(format!("{line}\r\n").as_bytes())
            .expect("the provider reads its host data");
        Self {
            process,
            log: log.to_owned(),
        }
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
        self.process.kill().expect("the provider can be killed");
        self.process.wait().expect("the provider ends");
    }

    /// Sends it a signal, by name as `kill` takes it.
    ///
    /// # Panics
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Whether it ended by itself, and how.
    pub fn ended(&mut self) -> Option<bool> {
        self.process.try_wait().ok().flatten().map(|status| status.success())
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("--- the provider's log ---\n{}", self.log());
        }
    }
}

/// Sends a signal to a process, by name as `kill` takes it.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(sent.expect("kill runs").success(), "the process is there");
}

/// The provider, unless `FANOUT_PROVIDER_BIN` says otherwise.
fn binary() -> PathBuf {
    std::env::var_os("FANOUT_PROVIDER_BIN").map_or_else(|| beside_the_tests("fanout-provider"), PathBuf::from)
}

/// A binary of the workspace, which lies beside this one, or beside the folder of the tests' own.
///
/// # Panics
/// If it is not built.
#[must_use]
pub fn beside_the_tests(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    // `target/PROFILE/deps/test`, or `target/PROFILE/program`.
    let mut folders = own.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.exists()));
    found.unwrap_or_else(|| {
        panic!(
            "{name} is not built beside {}: run `cargo xtask test`, or `cargo build --workspace` first",
            own.display()
        )
    })
}
