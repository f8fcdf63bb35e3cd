//! `wadm/webhooks.yaml` on a real wasmCloud host: the dev host with a source of every scheme, and their secrets in its
//! secrets backend.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use webhook_source::samples::{SAMPLES, Sample};

use crate::http::Headers;

/// The running parts. They end with their standard input, and so with this.
#[derive(Debug)]
pub struct WebhookHost {
    process: Child,
    ready: serde_json::Value,
    folder: tempfile::TempDir,
}

impl WebhookHost {
    /// Starts them and waits until they are ready.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("webhooks.yaml");
        std::fs::write(&manifest, filled_manifest()).unwrap();
        let secrets: serde_json::Map<_, _> = SAMPLES
            .iter()
            .map(|sample| (sample.name().to_owned(), sample.verifies_with.into()))
            .collect();
        let secrets_file = folder.path().join("secrets.json");
        std::fs::write(&secrets_file, serde_json::Value::Object(secrets).to_string()).unwrap();
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).unwrap();

        let program = std::env::var_os("FANOUT_DEV_BIN").map(PathBuf::from);
        let program = program.expect("FANOUT_DEV_BIN names no dev host: run `cargo xtask test`, which builds it");
        let mut process = Command::new(program)
            .args(["up", "--json", "--manifest"])
            .arg(manifest)
            .arg("--secrets")
            .arg(secrets_file)
            .env("TMPDIR", temporary)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(folder.path().join("errors")).unwrap())
            .spawn()
            .expect("the dev host starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("the dev host is not ready: {line}\n{}", errors(folder.path())));
        Self { process, ready, folder }
    }

    /// The URL of a path of the ingress.
    pub fn url(&self, path: &str) -> String {
        let ingress = self.ready["endpoints"]["ingress"].as_str().unwrap();
        format!("{ingress}{path}")
    }

    /// The URL of the server.
    pub fn nats(&self) -> &str {
        self.ready["nats"].as_str().unwrap()
    }

    /// Ends them, and gives what they said on standard error.
    pub fn stop(mut self) -> String {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        errors(self.folder.path())
    }
}

impl Drop for WebhookHost {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.wait());
    }
}

/// What a forger can do without the key: change what is signed, or guess the password.
pub fn forge(sample: &Sample, headers: &mut Headers, body: &mut Vec<u8>) {
    let text = String::from_utf8(std::mem::take(body)).unwrap();
    let changed = match sample.name() {
        "basic" => {
            headers.retain(|(name, _)| name != "authorization");
            headers.push(("authorization".to_owned(), "Basic Y2hhcmdlYmVlOm90aGVy".to_owned()));
            text
        }
        "adyen" => text.replace("1130", "1131"),
        "braintree" => text.replace("bt_payload=PG", "bt_payload=PH"),
        _ => format!("{text} "),
    };
    *body = changed.into_bytes();
}

fn filled_manifest() -> String {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wadm/webhooks.yaml");
    let settings = SAMPLES.iter().flat_map(|sample| sample.settings);
    let root = settings
        .filter(|(key, _)| *key == "root")
        .map(|(_, root)| root.replace('\n', "\\n"));
    let manifest = std::fs::read_to_string(manifest).unwrap();
    manifest.replace("@PAYPAL_ROOT@", &root.collect::<String>())
}

fn errors(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("errors")).unwrap_or_default()
}
