//! WebTransport: many byte streams on one connection of HTTP/3, where only that passes.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use quinn::{Connecting, Connection};
use wtransport::config::{DnsLookupFuture, DnsResolver};
use wtransport::endpoint::IncomingSessionFuture;
use wtransport::tls::WEBTRANSPORT_ALPN;
use wtransport::{RecvStream, SendStream};

use crate::endpoint::{Authority, UrlPath};
use crate::stream::byte_stream::ByteStream;
use crate::stream::multiplexed::{Multiplexed, Protocol};
use crate::stream::quic::{QuicDialer, any_port_towards};
use crate::stream::tcp::resolve;
use crate::stream::tls_config::ClientTls;
use crate::{CodecError, Error};

/// A session of HTTP/3 on one path, then byte streams.
#[derive(Clone, Debug)]
pub(crate) struct WebTransport(pub(crate) UrlPath);

impl Protocol for WebTransport {
    type Connection = wtransport::Connection;
    const ALPNS: &'static [&'static [u8]] = &[WEBTRANSPORT_ALPN];
    const HTTP: bool = true;

    async fn handshake(self, connecting: Connecting) -> Result<wtransport::Connection, CodecError> {
        let request = IncomingSessionFuture::with_quic_connecting(connecting).await?;
        if request.path() != self.0.as_str() {
            request.not_found().await;
            return Err("nothing is served on its path".into());
        }
        // A page in a browser calls on behalf of whoever looks at it, and with that person's certificate.
        if request.origin().is_some() {
            request.forbidden().await;
            return Err("a page in a browser is not served".into());
        }
        Ok(request.accept().await?)
    }
}

impl Multiplexed for wtransport::Connection {
    fn quic(&self) -> &Connection {
        self.quic_connection()
    }

    async fn accept(&self) -> Option<ByteStream> {
        let (writer, reader) = self.accept_bi().await.ok()?;
        Some(stream(writer, reader))
    }
}

fn stream(writer: SendStream, reader: RecvStream) -> ByteStream {
    let stopped = writer.quic_stream().stopped();
    ByteStream::new(reader, writer).delivered_when(async move { drop(stopped.await) })
}

/// Whom to call, and as whom.
#[derive(Debug)]
pub(crate) struct WebDialer {
    quic: QuicDialer,
    /// The URL holds the name that the certificate must have, which may be another's than the host's.
    url: String,
}

impl WebDialer {
    pub(crate) fn new(at: &Authority, path: &UrlPath, tls: &ClientTls, idle: Duration) -> Result<Self, Error> {
        let quic = QuicDialer::new(at, tls, WEBTRANSPORT_ALPN, idle, true)?;
        let url = format!("https://{}{}", Authority::new(&*quic.name, at.port()), path.as_str());
        Ok(Self { quic, url })
    }

    /// A new byte stream, on a connection of its own.
    pub(crate) async fn dial(&self) -> Result<ByteStream, CodecError> {
        let remote = resolve(&self.quic.at).await?;
        let mut config = wtransport::ClientConfig::builder()
            .with_bind_address(any_port_towards(remote))
            .build_with_quic_config(self.quic.config());
        config.set_dns_resolver(Fixed(remote));
        let endpoint = wtransport::Endpoint::client(config)?;
        let connection = endpoint.connect(self.url.as_str()).await?;
        let opened = async { Ok::<_, CodecError>(connection.open_bi().await?.await?) };
        match opened.await {
            Ok((writer, reader)) => Ok(stream(writer, reader).on((connection, endpoint))),
            // The reason is known to QUIC.
            Err(error) => Err(match connection.quic_connection().close_reason() {
                Some(reason) => reason.into(),
                None => error,
            }),
        }
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
