//! `webhook send`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use webhook_signature::{Scheme, Unsigned};

use super::args::{Send, pairs};
use super::{NotAccepted, Unreachable, now, read, sign};

/// How long the whole exchange may take: senders of webhooks wait between 5 and 30 s.
const LIMIT: Duration = Duration::from_secs(30);
/// The most of an answer that is shown.
const MAX_ANSWER: usize = 64 << 10;

pub(crate) async fn run(args: &Send, json: bool) -> Result<()> {
    let uri: Uri = args.url.parse().with_context(|| format!("{} is no URL", args.url))?;
    check(&uri)?;
    let body = read(&args.body_file)?;
    let (headers, body) = signed(args, body)?;
    let mut request = Request::post(&uri);
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::new(Bytes::from(body)))
        .context("the headers can't be sent")?;
    let (status, answer) = tokio::time::timeout(LIMIT, exchange(request))
        .await
        .map_err(|_| Unreachable(format!("{uri} did not answer within {} s", LIMIT.as_secs())))??;
    if json {
        println!("{:#}", json!({ "status": status.as_u16(), "answer": answer }));
    } else {
        println!("{status}\n{answer}");
    }
    if status.is_success() {
        Ok(())
    } else {
        Err(NotAccepted.into())
    }
}

/// Only to this machine: without TLS anyone on the way could read what is signed, and send it once more.
fn check(uri: &Uri) -> Result<()> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if uri.scheme_str() != Some("http") || !loopback {
        bail!(
            "{uri} is not on this machine: `webhook send` speaks http to loopback only; make the headers with \
             `webhook sign`, and send it with a client that speaks TLS"
        );
    }
    Ok(())
}

type Headers = Vec<(String, String)>;

fn signed(args: &Send, body: Vec<u8>) -> Result<(Headers, Vec<u8>)> {
    let mut headers = args.headers.clone();
    let (Some(scheme), Some(secret_file)) = (args.scheme, &args.secret_file) else {
        return Ok((headers, body));
    };
    let parameters = pairs(&args.parameters);
    let webhook = Unsigned {
        id: &args.id,
        timestamp: args.now.unwrap_or_else(now),
        body: &body,
        url: Some(&args.url),
    };
    let signed = sign::make(scheme, secret_file, &parameters, &webhook)?;
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

async fn exchange(request: Request<Full<Bytes>>) -> Result<(hyper::StatusCode, String)> {
    let uri = request.uri().clone();
    let failed = |error: &dyn std::fmt::Display| Unreachable(format!("{uri} can't be reached: {error}"));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        failed(&cause.unwrap_or_else(|| error.to_string()))
    })?;
    let status = response.status();
    let answer = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| failed(&error))?;
    Ok((status, String::from_utf8_lossy(&answer.to_bytes()).into_owned()))
}
