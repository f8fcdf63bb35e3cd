//! `wadm/webhooks.yaml` on a real wasmCloud host: the dev host with a source of every scheme, and their secrets in its
//! secrets backend.

use std::path::{Path, PathBuf};

use webhook_source::samples::{SAMPLES, Sample};

use crate::dev_host::DevHost;
use crate::http::Headers;

/// The running parts.
#[derive(Debug)]
pub struct WebhookHost(DevHost);

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
        let program = std::env::var_os("FANOUT_DEV_BIN").map(PathBuf::from);
        let program = program.expect("FANOUT_DEV_BIN names no dev host: run `cargo xtask test`, which builds it");
        // They have read the files when they are ready.
        Self(DevHost::start(&program, &manifest, Some(&secrets_file)))
    }

    /// The URL of a path of the ingress.
    pub fn url(&self, path: &str) -> String {
        let ingress = self.0.ready()["endpoints"]["ingress"].as_str().unwrap();
        format!("{ingress}{path}")
    }

    /// The URL of the server.
    pub fn nats(&self) -> &str {
        self.0.nats()
    }

    /// Ends them, and gives what they said on standard error.
    pub fn stop(self) -> String {
        self.0.stop()
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
