//! What the integration tests share: the world of one function, a handler, servers and clients of both kinds.

#![allow(dead_code, unreachable_pub, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{Caller, Client, Lattice, Options, Server, Service};
use futures::StreamExt as _;
use tokio::sync::Semaphore;

pub const INSTANCE: &str = "test:echo/echo@0.1.0";
pub const PREFIX: &str = "lat.echo";
/// No test waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub mod bindings {
    wit_bindgen_wrpc::generate!({
        inline: "
            package test:echo@0.1.0;
            interface echo {
                length: func(text: string, body: list<u8>) -> result<u64, string>;
                bytes: func(length: u32) -> list<u8>;
                who: func() -> tuple<string, string, option<string>>;
                poke: func();
            }
            world both { import echo; export echo; }
        ",
        world: "both",
    });
}

pub mod stock {
    stock_wit_bindgen_wrpc::generate!({
        inline: "
            package test:echo@0.1.0;
            interface echo {
                length: func(text: string, body: list<u8>) -> result<u64, string>;
                bytes: func(length: u32) -> list<u8>;
                who: func() -> tuple<string, string, option<string>>;
                poke: func();
            }
            world both { import echo; export echo; }
        ",
        world: "both",
        anyhow_path: "::stock_wit_bindgen_wrpc::anyhow",
        bytes_path: "::stock_wit_bindgen_wrpc::bytes",
        futures_path: "::stock_wit_bindgen_wrpc::futures",
        tokio_path: "::stock_wit_bindgen_wrpc::tokio",
        tokio_util_path: "::stock_wit_bindgen_wrpc::tokio_util",
        tracing_path: "::stock_wit_bindgen_wrpc::tracing",
        wasm_tokio_path: "::stock_wit_bindgen_wrpc::wasm_tokio",
        wrpc_transport_path: "::stock_wit_bindgen_wrpc::wrpc_transport",
    });
}

/// `length` with the text "gate" waits for a permit of the gate; "fail" fails, "panic" panics.
#[derive(Clone)]
pub struct Echo {
    pub gate: Arc<Semaphore>,
    pub started: Arc<Semaphore>,
}

impl Default for Echo {
    fn default() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            started: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Echo {
    pub async fn length(&self, text: &str, body: &[u8]) -> anyhow::Result<Result<u64, String>> {
        self.started.add_permits(1);
        match text {
            "gate" => self.gate.acquire().await?.forget(),
            "fail" => anyhow::bail!("the handler does not want to"),
            "panic" => panic!("as the test asks"),
            "refuse" => return Ok(Err("no".into())),
            _ => {}
        }
        Ok(Ok(body.len() as u64))
    }

    /// Waits until `n` more calls of `length` have begun.
    pub async fn begun(&self, n: u32) {
        let permit = tokio::time::timeout(PATIENCE, self.started.acquire_many(n)).await;
        permit.expect("the calls begin").expect("an open semaphore").forget();
    }
}

impl bindings::exports::test::echo::echo::Handler<Caller> for Echo {
    async fn length(&self, _: Caller, text: String, body: Bytes) -> anyhow::Result<Result<u64, String>> {
        Self::length(self, &text, &body).await
    }
    async fn bytes(&self, _: Caller, length: u32) -> anyhow::Result<Bytes> {
        Ok(vec![7; length as usize].into())
    }
    async fn who(&self, cx: Caller) -> anyhow::Result<(String, String, Option<String>)> {
        Ok((cx.component, cx.link, cx.traceparent))
    }
    async fn poke(&self, _: Caller) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<C: Send + 'static> stock::exports::test::echo::echo::Handler<C> for Echo {
    async fn length(&self, _: C, text: String, body: Bytes) -> anyhow::Result<Result<u64, String>> {
        Self::length(self, &text, &body).await
    }
    async fn bytes(&self, _: C, length: u32) -> anyhow::Result<Bytes> {
        Ok(vec![7; length as usize].into())
    }
    async fn who(&self, _: C) -> anyhow::Result<(String, String, Option<String>)> {
        Ok(Default::default())
    }
    async fn poke(&self, _: C) -> anyhow::Result<()> {
        Ok(())
    }
}

pub async fn lattice(nats: &NatsServer, options: Options) -> Lattice {
    Lattice::new(nats.client().await, options).await.expect("a lattice")
}

/// All functions in isolation, by generated bindings.
pub async fn isolated(echo: &Echo) -> Service {
    let echo = echo.clone();
    Service::new()
        .bindings(move |port| {
            let echo = echo.clone();
            async move { bindings::serve(port.as_ref(), echo).await }
        })
        .await
        .expect("the functions can be served")
}

/// `length` and `bytes` on the direct path.
pub fn direct(echo: &Echo) -> Service {
    let echo = echo.clone();
    Service::new()
        .direct(INSTANCE, "length", move |_, (text, body): (String, Bytes)| {
            let echo = echo.clone();
            async move { echo.length(&text, &body).await }
        })
        .direct(INSTANCE, "bytes", |_, (length,): (u32,)| async move {
            Ok(Bytes::from(vec![7; length as usize]))
        })
}

pub async fn serve_on(lattice: &Lattice, service: &Service) -> Server {
    let server = Server::new(lattice, PREFIX);
    server.serve(service).await.expect("the functions are served");
    server
}

/// Serves all functions in isolation.
pub async fn serve(lattice: &Lattice, echo: &Echo) -> Server {
    serve_on(lattice, &isolated(echo).await).await
}

/// Serves `length` and `bytes` on the direct path.
pub async fn serve_direct(lattice: &Lattice, echo: &Echo) -> Server {
    serve_on(lattice, &direct(echo)).await
}

pub fn client(lattice: &Lattice) -> Client {
    Client::new(lattice, PREFIX, "tester")
}

pub async fn stock_nats(nats: &NatsServer) -> Arc<stock_async_nats::Client> {
    let client = stock_async_nats::connect(nats.address()).await.expect("a connection");
    Arc::new(client)
}

/// The client that a wasmCloud v1 host makes for each call.
pub async fn stock_client(nats: &Arc<stock_async_nats::Client>) -> stock_wrpc_transport_nats::Client {
    stock_wrpc_transport_nats::Client::new(Arc::clone(nats), PREFIX, None)
        .await
        .expect("a stock client")
}

/// Serves the functions as a wasmCloud v1 host does.
pub async fn stock_server(nats: &NatsServer, echo: Echo) {
    let nats = stock_nats(nats).await;
    let server = stock_wrpc_transport_nats::Client::new(Arc::clone(&nats), PREFIX, Some(PREFIX.into())).await;
    let server = server.expect("a stock server");
    let functions = stock::serve(&server, echo).await.expect("served");
    for (_, _, mut invocations) in functions {
        let server = server.clone();
        tokio::spawn(async move {
            while let Some(invocation) = invocations.next().await {
                if let Ok(invocation) = invocation {
                    tokio::spawn(invocation);
                }
            }
            drop(server);
        });
    }
    nats.flush().await.expect("flushed");
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// As [`eventually`], for what has to be awaited.
pub async fn eventually_async(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
