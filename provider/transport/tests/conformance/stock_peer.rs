//! A peer that speaks stock wRPC, by wRPC's own client: whom every listener serves beside callers of this crate.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use fanout_transport::testing::{TestAuthority, TestNames};
use fanout_transport::{Endpoint, Serving};
use http::Uri;
use hyper_util::client::legacy::{self, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use quinn::crypto::rustls::QuicClientConfig;
use tokio::io::BufReader;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use wrpc_transport::Invoke;
use wrpc_transport::frame::{Incoming, Outgoing, invoke};

use crate::windows::trusting_as;

/// What such a peer names on `tls` and `quic`.
const ALPN: &[u8] = b"wrpc";

/// A caller of one server. Each call has a byte stream to itself.
pub(crate) enum StockPeer {
    Tcp(String),
    Unix(PathBuf),
    Tls(String, TlsConnector),
    Quic {
        /// It lives as long as its connection.
        _endpoint: quinn::Endpoint,
        connection: quinn::Connection,
    },
    Http(Box<Http>, Uri),
}

/// wRPC's own client on hyper's, which keeps connections.
type Http = wrpc_http::Client<legacy::Client<HttpConnector, wrpc_http::OutgoingBody>>;

impl StockPeer {
    /// A caller whose certificate has these names, where its server asks for one.
    pub(crate) async fn connect(server: &Serving, authority: &TestAuthority, names: &TestNames<'_>) -> Self {
        let endpoint = server.local_endpoint();
        let at = endpoint.authority().map(ToString::to_string).unwrap_or_default();
        let config = trusting_as(authority, authority.issue(names), ALPN);
        match endpoint {
            Endpoint::Tcp(_) => Self::Tcp(at),
            Endpoint::Unix(path) => Self::Unix(path.clone()),
            Endpoint::Tls(_) => Self::Tls(at, TlsConnector::from(Arc::new(config))),
            Endpoint::Quic(_) => {
                let config = QuicClientConfig::try_from(config).expect("for QUIC");
                let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a port");
                endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
                let connecting = endpoint.connect(at.parse().expect("an address"), "localhost");
                let connection = connecting.expect("it can be tried").await.expect("it is taken");
                Self::Quic {
                    _endpoint: endpoint,
                    connection,
                }
            }
            Endpoint::Http(_) => {
                let client = legacy::Client::builder(TokioExecutor::new()).build_http();
                let uri = format!("http://{at}/").parse().expect("a URI");
                Self::Http(Box::new(wrpc_http::Client::from(client)), uri)
            }
            other => panic!("no stock peer speaks {other}"),
        }
    }
}

impl Invoke for StockPeer {
    type Context = ();

    async fn invoke<P>(
        &self,
        (): (),
        instance: &str,
        func: &str,
        params: Bytes,
        paths: impl AsRef<[P]> + Send,
    ) -> anyhow::Result<(Outgoing, Incoming)>
    where
        P: AsRef<[Option<usize>]> + Send + Sync,
    {
        match self {
            Self::Tcp(at) => {
                let (rx, tx) = TcpStream::connect(at).await?.into_split();
                invoke(tx, BufReader::new(rx), instance, func, params, paths).await
            }
            Self::Unix(path) => {
                let (rx, tx) = UnixStream::connect(path).await?.into_split();
                invoke(tx, BufReader::new(rx), instance, func, params, paths).await
            }
            Self::Tls(at, connector) => {
                let tcp = TcpStream::connect(at).await?;
                let (rx, tx) = tokio::io::split(connector.connect("localhost".try_into()?, tcp).await?);
                invoke(tx, BufReader::new(rx), instance, func, params, paths).await
            }
            Self::Quic { connection, .. } => {
                let (tx, rx) = connection.open_bi().await?;
                invoke(tx, BufReader::new(rx), instance, func, params, paths).await
            }
            Self::Http(client, uri) => {
                let request = http::Request::post(uri.clone()).body(())?;
                let (context, ()) = request.into_parts();
                client.invoke(context, instance, func, params, paths).await
            }
        }
    }
}
