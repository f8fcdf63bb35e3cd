//! The provider on its lattice. The SDK serves the control plane: host data, health, shutdown, secrets; calls and
//! deliveries go over a connection of the provider's own.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use fanout_plan::Settings;
use fanout_transport::{Access, Lattice, Options, Server, connect};
use tokio::sync::watch;
use tracing::{info, warn};
use wasmcloud_provider_sdk::{
    HealthCheckRequest, HealthCheckResponse, Provider, ProviderConfigUpdate, load_host_data, run_provider,
};

use crate::bus::Bus;
use crate::watchdog::Parent;
use crate::{link, status, wrpc};

/// How long calls and deliveries under way may take when the provider is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// What the SDK tells, handed on once the bus exists.
#[derive(Clone)]
struct Control {
    settings: watch::Sender<Option<HashMap<String, String>>>,
    serving: watch::Receiver<bool>,
}

impl Provider for Control {
    async fn on_config_update(&self, update: impl ProviderConfigUpdate) -> anyhow::Result<()> {
        self.settings.send_replace(Some(update.get_values().clone()));
        Ok(())
    }

    async fn health_request(&self, _: &HealthCheckRequest) -> anyhow::Result<HealthCheckResponse> {
        let healthy = *self.serving.borrow();
        Ok(HealthCheckResponse {
            healthy,
            message: Some(if healthy { "serving" } else { "starting" }.to_owned()),
        })
    }
}

/// Runs the provider until its host stops it, is gone, or the process is told to end.
///
/// # Errors
/// When the host's data can't be read or the lattice can't be reached.
pub async fn run() -> anyhow::Result<()> {
    let parent = Parent::now();
    // Read before the SDK does: its error would repeat the whole text, the seed of the lattice's credentials included.
    let host = load_host_data().map_err(|_| anyhow::anyhow!("the host's data on standard input is not readable"))?;
    let (settings, mut settings_changes) = watch::channel(None);
    let (now_serving, serving) = watch::channel(false);
    let shutdown = run_provider(Control { settings, serving }, "fanout-provider")
        .await
        .context("register with the host")?;
    let access = Access {
        urls: host.lattice_rpc_url.clone(),
        user_jwt: host.lattice_rpc_user_jwt.clone(),
        user_seed: host.lattice_rpc_user_seed.clone(),
    };
    let nats = connect(&access, "fanout-provider")
        .await
        .context("connect to the lattice")?;
    let lattice = Lattice::new(nats.clone(), Options::default())
        .await
        .context("listen on the lattice")?;

    let initial: Settings = host.config.clone().into_iter().collect();
    let bus = Bus::new(&host.provider_key, &host.lattice_rpc_prefix, lattice.clone(), initial);
    // Listening comes first, so that no link is missed in between.
    let links = link::listen(&nats, &host.lattice_rpc_prefix, &host.provider_key, bus.clone()).await?;
    for definition in host.link_definitions.clone() {
        if let Some((key, link)) = link::from_definition(&host.provider_key, definition) {
            bus.put_link(key, link);
        }
    }
    let keeping = tokio::spawn(bus.clone().keep());
    let watching = tokio::spawn(bus.clone().watch_registry());
    bus.settled().await;
    let server = Server::new(&lattice, &format!("{}.{}", host.lattice_rpc_prefix, host.provider_key));
    wrpc::serve(&server, bus.clone())
        .await
        .context("serve on the lattice")?;
    status::serve(nats.clone(), bus.clone())
        .await
        .context("serve the status")?;
    now_serving.send_replace(true);
    info!(
        provider = host.provider_key,
        lattice = host.lattice_rpc_prefix,
        "serving"
    );

    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = parent.gone() => {
                warn!("the host is gone; stopping");
                break;
            }
            () = told_to_end() => break,
            changed = settings_changes.changed() => {
                if changed.is_err() { break }
                let changed = settings_changes.borrow_and_update().clone();
                if let Some(changed) = changed {
                    bus.put_settings(changed.into_iter().collect());
                }
            }
        }
    }
    for task in links.into_iter().chain([keeping, watching]) {
        task.abort();
    }
    let (drained, ()) = tokio::join!(server.drain(DRAIN), bus.stop());
    if drained.abandoned > 0 {
        warn!(calls = drained.abandoned, "calls were cut off; their callers were told");
    }
    nats.flush().await.context("send what is settled")?;
    info!("stopped");
    Ok(())
}

/// SIGTERM or Ctrl-C.
async fn told_to_end() {
    let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
