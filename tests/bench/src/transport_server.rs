//! The server of the transport bench: one echo on every transport, and the responder of the raw request.

use std::io::{Read as _, Write as _};

use anyhow::Result;
use async_nats::Client;
use bytes::Bytes;
use fanout_transport::{Caller, Endpoint, Lattice, ListenOptions, Listener, Options, Pem, Server, ServerTls, Service};
use futures::StreamExt as _;

/// In whose environment this stands is the server: the URL of NATS.
pub(crate) const SERVE: &str = "FANOUT_BENCH_SERVE";
/// Where raw requests go.
pub(crate) const RAW_SUBJECT: &str = "bench.raw";
/// Served by a closure.
pub(crate) const DIRECT: &str = "bench:direct/echo@0.1.0";
/// Served by generated bindings, each call in isolation.
pub(crate) const ISOLATED: &str = "bench:isolated/echo@0.1.0";
pub(crate) const FUNCTION: &str = "echo";
const PREFIX: &str = "bench.echo";

mod bindings {
    wit_bindgen_wrpc::generate!({
        inline: "
            package bench:isolated@0.1.0;
            interface echo { echo: func(body: list<u8>) -> list<u8>; }
            world server { export echo; }
        ",
        world: "server",
    });
}

#[derive(Clone)]
struct Echo;

impl bindings::exports::bench::isolated::echo::Handler<Caller> for Echo {
    async fn echo(&self, _: Caller, body: Bytes) -> Result<Bytes> {
        Ok(body)
    }
}

/// Serves until its input ends.
pub(crate) async fn run(nats: &str) -> Result<()> {
    let service = Service::new()
        .bindings(|port| async move { bindings::serve(port.as_ref(), Echo).await })
        .await?
        .direct(DIRECT, FUNCTION, |_, (body,): (Bytes,)| async move { Ok(body) });
    let client = async_nats::connect(nats).await?;
    let raw = tokio::spawn(respond(client.clone()));

    let lattice = Lattice::new(client, Options::default()).await?;
    let on_lattice = Server::new(&lattice, PREFIX);
    on_lattice.serve(&service).await?;
    writeln!(std::io::stdout(), "{nats}?target={PREFIX}")?;

    let options = ListenOptions {
        tls: Some(ServerTls {
            certificate: Pem::File("server.pem".into()),
            key: Pem::File("server.key".into()),
            client_ca: Some(Pem::File("ca.pem".into())),
            client_crl: None,
        }),
        ..ListenOptions::default()
    };
    let socket = format!("unix:{}", std::env::current_dir()?.join("bus.sock").display());
    let mut serving = Vec::new();
    for url in [
        socket.as_str(),
        "tcp://127.0.0.1:0",
        "tls://127.0.0.1:0",
        "quic://127.0.0.1:0",
        "webtransport://127.0.0.1:0",
    ] {
        let endpoint: Endpoint = url.parse()?;
        let listener = Listener::bind(&endpoint, options.clone()).await?;
        writeln!(std::io::stdout(), "{}", listener.local_endpoint())?;
        serving.push(listener.serve(&service));
    }
    writeln!(std::io::stdout())?;
    // Until the load program is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1])).await??;
    raw.abort();
    Ok(())
}

async fn respond(client: Client) -> Result<()> {
    let mut requests = client.subscribe(RAW_SUBJECT).await?;
    while let Some(request) = requests.next().await {
        if let Some(reply) = request.reply {
            client.publish(reply, request.payload).await?;
        }
    }
    Ok(())
}
