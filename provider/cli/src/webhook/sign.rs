//! `webhook sign`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use webhook_signature::{InvalidKey, InvalidKeys, Scheme, Signed, SigningKey, Unsigned, sign};

use super::args::Sign;
use super::{now, read, read_secret};
use crate::terminal::{json_lines, say};

pub(crate) fn run(args: &Sign, json: bool) -> Result<()> {
    let signature = &args.signature;
    let body = read(&args.body_file)?;
    let webhook = Unsigned {
        id: &args.id,
        timestamp: args.now.unwrap_or_else(now),
        body: &body,
        url: args.url.as_deref(),
    };
    let signed = Signer {
        scheme: signature.scheme,
        secret_file: &signature.secret_file,
        allow_short_secret: signature.allow_short_secret,
        parameters: signature.parameters(),
    }
    .sign(&webhook)?;
    let changed = signed.body.as_ref() != body.as_slice();
    match &args.body_out {
        Some(path) => std::fs::write(path, &signed.body).with_context(|| format!("can't write {}", path.display()))?,
        None if changed && !json => bail!(
            "{} signs inside of the body: say with --body-out where to write the body to send",
            signature.scheme
        ),
        None => {}
    }
    if json {
        let headers: serde_json::Map<_, _> = signed
            .headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        let body = changed.then(|| String::from_utf8_lossy(&signed.body).into_owned());
        return say!("{}", json_lines(&json!({ "headers": headers, "body": body })));
    }
    for (name, value) in &signed.headers {
        say!("{name}: {value}")?;
    }
    Ok(())
}

/// Signs webhooks with the secret in a file; of several lines, with the first.
pub(crate) struct Signer<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) secret_file: &'a Path,
    pub(crate) allow_short_secret: bool,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
}

impl Signer<'_> {
    /// Reads the secret.
    ///
    /// # Errors
    /// When the file can't be read, or holds nothing that this scheme signs with.
    pub(crate) fn key(&self) -> Result<SigningKey> {
        let secret = read_secret(self.secret_file)?;
        let read = if self.allow_short_secret {
            SigningKey::allowing_short
        } else {
            SigningKey::with_parameters
        };
        read(self.scheme, &secret, &self.parameters).or_else(|error| {
            let short = matches!(
                error,
                InvalidKeys::Key {
                    source: InvalidKey::Short,
                    ..
                }
            );
            let hint = if short {
                " (hint: --allow-short-secret takes it all the same)"
            } else {
                ""
            };
            let file = self.secret_file.display();
            Err(error).with_context(|| format!("the secret in {file} can't sign{hint}"))
        })
    }

    pub(super) fn sign<'b>(&self, webhook: &Unsigned<'b>) -> Result<Signed<'b>> {
        sign(&self.key()?, webhook).context("the webhook can't be signed")
    }
}
