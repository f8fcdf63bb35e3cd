//! A connection for each byte stream: TCP, TLS, WebSocket and Unix.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use wrpc_websockets::ClientBuilder;

use crate::endpoint::{Authority, UrlPath};
use crate::listen::socket::Raw;
use crate::listen::stream::Stream;
use crate::tls::{self, ClientTls};
use crate::{CodecError, Error, websocket};

/// What connects sockets.
pub(crate) struct SocketDialer {
    to: To,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    web: Option<http::Uri>,
}

#[derive(Clone, Debug)]
enum To {
    Tcp(Authority),
    Unix(PathBuf),
}

impl SocketDialer {
    fn new(to: To) -> Self {
        Self {
            to,
            tls: None,
            web: None,
        }
    }

    pub(crate) fn tcp(at: &Authority) -> Self {
        Self::new(To::Tcp(at.clone()))
    }

    pub(crate) fn unix(path: &Path) -> Self {
        Self::new(To::Unix(path.to_owned()))
    }

    fn host(&self) -> &str {
        match &self.to {
            To::Tcp(at) => at.host(),
            To::Unix(_) => "localhost",
        }
    }

    pub(crate) fn with_tls(mut self, tls: &ClientTls, alpn: &[&[u8]]) -> Result<Self, Error> {
        let config = tls::client(tls, alpn)?;
        let name = server_name(tls.server_name.as_deref().unwrap_or_else(|| self.host()))?;
        self.tls = Some((TlsConnector::from(Arc::new(config)), name));
        Ok(self)
    }

    pub(crate) fn with_web(mut self, scheme: &str, path: &UrlPath) -> Result<Self, Error> {
        let To::Tcp(at) = &self.to else {
            return Err(Error::Unsupported("WebSocket on a Unix socket"));
        };
        let uri = format!("{scheme}://{at}{}", path.as_str());
        self.web = Some(http::Uri::from_str(&uri).map_err(|error| Error::Encode(error.into()))?);
        Ok(self)
    }

    pub(crate) async fn stream(&self) -> Result<Stream, CodecError> {
        let at = match &self.to {
            To::Unix(path) => return Ok(Raw::Unix(UnixStream::connect(path).await?).into()),
            To::Tcp(at) => at,
        };
        let tcp = TcpStream::connect((at.host(), at.port())).await?;
        // Calls are gathered into writes here already.
        tcp.set_nodelay(true)?;
        match (&self.tls, &self.web) {
            (None, None) => Ok(Raw::Tcp(tcp).into()),
            (None, Some(uri)) => web(uri, tcp).await,
            (Some((connector, name)), web_uri) => {
                let tls = connector.connect(name.clone(), tcp).await?;
                match web_uri {
                    Some(uri) => web(uri, tls).await,
                    None => Ok(Stream::of(tls)),
                }
            }
        }
    }
}

async fn web<T>(uri: &http::Uri, stream: T) -> Result<Stream, CodecError>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let builder = ClientBuilder::from_uri(uri.clone()).limits(websocket::limits());
    let (socket, _) = builder.connect_on(stream).await?;
    Ok(websocket::stream(socket))
}

/// The name that a server's certificate must have.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|error| Error::Tls {
        what: format!("the server's name {name:?}"),
        source: error.into(),
    })
}

impl fmt::Debug for SocketDialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketDialer")
            .field("to", &self.to)
            .field("tls", &self.tls.is_some())
            .field("web", &self.web)
            .finish()
    }
}
