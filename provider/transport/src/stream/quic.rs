//! QUIC: many byte streams on one connection of UDP, with TLS 1.3.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connecting, Connection, RecvStream, SendStream, TransportConfig};

use crate::endpoint::Authority;
use crate::stream::byte_stream::ByteStream;
use crate::stream::client_credentials::ClientCredentials;
use crate::stream::multiplexed::{Multiplexed, Protocol};
use crate::stream::quic_limits::{self, Side};
use crate::stream::tcp::resolve;
use crate::stream::tls::server_name;
use crate::stream::tls_config::{ALPNS, ClientTls};
use crate::{CodecError, Error};

/// Byte streams from the beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quic;

impl Protocol for Quic {
    type Connection = Connection;
    const ALPNS: &'static [&'static [u8]] = &ALPNS;
    const HTTP: bool = false;

    async fn handshake(self, connecting: Connecting) -> Result<Connection, CodecError> {
        Ok(connecting.await?)
    }
}

impl Multiplexed for Connection {
    fn quic(&self) -> &Connection {
        self
    }

    async fn accept(&self) -> Option<ByteStream> {
        let (writer, reader) = self.accept_bi().await.ok()?;
        Some(stream(writer, reader))
    }
}

fn stream(writer: SendStream, reader: RecvStream) -> ByteStream {
    let stopped = writer.stopped();
    ByteStream::new(reader, writer).delivered_when(async move { drop(stopped.await) })
}

/// Whom to call, and as whom.
#[derive(Debug)]
pub(crate) struct QuicDialer {
    pub(crate) at: Authority,
    /// What the server's certificate has to be of.
    pub(crate) name: String,
    credentials: ClientCredentials<Arc<QuicClientConfig>>,
    transport: Arc<TransportConfig>,
}

impl QuicDialer {
    /// Names `alpn` to its server. A connection without a sign of life for `idle` is given up.
    pub(crate) fn new(
        at: &Authority,
        tls: &ClientTls,
        alpn: &'static [u8],
        idle: Duration,
        http: bool,
    ) -> Result<Self, Error> {
        let name = tls.server_name.as_deref().unwrap_or(at.host());
        server_name(name)?;
        Ok(Self {
            at: at.clone(),
            name: name.to_owned(),
            credentials: ClientCredentials::new(tls, alpn, |config| Ok(Arc::new(QuicClientConfig::try_from(config)?)))?,
            transport: Arc::new(quic_limits::transport(Side::Client, idle, http)),
        })
    }

    /// For one connection.
    pub(crate) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new(self.credentials.current());
        config.transport_config(Arc::clone(&self.transport));
        config
    }

    /// A new byte stream, on a connection of its own.
    pub(crate) async fn dial(&self) -> Result<ByteStream, CodecError> {
        let remote = resolve(&self.at).await?;
        let endpoint = quinn::Endpoint::client(any_port_towards(remote))?;
        let connection = endpoint.connect_with(self.config(), remote, &self.name)?.await?;
        let (writer, reader) = connection.open_bi().await?;
        Ok(stream(writer, reader).on((connection, endpoint)))
    }
}

/// Any port of this machine, of the same family.
pub(crate) fn any_port_towards(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}
