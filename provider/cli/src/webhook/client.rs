//! An HTTP client: with TLS to anywhere, without it to this machine alone. It follows no redirect.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, StatusCode, Url};

use super::{Unreachable, read};

/// How long the whole exchange may take: senders of webhooks wait between 5 and 30 s.
const LIMIT: Duration = Duration::from_secs(30);

/// A client that trusts the system's certificates, or those in a file alone, which `flag` names.
pub(crate) fn client(flag: &str, tls_ca: Option<&Path>) -> Result<Client> {
    let mut client = builder();
    if let Some(file) = tls_ca {
        let trusted = Certificate::from_pem_bundle(&read(file)?)
            .with_context(|| format!("{} holds something that is no certificate", file.display()))?;
        if trusted.is_empty() {
            bail!("{} holds no certificate", file.display());
        }
        client = client.tls_built_in_root_certs(false);
        client = trusted.into_iter().fold(client, |c, one| c.add_root_certificate(one));
    }
    client
        .build()
        .with_context(|| format!("there are no certificates to trust: name some with {flag}"))
}

/// A client without TLS, for a machine that may have no certificates to trust.
pub(crate) fn client_without_tls() -> Result<Client> {
    let client = builder().tls_built_in_root_certs(false).build();
    client.context("an HTTP client can't be made")
}

fn builder() -> ClientBuilder {
    Client::builder().redirect(Policy::none()).no_proxy().timeout(LIMIT)
}

/// Sends a request, and gives the status and the body of the answer, which has at most `max_answer` bytes.
pub(super) async fn exchange(request: RequestBuilder, max_answer: usize) -> Result<(StatusCode, Vec<u8>)> {
    let (client, request) = request.build_split();
    let request = request.context("the headers can't be sent")?;
    let url = request.url().clone();
    check(&url)?;
    let failed = |error| Unreachable(unreached(url.as_str(), &error, LIMIT));
    let mut response = client.execute(request).await.map_err(failed)?;
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        answer.extend_from_slice(&chunk);
        if answer.len() > max_answer {
            bail!("{url} answers with more than {max_answer} bytes");
        }
    }
    Ok((response.status(), answer))
}

/// Why `url` gave no answer within a limit.
pub(crate) fn unreached(url: &str, error: &reqwest::Error, limit: Duration) -> String {
    if error.is_timeout() {
        return format!("{url} did not answer within {} s", limit.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{url} can't be reached: {cause}")
}

/// Without TLS anyone on the way could read what is signed, and send it once more.
fn check(url: &Url) -> Result<()> {
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_this_machine(url) => Ok(()),
        _ => bail!("{url} is neither an https URL nor an http one of this machine: without TLS anyone could read it"),
    }
}

/// Whether a URL's host is this machine by its name: `localhost`, or an address of the loopback.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
