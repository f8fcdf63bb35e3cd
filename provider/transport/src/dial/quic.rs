//! Many byte streams on one connection: QUIC and WebTransport.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::TransportConfig;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::net::lookup_host;
use tokio::sync::Mutex;
use wtransport::config::{DnsLookupFuture, DnsResolver};

use crate::dial::credentials::Credentials;
use crate::dial::socket::server_name;
use crate::endpoint::{Authority, UrlPath};
use crate::listen::stream::Stream;
use crate::quic::{self, Side};
use crate::tls::ClientTls;
use crate::{CodecError, Error};

fn credentials(
    tls: &ClientTls,
    alpn: &[&[u8]],
    idle: Duration,
    http: bool,
) -> Result<(Credentials<Arc<QuicClientConfig>>, Arc<TransportConfig>), Error> {
    let crypto = |config| Ok(Arc::new(QuicClientConfig::try_from(config)?));
    let transport = quic::transport(Side::Client, idle, http);
    Ok((Credentials::new(tls, alpn, crypto)?, Arc::new(transport)))
}

fn config(credentials: &Credentials<Arc<QuicClientConfig>>, transport: &Arc<TransportConfig>) -> quinn::ClientConfig {
    let mut config = quinn::ClientConfig::new(credentials.current());
    config.transport_config(Arc::clone(transport));
    config
}

async fn resolve(at: &Authority) -> io::Result<SocketAddr> {
    let first = lookup_host((at.host(), at.port())).await?.next();
    first.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Any port of ours, of the same family.
fn local(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// What makes QUIC streams.
#[derive(Debug)]
pub(crate) struct QuicDialer {
    at: Authority,
    name: String,
    credentials: Credentials<Arc<QuicClientConfig>>,
    transport: Arc<TransportConfig>,
    /// The endpoint lives as long as its connection.
    current: Mutex<Option<(quinn::Endpoint, quinn::Connection)>>,
}

impl QuicDialer {
    pub(crate) fn new(at: &Authority, tls: &ClientTls, alpn: &[&[u8]], idle: Duration) -> Result<Self, Error> {
        let name = tls.server_name.as_deref().unwrap_or(at.host());
        server_name(name)?;
        let (credentials, transport) = credentials(tls, alpn, idle, false)?;
        Ok(Self {
            at: at.clone(),
            name: name.to_owned(),
            credentials,
            transport,
            current: Mutex::default(),
        })
    }

    pub(crate) async fn stream(&self) -> Result<Stream, CodecError> {
        let connection = self.connection().await?;
        let (writer, reader) = connection.open_bi().await?;
        Ok(quic::stream(writer, reader))
    }

    async fn connection(&self) -> Result<quinn::Connection, CodecError> {
        let mut current = self.current.lock().await;
        if let Some((_, connection)) = current.as_ref().filter(|(_, it)| it.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        let remote = resolve(&self.at).await?;
        let endpoint = quinn::Endpoint::client(local(remote))?;
        let config = config(&self.credentials, &self.transport);
        let connection = endpoint.connect_with(config, remote, &self.name)?.await?;
        *current = Some((endpoint, connection.clone()));
        Ok(connection)
    }
}

/// What makes WebTransport streams.
pub(crate) struct WebDialer {
    at: Authority,
    url: String,
    credentials: Credentials<Arc<QuicClientConfig>>,
    transport: Arc<TransportConfig>,
    current: Mutex<Option<(WebEndpoint, wtransport::Connection)>>,
}

type WebEndpoint = wtransport::Endpoint<wtransport::endpoint::endpoint_side::Client>;

impl WebDialer {
    pub(crate) fn new(at: &Authority, path: &UrlPath, tls: &ClientTls, idle: Duration) -> Result<Self, Error> {
        let name = tls.server_name.as_deref().unwrap_or(at.host());
        server_name(name)?;
        let alpn: [&[u8]; 1] = [wtransport::tls::WEBTRANSPORT_ALPN];
        let (credentials, transport) = credentials(tls, &alpn, idle, true)?;
        Ok(Self {
            at: at.clone(),
            url: format!("https://{}{}", Authority::new(name, at.port()), path.as_str()),
            credentials,
            transport,
            current: Mutex::default(),
        })
    }

    pub(crate) async fn stream(&self) -> Result<Stream, CodecError> {
        let mut current = self.current.lock().await;
        let usable = |connection: &wtransport::Connection| connection.quic_connection().close_reason().is_none();
        if !current.as_ref().is_some_and(|(_, connection)| usable(connection)) {
            *current = Some(self.connect().await?);
        }
        let Some((_, connection)) = current.as_ref() else {
            return Err("there is no connection".into());
        };
        let opened = connection.open_bi().await;
        match opened {
            Ok(opening) => {
                let (writer, reader) = opening.await?;
                Ok(quic::web_stream(writer, reader))
            }
            // The reason is known to QUIC.
            Err(error) => match connection.quic_connection().close_reason() {
                Some(reason) => Err(reason.into()),
                None => Err(error.into()),
            },
        }
    }

    async fn connect(&self) -> Result<(WebEndpoint, wtransport::Connection), CodecError> {
        let remote = resolve(&self.at).await?;
        let mut config = wtransport::ClientConfig::builder()
            .with_bind_address(local(remote))
            .build_with_quic_config(self::config(&self.credentials, &self.transport));
        // The URL holds the name that the certificate must have, which may be another's.
        config.set_dns_resolver(Fixed(remote));
        let endpoint = wtransport::Endpoint::client(config)?;
        let connection = endpoint.connect(self.url.as_str()).await?;
        Ok((endpoint, connection))
    }
}

impl std::fmt::Debug for WebDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebDialer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Resolves any name to an address that is known already.
#[derive(Debug)]
struct Fixed(SocketAddr);

impl DnsResolver for Fixed {
    fn resolve(&self, _: &str) -> Pin<Box<dyn DnsLookupFuture>> {
        let address = self.0;
        Box::pin(async move { Ok(Some(address)) })
    }
}
