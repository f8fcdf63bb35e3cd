//! Calls an endpoint that is a byte stream.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::time::Duration;

use crate::endpoint::Authority;
use crate::stream::byte_stream::ByteStream;
use crate::stream::quic::QuicDialer;
use crate::stream::rejection::rejection;
use crate::stream::tls::TlsDialer;
use crate::stream::tls_config::{ALPN_HTTP, ALPN_SESSION, ClientTls};
use crate::stream::webtransport::WebDialer;
use crate::stream::{tcp, unix};
use crate::{CodecError, Endpoint, Error};

/// What makes byte streams to one endpoint, each on a connection of its own.
#[derive(Debug)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    via: Via,
}

/// The transport of a dialer, with what its dial needs.
#[derive(Debug)]
enum Via {
    Tcp(Authority),
    Tls(TlsDialer),
    Unix(PathBuf),
    Quic(QuicDialer),
    WebTransport(WebDialer),
}

impl Dialer {
    /// A connection without a sign of life from its server for `idle` is given up.
    pub(crate) fn new(endpoint: &Endpoint, tls: Option<&ClientTls>, idle: Duration) -> Result<Self, Error> {
        let misused = |why| Error::Misused {
            endpoint: endpoint.clone(),
            why,
        };
        let tls = || tls.ok_or_else(|| misused("needs the authority of its certificate: set tls"));
        let via = match endpoint {
            Endpoint::Tcp(at) | Endpoint::Http(at) => Via::Tcp(at.clone()),
            Endpoint::Tls(at) => Via::Tls(TlsDialer::new(at, tls()?, ALPN_SESSION)?),
            Endpoint::Https(at) => Via::Tls(TlsDialer::new(at, tls()?, ALPN_HTTP)?),
            Endpoint::Unix(path) => Via::Unix(path.clone()),
            Endpoint::Quic(at) => Via::Quic(QuicDialer::new(at, tls()?, ALPN_SESSION, idle, false)?),
            Endpoint::WebTransport(at, path) => Via::WebTransport(WebDialer::new(at, path, tls()?, idle)?),
            Endpoint::Nats { .. } => return Err(misused("is no byte stream")),
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            via,
        })
    }

    pub(crate) fn unreachable(&self, error: impl Into<CodecError>) -> Error {
        Error::Unreachable {
            endpoint: self.endpoint.clone(),
            source: error.into(),
        }
    }

    /// The meaning of an error that came before the server greeted.
    pub(crate) fn refusal(&self, error: CodecError) -> Error {
        let error_ref: &(dyn StdError + 'static) = &*error;
        match rejection(error_ref) {
            Some(reason) => Error::Refused {
                endpoint: self.endpoint.clone(),
                reason,
            },
            None => self.unreachable(error),
        }
    }

    /// A new byte stream. The caller bounds its time.
    pub(crate) async fn dial(&self) -> Result<ByteStream, Error> {
        let stream = match &self.via {
            Via::Tcp(at) => tcp::dial(at).await.map_err(Into::into),
            Via::Unix(path) => unix::dial(path).await.map_err(Into::into),
            Via::Tls(dialer) => dialer.dial().await,
            Via::Quic(dialer) => dialer.dial().await,
            Via::WebTransport(dialer) => dialer.dial().await,
        };
        stream.map_err(|error| self.refusal(error))
    }
}
