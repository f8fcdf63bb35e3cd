//! `ready`: whether a bus that listens on HTTP can be used: what a health check runs where there is no curl.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::Url;
use serde_json::Value;

use crate::terminal::{json_line, say};
use crate::webhook::Unreachable;
use crate::webhook::client::{client, client_without_tls, unreached};

#[derive(Debug, clap::Args)]
pub(crate) struct Ready {
    /// Where it listens, such as https://bus.example.org:7780
    #[arg(
        value_name = "URL",
        env = "FANOUT_READY_URL",
        default_value = "http://127.0.0.1:7780"
    )]
    pub(crate) url: Url,
    /// Who signed its certificate, as PEM; without it, the system's authorities
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
}

/// How long the whole exchange may take: the bus answers within 2 s, whatever its store does.
const LIMIT: Duration = Duration::from_secs(5);

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

pub(crate) async fn ready(args: &Ready, json: bool) -> Result<()> {
    let url = args.url.join("readyz").context("the URL can't have a path")?;
    let client = match url.scheme() {
        "http" if args.tls_ca.is_some() => bail!("--tls-ca is for an https URL: leave it out"),
        "http" => client_without_tls()?,
        "https" => client("--tls-ca", args.tls_ca.as_deref())?,
        other => bail!("{url} is neither an http nor an https URL: {other} has no health check"),
    };
    let failed = |error| Unreachable(unreached(url.as_str(), &error, LIMIT));
    let mut response = client.get(url.clone()).timeout(LIMIT).send().await.map_err(failed)?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > MAX_ANSWER {
            bail!("{url} answers with more than {MAX_ANSWER} bytes: it is no bus");
        }
    }
    let found: Value = match serde_json::from_slice(&answer) {
        Ok(Value::Object(found)) if found.contains_key("ready") => found.into(),
        _ => bail!(
            "{url} answered {} and no word of being ready: it is no bus",
            response.status()
        ),
    };
    if found["ready"] == true {
        return match json {
            true => say!("{}", json_line(&found)),
            false => say!("ready"),
        };
    }
    let missing = found["missing"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said: Vec<_> = missing
        .iter()
        .map(|one| {
            let field = |name: &str| one[name].as_str().unwrap_or_default();
            format!("{}: {}", field("code"), field("message"))
        })
        .collect();
    bail!("the bus at {} is not ready: {}", args.url, said.join("; "))
}
