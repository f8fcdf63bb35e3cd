//! The lattice: NATS.

use std::time::Duration;

use fanout_transport::testing::NatsServer;
use fanout_transport::{
    ConnectOptions, Drained, Endpoint, Error, Identity, Lattice, ListenOptions, Options, Remote, Server, Service,
};
use futures::future::BoxFuture;

use crate::suite::{Served, Wire};
use crate::support::PREFIX;

pub(crate) struct OnLattice(tokio::sync::OnceCell<NatsServer>);

impl OnLattice {
    pub(crate) fn new() -> Self {
        Self(tokio::sync::OnceCell::new())
    }

    async fn nats(&self) -> &NatsServer {
        self.0.get_or_init(NatsServer::start).await
    }
}

impl Wire for OnLattice {
    async fn serve(&self, service: &Service, options: ListenOptions) -> Box<dyn Served> {
        let nats = self.nats().await.client().await;
        let lattice = Lattice::new(nats, options.limits).await.expect("a lattice");
        let server = Server::new(&lattice, PREFIX);
        server.serve(service).await.expect("the functions are served");
        Box::new(server)
    }

    async fn call(&self, limits: Options) -> Result<Remote, Error> {
        let endpoint: Endpoint = format!("{}?target={PREFIX}", self.nats().await.url()).parse()?;
        let options = ConnectOptions {
            limits,
            ..ConnectOptions::default()
        };
        Remote::connect(&endpoint, options).await
    }

    fn identity(&self) -> Identity {
        Identity::Lattice
    }
}

impl Served for Server {
    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
    fn drain(self: Box<Self>, within: Duration) -> BoxFuture<'static, Drained> {
        Box::pin(Self::drain(*self, within))
    }
}
