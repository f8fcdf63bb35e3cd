//! A connection for each byte stream: TCP, TLS and Unix.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::dial::credentials::{self, Credentials};
use crate::endpoint::Authority;
use crate::listen::socket::Raw;
use crate::listen::stream::Stream;
use crate::tls::ClientTls;
use crate::{CodecError, Error};

/// What connects sockets.
#[derive(Debug)]
pub(crate) struct SocketDialer {
    to: To,
    tls: Option<(Credentials<Arc<ClientConfig>>, ServerName<'static>)>,
}

#[derive(Clone, Debug)]
enum To {
    Tcp(Authority),
    Unix(PathBuf),
}

impl SocketDialer {
    pub(crate) fn tcp(at: &Authority) -> Self {
        Self {
            to: To::Tcp(at.clone()),
            tls: None,
        }
    }

    pub(crate) fn unix(path: &Path) -> Self {
        Self {
            to: To::Unix(path.to_owned()),
            tls: None,
        }
    }

    pub(crate) fn tls(at: &Authority, tls: &ClientTls, alpn: &[&[u8]]) -> Result<Self, Error> {
        let credentials = Credentials::new(tls, alpn, credentials::for_socket)?;
        let name = server_name(tls.server_name.as_deref().unwrap_or_else(|| at.host()))?;
        Ok(Self {
            to: To::Tcp(at.clone()),
            tls: Some((credentials, name)),
        })
    }

    pub(crate) async fn stream(&self) -> Result<Stream, CodecError> {
        let at = match &self.to {
            To::Unix(path) => return Ok(Raw::Unix(UnixStream::connect(path).await?).into()),
            To::Tcp(at) => at,
        };
        let tcp = TcpStream::connect((at.host(), at.port())).await?;
        // Calls are gathered into writes here already.
        tcp.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Raw::Tcp(tcp).into()),
            Some((credentials, name)) => {
                let connector = TlsConnector::from(credentials.current());
                Ok(Stream::of(connector.connect(name.clone(), tcp).await?))
            }
        }
    }
}

/// The name that a server's certificate must have.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|error| Error::Tls {
        what: format!("the server's name {name:?}"),
        source: error.into(),
    })
}
