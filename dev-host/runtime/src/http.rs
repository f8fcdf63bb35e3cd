//! `wasi:http/incoming-handler` on an address of this machine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use crate::program::Program;

/// Connections at a time; one more waits to be accepted.
const CONNECTIONS: usize = 1_024;
/// How long a peer may take to send the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long the requests under way may take once the runtime ends.
const DRAIN: Duration = Duration::from_secs(10);
/// The pause after an accept that failed, for want of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The header of a W3C trace context.
const TRACEPARENT: &str = "traceparent";

type Body = HyperOutgoingBody;

/// A listening server.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
}

impl HttpServer {
    /// Listens on `address`, which is on this machine: whoever faces a network stands before it.
    ///
    /// # Errors
    /// When the address is not a loopback one, or is taken.
    pub async fn bind(address: SocketAddr) -> Result<Self> {
        if !address.ip().is_loopback() {
            bail!(
                "{address} is not an address of this machine alone: use 127.0.0.1, behind a server that faces the network"
            );
        }
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("can't listen on {address}"))?;
        let address = listener.local_addr().context("the listener has no address")?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until it is stopped, and then those under way.
    pub async fn serve(self, program: Arc<Program>, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let serving = serve_connection(stream, Arc::clone(&program), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        serving.await;
                    });
                }
                Err(error) => {
                    warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            warn!(connections = connections.len(), "requests were cut off");
        }
    }
}

async fn serve_connection(stream: TcpStream, program: Arc<Program>, stop: CancellationToken) {
    let service = hyper::service::service_fn(move |request| {
        let program = Arc::clone(&program);
        async move { Ok::<_, std::convert::Infallible>(respond(program, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke off");
    }
}

async fn respond(program: Arc<Program>, request: Request<Incoming>) -> Response<Body> {
    let deadline = program.deadline();
    let answered = tokio::time::timeout(deadline, answer(Arc::clone(&program), request)).await;
    let (status, reason) = match answered {
        Ok(Ok(response)) => return response.map(BodyExt::boxed_unsync),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        Err(_) => (
            StatusCode::GATEWAY_TIMEOUT,
            format!("it did not answer within {} ms", deadline.as_millis()),
        ),
    };
    warn!(component = program.surroundings().name, %status, reason, "a request was not answered by the component");
    let body = Full::new(Bytes::new()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response
}

/// The head of the component's answer; its body goes on while the component writes it.
async fn answer(program: Arc<Program>, request: Request<Incoming>) -> Result<Response<HyperOutgoingBody>> {
    let (sender, head) = oneshot::channel();
    let deadline = program.deadline();
    let handling = tokio::spawn(async move {
        let handled = async {
            let _place = program.place().await?;
            let pre = program
                .exports()
                .http
                .as_ref()
                .ok_or_else(|| wasmtime::format_err!("it exports no `incoming-handler`"))?;
            let traceparent = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok());
            let mut store = program.store(traceparent);
            let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
            let out = store.data_mut().http().new_response_outparam(sender)?;
            let proxy = pre.instantiate_async(&mut store).await?;
            let handler = proxy.wasi_http_incoming_handler();
            handler.call_handle(&mut store, request, out).await
        };
        match tokio::time::timeout(deadline, handled).await {
            Ok(handled) => handled.map_err(anyhow::Error::from),
            Err(_) => Err(anyhow!("it did not end within {} ms", deadline.as_millis())),
        }
    });
    match head.await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(code)) => Err(anyhow!("it answered with {code:?}")),
        // It ended without an answer: why, its task knows.
        Err(_) => match handling.await.context("the component's task was cut off")? {
            Ok(()) => Err(anyhow!("it ended without an answer")),
            Err(error) => Err(error),
        },
    }
}
