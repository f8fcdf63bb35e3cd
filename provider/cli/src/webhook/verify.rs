//! `webhook verify`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use webhook_signature::{Keys, Proven, Refusal, Verified, verify};

use super::args::Verify;
use super::attempt::Attempt;
use super::{NotAccepted, hint, now, read, read_secret};
use crate::terminal::{error_line, json_lines, printable, say};

pub(crate) fn run(args: &Verify, json: bool) -> Result<()> {
    let signature = &args.signature;
    let scheme = signature.scheme;
    let parameters = signature.parameters();
    let attempt = Attempt {
        scheme,
        secret: read_secret(&signature.secret_file)?.into(),
        parameters: parameters
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect(),
        headers: args
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect(),
        url: args.url.as_deref().map(Into::into),
        body: read(&args.body_file)?.into(),
        now: args.now.unwrap_or_else(now),
        tolerance: match args.tolerance {
            Some(seconds) => Duration::from_secs(seconds),
            None => scheme.default_tolerance().unwrap_or_default(),
        },
        allow_short_secret: signature.allow_short_secret,
    };
    let keys = match attempt.keys() {
        Ok(keys) => keys,
        Err(error) => {
            let hint = hint::unreadable(&attempt, &error);
            let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            let file = signature.secret_file.display();
            return Err(error).with_context(|| format!("the secret in {file} can't be used{hint}"));
        }
    };
    match verify(&keys, &attempt.request(), attempt.now, attempt.tolerance) {
        Ok(verified) => accepted(&verified, &keys, attempt.now, json),
        Err(refusal) => {
            refused(&refusal, hint::find(&attempt, &keys, &refusal).as_deref(), json)?;
            Err(NotAccepted.into())
        }
    }
}

fn accepted(verified: &Verified<'_>, keys: &Keys, now: i64, json: bool) -> Result<()> {
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
        return say!("{}", json_lines(&told));
    }
    say!("verified  {}", verified.scheme)?;
    say!("key       {} of {}, from 0", verified.key, keys.len())?;
    if let Some(id) = verified.id {
        say!("id        {}", printable(id))?;
    }
    match verified.timestamp {
        Some(time) if time <= now => say!("signed    {time}, {} s ago", now.abs_diff(time))?,
        Some(time) => say!("signed    {time}, {} s ahead", now.abs_diff(time))?,
        None => say!("signed    at a time that the scheme does not sign: it can be sent again at any time")?,
    }
    match &verified.proven {
        Proven::Body(body) => say!("proves    the body, {} bytes", body.len()),
        Proven::Checksum(body) => say!(
            "proves    a checksum of the body, {} bytes: who has seen one signed webhook can make another body of it",
            body.len()
        ),
        Proven::Payload(payload) => say!("proves    the payload in the body, {} bytes", payload.len()),
        Proven::Items(items) => {
            say!("proves    these fields of {} item(s), and no others:", items.len())?;
            for item in items {
                for (field, value) in &item.fields {
                    say!("          {}{field} = \"{}\"", item.pointer, printable(value))?;
                }
            }
            Ok(())
        }
        _ => say!("proves    the sender alone: nothing of the webhook is signed"),
    }
}

/// What it proves, as the attribute `webhookcovers` says it, and the proven fields of each item.
fn proven(proven: &Proven<'_>) -> (&'static str, Value) {
    match proven {
        Proven::Body(_) => ("body", Value::Null),
        Proven::Checksum(_) => ("checksum", Value::Null),
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

fn refused(refusal: &Refusal, hint: Option<&str>, json: bool) -> Result<()> {
    if json {
        let told = json!({
            "verified": false,
            "code": refusal.code(),
            "message": refusal.to_string(),
            "hint": hint,
        });
        return say!("{}", json_lines(&told));
    }
    error_line(format_args!("refused: {refusal} [{}]", refusal.code()));
    if let Some(hint) = hint {
        error_line(format_args!("hint: {hint}"));
    }
    Ok(())
}
