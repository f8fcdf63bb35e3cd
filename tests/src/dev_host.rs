//! `fanout-dev up`: nats-server, wadm and a wasmCloud host with a manifest deployed.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// The running parts. They end with their standard input, and so with this.
#[derive(Debug)]
pub struct DevHost {
    process: Child,
    ready: Value,
    folder: tempfile::TempDir,
}

impl DevHost {
    /// Starts the program with a manifest and waits until everything answers. `secrets` is a file of the manifest's
    /// secrets. Where the other parts are is in the environment.
    ///
    /// # Panics
    /// If they do not become ready.
    #[must_use]
    pub fn start(program: &Path, manifest: &Path, secrets: Option<&Path>) -> Self {
        let folder = tempfile::tempdir().expect("there is room for logs");
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).expect("there is room for a folder");
        let mut command = Command::new(program);
        command.args(["up", "--json", "--manifest"]).arg(manifest);
        if let Some(secrets) = secrets {
            command.arg("--secrets").arg(secrets);
        }
        let mut process = command
            .env("TMPDIR", temporary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("errors")).expect("there is room for logs"))
            .spawn()
            .expect("the dev host starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it has a standard output"))
            .read_line(&mut line)
            .expect("it says something");
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("the dev host is not ready: {line}\n{}", errors(folder.path())));
        Self { process, ready, folder }
    }

    /// What it said when it was ready.
    #[must_use]
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// The URL of the server.
    ///
    /// # Panics
    /// If it said none.
    #[must_use]
    pub fn nats(&self) -> &str {
        self.ready["nats"].as_str().expect("it says where the server is")
    }

    /// What they said on standard error so far.
    #[must_use]
    pub fn said(&self) -> String {
        errors(self.folder.path())
    }

    /// Ends them, and gives what they said on standard error.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn stop(mut self) -> String {
        drop(self.process.stdin.take());
        self.process.wait().expect("the dev host ends");
        self.said()
    }
}

impl Drop for DevHost {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

fn errors(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("errors")).unwrap_or_default()
}
