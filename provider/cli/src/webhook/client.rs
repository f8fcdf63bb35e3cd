//! An HTTP client: with TLS to anywhere, without it to this machine alone. It follows no redirect.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::{Unreachable, read};

/// How long the whole exchange may take: senders of webhooks wait between 5 and 30 s.
const LIMIT: Duration = Duration::from_secs(30);

/// A client.
pub(super) struct Client(HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Client {
    /// One for this URL that trusts the system's certificates, or those in a file alone. Without TLS it needs none.
    pub(super) fn new(uri: &Uri, tls_ca: Option<&Path>) -> Result<Self> {
        let provider = rustls::crypto::ring::default_provider();
        let builder = HttpsConnectorBuilder::new();
        let needs_roots = uri.scheme_str() == Some("https");
        let builder = if tls_ca.is_none() && needs_roots {
            builder
                .with_provider_and_native_roots(provider)
                .context("the system has no certificates to trust: name some with --tls-ca")?
        } else {
            builder.with_tls_config(
                ClientConfig::builder_with_provider(Arc::new(provider))
                    .with_safe_default_protocol_versions()
                    .context("there is no version of TLS to speak")?
                    .with_root_certificates(tls_ca.map(roots).transpose()?.unwrap_or_else(RootCertStore::empty))
                    .with_no_client_auth(),
            )
        };
        let connector = builder.https_or_http().enable_http1().build();
        Ok(Self(HyperClient::builder(TokioExecutor::new()).build(connector)))
    }

    /// Sends a request, and gives the status and the body of the answer, which has at most `max_answer` bytes.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        max_answer: usize,
    ) -> Result<(StatusCode, Bytes)> {
        let uri = request.uri().clone();
        check(&uri)?;
        let failed = |error: &dyn std::fmt::Display| Unreachable(format!("{uri} can't be reached: {error}"));
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                failed(&cause.unwrap_or_else(|| error.to_string()))
            })?;
            let status = response.status();
            match Limited::new(response.into_body(), max_answer).collect().await {
                Ok(answer) => Ok((status, answer.to_bytes())),
                Err(error) if error.is::<LengthLimitError>() => {
                    bail!("{uri} answers with more than {max_answer} bytes")
                }
                Err(error) => Err(failed(&error).into()),
            }
        };
        match tokio::time::timeout(LIMIT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Unreachable(format!("{uri} did not answer within {} s", LIMIT.as_secs())).into()),
        }
    }
}

fn roots(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read(file)?) {
        let trusted = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
        trusted.with_context(|| format!("{} holds something that is no certificate", file.display()))?;
    }
    if roots.is_empty() {
        bail!("{} holds no certificate", file.display());
    }
    Ok(roots)
}

/// Without TLS anyone on the way could read what is signed, and send it once more.
fn check(uri: &Uri) -> Result<()> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(()),
        Some("http") if loopback => Ok(()),
        _ => bail!("{uri} is neither an https URL nor an http one of this machine: without TLS anyone could read it"),
    }
}
