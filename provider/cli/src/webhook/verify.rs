//! `webhook verify`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use webhook_signature::{Keys, Proven, Refusal, Request, Verified, verify};

use super::args::Verify;
use super::{NotAccepted, hint, now, read, read_secret};

pub(crate) fn run(args: &Verify, json: bool) -> Result<()> {
    let signature = &args.signature;
    let secret = read_secret(&signature.secret_file)?;
    let keys = Keys::with_parameters(signature.scheme, &secret, &signature.parameters())
        .with_context(|| format!("the secret in {} can't be used", signature.secret_file.display()))?;
    let body = read(&args.body_file)?;
    let headers: Vec<_> = args
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    let tolerance = match args.tolerance {
        Some(seconds) => Duration::from_secs(seconds),
        None => signature.scheme.default_tolerance().unwrap_or_default(),
    };
    let now = args.now.unwrap_or_else(now);
    let check = |body: &[u8], url: Option<&str>| {
        let mut request = Request::new(&headers, body);
        request.url = url;
        verify(&keys, &request, now, tolerance).map(drop)
    };
    let mut request = Request::new(&headers, &body);
    request.url = args.url.as_deref();
    match verify(&keys, &request, now, tolerance) {
        Ok(verified) => {
            accepted(&verified, &keys, now, json);
            Ok(())
        }
        Err(refusal) => {
            let hint = hint::find(signature.scheme, &refusal, &body, args.url.as_deref(), check);
            refused(&refusal, hint, json);
            Err(NotAccepted.into())
        }
    }
}

fn accepted(verified: &Verified<'_>, keys: &Keys, now: i64, json: bool) {
    let (proves, detail) = proven(&verified.proven);
    if json {
        let told = json!({
            "verified": true,
            "scheme": verified.scheme.name(),
            "key": verified.key,
            "id": verified.id,
            "timestamp": verified.timestamp,
            "proves": proves,
            "items": detail,
        });
        println!("{told:#}");
        return;
    }
    println!("verified  {}", verified.scheme);
    println!("key       {} of {}, from 0", verified.key, keys.len());
    if let Some(id) = verified.id {
        println!("id        {id}");
    }
    match verified.timestamp {
        Some(time) if time <= now => println!("signed    {time}, {} s ago", now.abs_diff(time)),
        Some(time) => println!("signed    {time}, {} s ahead", now.abs_diff(time)),
        None => println!("signed    at a time that the scheme does not sign: it can be sent again at any time"),
    }
    match &verified.proven {
        Proven::Body(body) => println!("proves    the body, {} bytes", body.len()),
        Proven::Payload(payload) => println!("proves    the payload in the body, {} bytes", payload.len()),
        Proven::Items(items) => {
            println!("proves    these fields of {} item(s), and no others:", items.len());
            for item in items {
                for (field, value) in &item.fields {
                    println!("          {}{field} = {value:?}", item.pointer);
                }
            }
        }
        _ => println!("proves    the sender alone: nothing of the webhook is signed"),
    }
}

/// What it proves, as the attribute `webhookcovers` says it, and the proven fields of each item.
fn proven(proven: &Proven<'_>) -> (&'static str, Value) {
    match proven {
        Proven::Body(_) => ("body", Value::Null),
        Proven::Payload(_) => ("payload", Value::Null),
        Proven::Items(items) => {
            let item = |item: &webhook_signature::Item<'_>| {
                let fields: serde_json::Map<_, _> = item
                    .fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), Value::from(value.as_ref())))
                    .collect();
                json!({ "pointer": item.pointer, "key": item.key, "fields": fields })
            };
            ("fields", items.iter().map(item).collect())
        }
        _ => ("sender", Value::Null),
    }
}

fn refused(refusal: &Refusal, hint: Option<&'static str>, json: bool) {
    if json {
        let told = json!({
            "verified": false,
            "code": refusal.code(),
            "message": refusal.to_string(),
            "hint": hint,
        });
        println!("{told:#}");
        return;
    }
    eprintln!("refused: {refusal} [{}]", refusal.code());
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
