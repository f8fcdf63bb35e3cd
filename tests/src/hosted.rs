//! A component in `fanout-dev run`: the very file that a wasmCloud host is given, without one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`, which builds what it names"))
}

/// A component in `fanout-dev run`; killed on drop.
#[derive(Debug)]
pub struct Hosted {
    process: Child,
    address: String,
    log: PathBuf,
}

impl Hosted {
    /// Starts it with the bus's URL and more arguments, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not become ready, or runs another file than the one that is deployed.
    #[must_use]
    pub fn start(file: &str, bus: &str, args: &[String], folder: &Path) -> Self {
        let component = variable("FANOUT_COMPONENTS").join(file);
        let log = folder.join(format!("{file}.log"));
        let mut process = Command::new(variable("FANOUT_DEV_BIN"))
            .arg("run")
            .arg(&component)
            .args(["--bus", bus, "--http", "127.0.0.1:0", "--json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .expect("the runtime starts");
        let mut ready = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        let ready: Value = serde_json::from_str(&ready).unwrap_or_else(|_| panic!("{file} is not ready: {}", said()));
        let deployed: String = Sha256::digest(std::fs::read(&component).unwrap())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            ready["sha256"], deployed,
            "it runs the file that is deployed, and no other"
        );
        let address = ready["http"].as_str().unwrap().trim_start_matches("http://").to_owned();
        Self { process, address, log }
    }

    /// Status and body; `None` when nobody answered.
    #[must_use]
    pub fn http(&self, request: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        let body = answer.split_once("\r\n\r\n")?.1.to_owned();
        Some((status, body))
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!(
                "--- {} ---\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            );
        }
    }
}

/// A webhook as Stripe would post it to the source `stripe`, as an HTTP request.
///
/// # Panics
/// If the clock stands before 1970.
#[must_use]
pub fn stripe_webhook(secret: &str, tenant: &str, id: &str, amount: i64) -> String {
    let body = json!({
        "id": id,
        "object": "event",
        "type": "invoice.paid",
        "data": { "object": {
            "id": format!("in_{id}"),
            "object": "invoice",
            "currency": "eur",
            "amount_paid": amount,
            "metadata": { "tenant": tenant },
        } },
    })
    .to_string();
    let signature = signed_stripe_webhook(secret, &body);
    format!(
        "POST /webhooks/stripe HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         stripe-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The signature that Stripe puts on a webhook now: the value of `stripe-signature`.
///
/// # Panics
/// If it can't be made.
#[must_use]
pub fn signed_stripe_webhook(secret: &str, body: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{now}.{body}").as_bytes());
    let signature = mac.finalize().into_bytes();
    let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={now},v1={signature}")
}
