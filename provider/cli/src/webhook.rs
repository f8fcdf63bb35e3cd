//! `webhook`: verifies, signs and sends one webhook, with the same crate as the ingress.
//!
//! `verify` is for the day when a webhook does not verify: it says which check failed, and tries what commonly goes wrong
//! between a sender and a file. It deliberately lacks settings of sources: it works on what is in hand.

pub(crate) mod args;
mod attempt;
mod certificate;
pub(crate) mod client;
mod hint;
mod layout;
mod send;
pub(crate) mod sign;
mod verify;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

pub(crate) use self::args::Webhook;
use self::args::WebhookVerb;

/// The longest body and the longest secret that are read.
const MAX_FILE: u64 = 64 << 20;

pub(crate) async fn run(webhook: &Webhook, json: bool) -> Result<()> {
    match &webhook.verb {
        WebhookVerb::Verify(args) => verify::run(args, json),
        WebhookVerb::Sign(args) => sign::run(args, json),
        WebhookVerb::Send(args) => send::run(args, json).await,
        WebhookVerb::Certificate(args) => certificate::run(args).await,
    }
}

/// A webhook was refused: by a check here, or by whom it was sent to. It was told already.
#[derive(Debug)]
pub(crate) struct NotAccepted;

impl std::fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the webhook was not accepted")
    }
}

impl std::error::Error for NotAccepted {}

/// Nobody answered.
#[derive(Debug)]
pub(crate) struct Unreachable(pub(crate) String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// The bytes of a file, or of standard input for `-`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = || format!("can't read {}", path.display());
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .take(MAX_FILE + 1)
            .read_to_end(&mut bytes)
            .context("can't read standard input")?;
    } else {
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
            .with_context(failed)?;
    }
    ensure!(
        bytes.len() as u64 <= MAX_FILE,
        "{} is larger than {MAX_FILE} bytes",
        path.display()
    );
    Ok(bytes)
}

/// A secret. What is wrong with it is said without it.
fn read_secret(path: &Path) -> Result<String> {
    let bytes = read(path)?;
    String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("the secret in {} is not in UTF-8", path.display()))
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
