//! The lattice: NATS.

use std::sync::Mutex;
use std::time::Duration;

use fanout_transport::testing::NatsServer;
use fanout_transport::{
    ConnectOptions, Drained, Endpoint, Error, Identity, Lattice, ListenOptions, Options, Remote, Server, Service,
};
use futures::future::BoxFuture;

use crate::suite::{Served, Wire};
use crate::support::PREFIX;

pub(crate) struct OnLattice {
    nats: tokio::sync::OnceCell<NatsServer>,
    /// A server that was cut off may still be telling its callers, on a busy machine.
    lattices: Mutex<Vec<Lattice>>,
}

impl OnLattice {
    pub(crate) fn new() -> Self {
        Self {
            nats: tokio::sync::OnceCell::new(),
            lattices: Mutex::default(),
        }
    }

    async fn nats(&self) -> &NatsServer {
        self.nats.get_or_init(NatsServer::start).await
    }
}

impl Wire for OnLattice {
    async fn serve(&self, service: &Service, options: ListenOptions) -> Box<dyn Served> {
        let nats = self.nats().await.client().await;
        let lattice = Lattice::new(nats, options.limits).await.expect("a lattice");
        let server = Server::new(&lattice, PREFIX);
        self.lattices.lock().expect("no test panics with it").push(lattice);
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
