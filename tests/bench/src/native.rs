//! What a webhook costs at least: a native program of axum and async-nats, a process of its own. It verifies with the library
//! that the ingress is made of, stores each event with its attributes and an id, and answers with 200 once the store has it.
//! It asks nobody who may publish what, keeps no quotas, and no log of its own.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_service::Service as _;
use webhook_signature::Scheme;
use webhook_source::{Event, Source, Webhook, samples};

use crate::world::subject;

/// In whose environment this stands is the program: the URL of NATS.
pub(crate) const NATIVE: &str = "FANOUT_BENCH_NATIVE";
/// What the kernel calls its process, so that its processor time is told from the load program's.
pub(crate) const PROCESS: &str = "native-ingress";

struct Ingress {
    source: Source,
    js: jetstream::Context,
}

/// Serves until its input ends.
pub(crate) async fn run(nats: &str) -> Result<()> {
    std::fs::write("/proc/self/comm", PROCESS).context("take a name")?;
    let ingress = Arc::new(Ingress {
        source: samples::of(Scheme::Stripe).source(&[]),
        js: jetstream::new(async_nats::connect(nats).await?),
    });
    let router = Router::new().route("/webhooks/stripe", post(taken)).with_state(ingress);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    let serving = tokio::spawn(serve(listener, router));
    // Until the load program is gone.
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0; 1])).await??;
    serving.abort();
    Ok(())
}

async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // As axum's own server sets it.
        stream.set_nodelay(true).ok();
        let router = router.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let mut router = router.clone();
                async move { router.call(request).await }
            });
            // Connections end with the load program.
            http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .unwrap_or_default();
        });
    }
}

async fn taken(
    State(ingress): State<Arc<Ingress>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, String), Infallible> {
    let stored = ingress.store(&headers, &body).await;
    Ok(match stored {
        Ok(answer) => (StatusCode::OK, answer),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")),
    })
}

impl Ingress {
    async fn store(&self, headers: &HeaderMap, body: &[u8]) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let webhook = Webhook {
            path_tenant: None,
            headers,
            body,
        };
        let events = self.source.events(webhook, i64::try_from(now)?);
        let events = events.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let mut receipts = Vec::with_capacity(events.len());
        for event in events {
            let acknowledged = self
                .js
                .send_publish(subject(&event.tenant), message(event))
                .await?
                .await?;
            receipts.push(json!({ "offset": acknowledged.sequence, "duplicate": acknowledged.duplicate }));
        }
        Ok(json!({ "receipts": receipts }).to_string())
    }
}

fn message(event: Event) -> PublishMessage {
    let Event {
        tenant,
        event_type,
        id,
        source,
        data,
        ..
    } = event;
    PublishMessage::build()
        .header("ce-specversion", "1.0")
        .header("ce-id", id.as_str())
        .header("ce-source", source.as_str())
        .header("ce-type", event_type.as_str())
        .header("ce-tenant", tenant.as_str())
        .message_id(format!("{tenant}/{source}/{id}"))
        .payload(data.into())
}

/// The program, a process of its own; ended on drop.
pub(crate) struct Native {
    process: Child,
    /// Where it answers.
    pub(crate) address: String,
}

impl Native {
    pub(crate) fn start(nats: &str) -> Result<Self> {
        let process = Command::new(std::env::current_exe()?)
            .env(NATIVE, nats)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut native = Self {
            process,
            address: String::new(),
        };
        let stdout = native.process.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut native.address)?;
        native.address.truncate(native.address.trim_end().len());
        ensure!(!native.address.is_empty(), "the native program ended before it served");
        Ok(native)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
    }
}
