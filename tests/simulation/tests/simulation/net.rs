//! Turmoil's TCP as the transport's network.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use fanout_transport::testing::{Network, NetworkListener, NetworkStream};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use turmoil::net::{TcpListener, TcpStream};

/// The simulated network.
#[derive(Debug)]
pub struct Simulated;

impl Network for Simulated {
    fn connect(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<NetworkStream>> {
        let to = (host.to_owned(), port);
        let connected = async move { Ok(stream(TcpStream::connect(to).await?)) };
        connected.boxed()
    }

    fn listen(&self, port: u16) -> BoxFuture<'static, io::Result<Box<dyn NetworkListener>>> {
        let bound = async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
            Ok(Box::new(Listening(listener, port)) as Box<dyn NetworkListener>)
        };
        bound.boxed()
    }
}

struct Listening(TcpListener, u16);

impl NetworkListener for Listening {
    fn accept(&self) -> BoxFuture<'_, io::Result<(NetworkStream, SocketAddr)>> {
        let accepted = async {
            let (connection, from) = self.0.accept().await?;
            Ok((stream(connection), from))
        };
        accepted.boxed()
    }

    fn port(&self) -> u16 {
        self.1
    }
}

fn stream(stream: TcpStream) -> NetworkStream {
    let (reader, writer) = stream.into_split();
    NetworkStream::new(reader, writer)
}
