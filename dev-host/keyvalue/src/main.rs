//! wasi:keyvalue on NATS for the demo and the tests; production links the official provider, which is an image only.
//!
//! A wasmCloud v1 capability provider: the SDK speaks with the host, `fanout-transport` with the components. It serves
//! `wrpc:keyvalue` to every caller on the lattice, linked or not, and keeps each bucket in a JetStream KV bucket of the
//! lattice's own NATS.

mod functions;
mod key;
mod store;

use std::os::unix::process::parent_id;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::jetstream;
use fanout_transport::{Access, Lattice, Options, Server, connect};
use tracing_subscriber::EnvFilter;
use wasmcloud_provider_sdk::{Provider, get_connection, load_host_data, run_provider};

const NAME: &str = "fanout-dev-keyvalue";
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const PARENT_CHECK: Duration = Duration::from_secs(1);

/// Nothing depends on links or configuration.
struct Control;

impl Provider for Control {}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,async_nats=warn".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .init();
    let parent = parent_id();
    // Read here first, and its error dropped: that of the SDK has the whole text in it, seed and all.
    let host = tokio::task::spawn_blocking(load_host_data)
        .await?
        .map_err(|_| anyhow!("the host's data can't be read"))?;
    let shutdown = run_provider(Control, NAME).await.context("the provider can't start")?;
    let access = Access {
        urls: host.lattice_rpc_url.clone(),
        user_jwt: host.lattice_rpc_user_jwt.clone(),
        user_seed: host.lattice_rpc_user_seed.clone(),
        ..Access::default()
    };
    let nats = connect(&access, NAME).await?;
    let buckets = store::Buckets::new(jetstream::new(nats.clone()));
    let lattice = Lattice::new(nats, Options::default()).await?;
    let connection = get_connection();
    let server = Server::new(
        &lattice,
        &format!("{}.{}", connection.lattice, connection.provider_key()),
    );
    functions::serve(&server, &buckets).await?;
    tracing::info!("serving");
    tokio::select! {
        () = shutdown => {}
        () = orphaned(parent) => tracing::warn!("the host is gone"),
    }
    server.drain(DRAIN_DEADLINE).await;
    Ok(())
}

/// A host that is killed leaves its providers behind.
async fn orphaned(parent: u32) {
    while parent_id() == parent {
        tokio::time::sleep(PARENT_CHECK).await;
    }
}
