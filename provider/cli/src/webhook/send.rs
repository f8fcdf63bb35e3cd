//! `webhook send`.

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use serde_json::json;
use webhook_signature::{Scheme, Unsigned};

use super::args::{Send, pairs};
use super::client::{client, exchange};
use super::sign::Signer;
use super::{NotAccepted, now, read};
use crate::terminal::{json_lines, printable_lines, say};

/// The most of an answer that is shown.
const MAX_ANSWER: usize = 64 << 10;

pub(crate) async fn run(args: &Send, json: bool) -> Result<()> {
    let url: Url = args.url.parse().with_context(|| format!("{} is no URL", args.url))?;
    if args.tls_ca.is_some() && url.scheme() == "http" {
        bail!("--tls-ca is for an https URL: leave it out");
    }
    let body = read(&args.body_file)?;
    let (headers, body) = signed(args, body)?;
    let mut request = client("--tls-ca", args.tls_ca.as_deref())?.post(url).body(body);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let (status, answer) = exchange(request, MAX_ANSWER).await?;
    let answer = String::from_utf8_lossy(&answer);
    if json {
        let told = json!({ "status": status.as_u16(), "answer": answer });
        say!("{}", json_lines(&told))?;
    } else {
        say!("{status}\n{}", printable_lines(&answer))?;
    }
    if status.is_success() {
        Ok(())
    } else {
        Err(NotAccepted.into())
    }
}

type Headers = Vec<(String, String)>;

fn signed(args: &Send, body: Vec<u8>) -> Result<(Headers, Vec<u8>)> {
    let mut headers = args.headers.clone();
    let (Some(scheme), Some(secret_file)) = (args.scheme, &args.secret_file) else {
        return Ok((headers, body));
    };
    let webhook = Unsigned {
        id: &args.id,
        timestamp: args.now.unwrap_or_else(now),
        body: &body,
        url: Some(&args.url),
    };
    let signer = Signer {
        scheme,
        secret_file,
        allow_short_secret: args.allow_short_secret,
        parameters: pairs(&args.parameters),
    };
    let signed = signer.sign(&webhook)?;
    headers.extend(signed.headers.into_iter().map(|(name, value)| (name.to_owned(), value)));
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        let form = scheme == Scheme::Braintree;
        let media_type = if form {
            "application/x-www-form-urlencoded"
        } else {
            "application/json"
        };
        headers.push(("content-type".to_owned(), media_type.to_owned()));
    }
    Ok((headers, signed.body.into_owned()))
}
