//! TCP with TLS 1.3: a connection for each byte stream, whose peers may have to show a certificate.

use std::io;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::endpoint::Authority;
use crate::stream::accept::{Accepted, Socket};
use crate::stream::byte_stream::ByteStream;
use crate::stream::client_credentials::ClientCredentials;
use crate::stream::connection_slots::PeerKey;
use crate::stream::proof::{Proof, unreadable};
use crate::stream::server_credentials::InForce;
use crate::stream::tcp::{self, TcpSocket};
use crate::stream::tls_config::ClientTls;
use crate::{CodecError, Error, Identity};

/// A port that is listened on.
pub(crate) struct TlsSocket {
    tcp: TcpSocket,
    credentials: InForce,
}

impl TlsSocket {
    pub(crate) fn new(tcp: TcpSocket, credentials: InForce) -> Self {
        Self { tcp, credentials }
    }
}

impl Socket for TlsSocket {
    fn accept(&self) -> BoxFuture<'_, io::Result<Accepted>> {
        let accepted = async {
            let (tcp, address) = self.tcp.next().await?;
            let identity = Identity::of_address(address.ip());
            let credentials = Arc::clone(&self.credentials.borrow());
            let without_certificate = identity.clone();
            let handshake = async move {
                let stream = TlsAcceptor::from(Arc::clone(&credentials.tls)).accept(tcp).await?;
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let proof = match credentials.authenticate() {
                    true => Proof::of_chain(chain).ok_or_else(unreadable)?,
                    false => without_certificate.into(),
                };
                let (reader, writer) = tokio::io::split(stream);
                Ok((ByteStream::new(reader, writer), proof))
            };
            Ok(Accepted {
                key: PeerKey::of_address(address.ip()),
                identity,
                handshake: handshake.boxed(),
            })
        };
        accepted.boxed()
    }
}

/// Whom to call, and as whom.
#[derive(Debug)]
pub(crate) struct TlsDialer {
    at: Authority,
    name: ServerName<'static>,
    credentials: ClientCredentials<Arc<ClientConfig>>,
}

impl TlsDialer {
    /// `alpn` is the protocol that is spoken.
    pub(crate) fn new(at: &Authority, tls: &ClientTls, alpn: &'static [u8]) -> Result<Self, Error> {
        Ok(Self {
            at: at.clone(),
            name: server_name(tls.server_name.as_deref().unwrap_or_else(|| at.host()))?,
            credentials: ClientCredentials::new(tls, alpn, |config| Ok(Arc::new(config)))?,
        })
    }

    /// A new byte stream.
    pub(crate) async fn dial(&self) -> Result<ByteStream, CodecError> {
        let tcp = tcp::connect(&self.at).await?;
        let connector = TlsConnector::from(self.credentials.current());
        let (reader, writer) = tokio::io::split(connector.connect(self.name.clone(), tcp).await?);
        Ok(ByteStream::new(reader, writer))
    }
}

/// The name that a server's certificate must have.
pub(crate) fn server_name(name: &str) -> Result<ServerName<'static>, Error> {
    ServerName::try_from(name.to_owned()).map_err(|error| Error::Tls {
        what: format!("the server's name {name:?}"),
        source: error.into(),
    })
}
