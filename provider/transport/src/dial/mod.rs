//! Connecting to anything but the lattice: an endpoint becomes a byte stream.

mod credentials;
mod quic;
mod socket;

use std::error::Error as StdError;

use quic::{QuicDialer, WebDialer};
use socket::SocketDialer;

use crate::listen::stream::Stream;
use crate::tls::{self, ClientTls};
use crate::{CodecError, ConnectOptions, Dialect, Endpoint, Error};

/// What makes byte streams to one endpoint.
#[derive(Debug)]
pub(crate) struct Dialer {
    endpoint: Endpoint,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// A connection for each.
    Socket(SocketDialer),
    /// All on one connection, made anew when it is lost.
    Quic(QuicDialer),
    Web(WebDialer),
}

impl Dialer {
    pub(crate) fn new(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Self, Error> {
        let alpn: &[&[u8]] = match options.dialect {
            Dialect::Session => &[tls::ALPN_SESSION],
            // QUIC asks for one, and what our listeners call it is as good a name as any.
            Dialect::Stock => &[tls::ALPN_STOCK],
        };
        let tls = || -> Result<&ClientTls, Error> {
            options.tls.as_ref().ok_or_else(|| Error::Misused {
                endpoint: endpoint.clone(),
                why: "needs the authority of its certificate: set tls",
            })
        };
        let idle = options.idle_deadline;
        let way = match endpoint {
            Endpoint::Tcp(at) => Way::Socket(SocketDialer::tcp(at)),
            Endpoint::Unix(path) => Way::Socket(SocketDialer::unix(path)),
            Endpoint::Tls(at) => Way::Socket(SocketDialer::tls(at, tls()?, alpn)?),
            Endpoint::Quic(at) => Way::Quic(QuicDialer::new(at, tls()?, alpn, idle)?),
            Endpoint::WebTransport(at, path) => Way::Web(WebDialer::new(at, path, tls()?, idle)?),
            Endpoint::Nats { .. } => {
                return Err(Error::Misused {
                    endpoint: endpoint.clone(),
                    why: "is no byte stream",
                });
            }
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            way,
        })
    }

    pub(crate) fn unreachable(&self, error: impl Into<CodecError>) -> Error {
        Error::Unreachable {
            endpoint: self.endpoint.clone(),
            source: error.into(),
        }
    }

    /// What an error says that came before the server greeted.
    pub(crate) fn refusal(&self, error: CodecError) -> Error {
        let error_ref: &(dyn StdError + 'static) = &*error;
        match tls::rejection(error_ref) {
            Some(reason) => Error::Refused {
                endpoint: self.endpoint.clone(),
                reason,
            },
            None => self.unreachable(error),
        }
    }

    /// A new byte stream. The caller bounds its time.
    pub(crate) async fn stream(&self) -> Result<Stream, Error> {
        let stream = match &self.way {
            Way::Socket(dialer) => dialer.stream().await,
            Way::Quic(dialer) => dialer.stream().await,
            Way::Web(dialer) => dialer.stream().await,
        };
        stream.map_err(|error| self.refusal(error))
    }
}
