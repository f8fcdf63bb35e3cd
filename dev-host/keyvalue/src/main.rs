//! wasi:keyvalue on NATS for the demo and the tests; production links the official provider, which is an image only.
//!
//! A wasmCloud v1 capability provider: `fanout-transport` speaks with the host and with the components. Nothing depends on
//! links or configuration: it serves `wrpc:keyvalue` to every caller on the lattice, linked or not, and keeps each bucket in a JetStream KV bucket of the
//! lattice's own NATS.

mod functions;
mod key;
mod store;

use std::os::unix::process::parent_id;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream;
use fanout_transport::{Access, HostControl, HostIds, Lattice, Options, Server, connect};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use wasmcloud_provider_sdk::load_host_data;

const NAME: &str = "fanout-dev-keyvalue";
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
const PARENT_CHECK: Duration = Duration::from_secs(1);

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
    // Its end is watched from here on, whatever is waited for.
    tokio::select! {
        served = serve() => served,
        () = orphaned(parent) => {
            tracing::warn!("the host is gone");
            Ok(())
        }
    }
}

async fn serve() -> anyhow::Result<()> {
    let (read, data) = oneshot::channel();
    // A thread of its own: what it reads may never come, and must not keep the process there.
    std::thread::spawn(move || {
        // Its error is dropped: that of the SDK has the whole text in it, seed and all.
        read.send(load_host_data().map_err(drop)).ok();
    });
    let host = data.await.ok().and_then(Result::ok);
    let host = host.context("the host's data can't be read")?;
    let access = Access {
        urls: host.lattice_rpc_url.clone(),
        user_jwt: host.lattice_rpc_user_jwt.clone(),
        user_seed: host.lattice_rpc_user_seed.clone(),
        ..Access::default()
    };
    let nats = connect(&access, NAME).await?;
    let buckets = store::Buckets::new(jetstream::new(nats.clone()));
    let lattice = Lattice::new(nats.clone(), Options::default()).await?;
    let ids = HostIds {
        host: host.host_id.clone(),
        lattice: host.lattice_rpc_prefix.clone(),
        provider: host.provider_key.clone(),
    };
    let control = HostControl::attend(&nats, lattice.inboxes(), &ids)
        .await
        .context("the provider can't start")?;
    let server = Server::new(&lattice, &format!("{}.{}", host.lattice_rpc_prefix, host.provider_key));
    server.serve(&functions::service(&buckets)).await?;
    control.serving();
    tracing::info!("serving");
    control.shutdown().await;
    server.drain(DRAIN_DEADLINE).await;
    Ok(())
}

/// A host that is killed leaves its providers behind.
async fn orphaned(parent: u32) {
    while parent_id() == parent {
        tokio::time::sleep(PARENT_CHECK).await;
    }
}
