//! `webhook sign`.

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use webhook_signature::{Scheme, Signed, SigningKey, Unsigned, sign};

use super::args::Sign;
use super::{now, read, read_secret};

pub(crate) fn run(args: &Sign, json: bool) -> Result<()> {
    let signature = &args.signature;
    let body = read(&args.body_file)?;
    let webhook = Unsigned {
        id: &args.id,
        timestamp: args.now.unwrap_or_else(now),
        body: &body,
        url: args.url.as_deref(),
    };
    let signed = make(
        signature.scheme,
        &signature.secret_file,
        &signature.parameters(),
        &webhook,
    )?;
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
        println!("{:#}", json!({ "headers": headers, "body": body }));
    } else {
        for (name, value) in &signed.headers {
            println!("{name}: {value}");
        }
    }
    Ok(())
}

/// Signs a webhook with the secret in a file.
pub(super) fn make<'a>(
    scheme: Scheme,
    secret_file: &std::path::Path,
    parameters: &[(&str, &str)],
    webhook: &Unsigned<'a>,
) -> Result<Signed<'a>> {
    let secret = read_secret(secret_file)?;
    let key = SigningKey::with_parameters(scheme, &secret, parameters)
        .with_context(|| format!("the secret in {} can't sign", secret_file.display()))?;
    sign(&key, webhook).context("the webhook can't be signed")
}
