//! The command line, run as a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fanout_plan::status::BusStatus;

use crate::beside_the_tests;

/// `fanout`, on one server.
pub struct Cli {
    folder: tempfile::TempDir,
    nats: String,
}

impl Cli {
    /// For the server at this address.
    ///
    /// # Panics
    /// If there is no room for a policy.
    #[must_use]
    pub fn new(nats: String) -> Self {
        Self {
            folder: tempfile::tempdir().expect("there is room for a policy"),
            nats,
        }
    }

    /// The server's address.
    #[must_use]
    pub fn nats(&self) -> &str {
        &self.nats
    }

    /// The same for another server.
    #[must_use]
    pub fn elsewhere(self, nats: &str) -> Self {
        Self {
            nats: nats.to_owned(),
            ..self
        }
    }

    /// Writes a policy.
    ///
    /// # Panics
    /// If it can't be written.
    #[must_use]
    pub fn policy(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("policy.toml");
        std::fs::write(&path, text).expect("a policy can be written");
        path
    }

    /// What `fanout status` says of a policy's bus.
    ///
    /// # Panics
    /// If it fails.
    #[must_use]
    pub fn status(&self, policy: &Path) -> BusStatus {
        let (code, out, err) = self.run(&["--json", "status"], policy, &[]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("a status")
    }

    /// Runs a verb on a policy: exit code, output and errors, with `POLICY` for its path.
    ///
    /// # Panics
    /// If it can't be run.
    #[must_use]
    pub fn run(&self, verb: &[&str], policy: &Path, more: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout"))
            .args(verb)
            .arg(policy)
            .args(more)
            .env("NATS_URL", &self.nats)
            .output()
            .expect("the command line runs");
        let shown = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace(&policy.display().to_string(), "POLICY");
        (status.code().expect("it ends by itself"), shown(stdout), shown(stderr))
    }
}

/// Exit code, standard output and standard error of `fanout`, which has no standard input and no bus in its environment.
///
/// # Panics
/// If it can't be run, or prints what is no text.
#[must_use]
pub fn fanout(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(beside_the_tests("fanout"))
        .args(args)
        .env_remove("FANOUT_BUS")
        .stdin(Stdio::null())
        .output()
        .expect("fanout is built beside the tests");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

/// Exit code and output of `fanout`, errors included.
#[must_use]
pub fn fanout_output(args: &[&str]) -> (i32, String) {
    let (code, out, err) = fanout(args);
    (code, out + &err)
}
