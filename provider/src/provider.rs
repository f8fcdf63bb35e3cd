//! The provider on its lattice. The SDK serves the control plane: host data, health, shutdown, secrets; calls and
//! deliveries go over a connection of the provider's own.

use std::collections::HashMap;

use anyhow::Context as _;
use fanout_plan::listen::Listening;
use fanout_plan::{Problem, Settings, edge};
use fanout_transport::{Access, Lattice, Options, Server, Service, connect, raise_open_files};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};
use wasmcloud_core::HostData;
use wasmcloud_provider_sdk::{
    HealthCheckRequest, HealthCheckResponse, Provider, ProviderConfigUpdate, load_host_data, run_provider,
};

use crate::bus::Bus;
use crate::edge::Edge;
use crate::front::{DRAIN, Front, told_to_end};
use crate::link::Hears;
use crate::listeners::CantListen;
use crate::watchdog::Parent;
use crate::{link, status, wrpc};

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
    raise_open_files();
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
        ..Access::default()
    };
    let nats = connect(&access, "fanout-provider")
        .await
        .context("connect to the lattice")?;
    let lattice = Lattice::new(nats.clone(), Options::default())
        .await
        .context("listen on the lattice")?;

    let provider = host.provider_key.clone();
    let config: Settings = host.config.clone().into_iter().collect();
    // Listening for links comes first, so that none is missed in between.
    let (mut part, links) = if edge::is_edge(&config) {
        let settings = edge::Edge::from_settings(&format!("provider {}", host.provider_key), &config)
            .map_err(|problems| anyhow::anyhow!("{}", all(&problems)))?;
        let edge = Edge::new(&host.provider_key, &host.lattice_rpc_prefix, lattice.clone(), settings)
            .map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let links = hear(&nats, host, edge.clone()).await?;
        (Part::Edge(edge.clone(), tokio::spawn(edge.keep())), links)
    } else {
        let (_, initial) = Listening::split(&config);
        let bus = Bus::new(&host.provider_key, &host.lattice_rpc_prefix, lattice.clone(), initial);
        let links = hear(&nats, host, bus.clone()).await?;
        let mut front = Front::start(bus).await.context("set the bus up")?;
        listen(&mut front, &host.provider_key, &config).await;
        (Part::Bus(Box::new(front)), links)
    };
    let server = Server::new(&lattice, &format!("{}.{}", host.lattice_rpc_prefix, host.provider_key));
    let service = part.service().await.context("serve on the lattice")?;
    server.serve(&service).await.context("serve on the lattice")?;
    // Whoever is told how it is doing may call it.
    part.serve_status(&nats).await.context("serve the status")?;
    now_serving.send_replace(true);
    info!(
        provider = host.provider_key,
        lattice = host.lattice_rpc_prefix,
        "serving"
    );

    // One that waits all the time: what comes while settings change is not missed.
    let ended = told_to_end();
    tokio::pin!(shutdown, ended);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = parent.gone() => {
                warn!("the host is gone; stopping");
                break;
            }
            () = &mut ended => break,
            changed = settings_changes.changed() => {
                if changed.is_err() { break }
                let changed = settings_changes.borrow_and_update().clone();
                if let Some(changed) = changed {
                    part.put_settings(&provider, &changed.into_iter().collect()).await;
                }
            }
        }
    }
    for task in links {
        task.abort();
    }
    let (drained, ()) = tokio::join!(server.drain(DRAIN), part.stop());
    if drained.abandoned > 0 {
        warn!(calls = drained.abandoned, "calls were cut off; their callers were told");
    }
    nats.flush().await.context("send what is settled")?;
    info!("stopped");
    Ok(())
}

/// What this instance is.
enum Part {
    /// It keeps a bus.
    Bus(Box<Front>),
    /// It stands for one that is elsewhere.
    Edge(Edge, JoinHandle<()>),
}

impl Part {
    async fn service(&self) -> Result<Service, fanout_transport::Error> {
        match self {
            Self::Bus(front) => Ok(front.service.clone()),
            Self::Edge(edge, _) => wrpc::edge_service(edge.clone()).await,
        }
    }

    async fn serve_status(&self, nats: &async_nats::Client) -> Result<(), async_nats::SubscribeError> {
        match self {
            Self::Bus(front) => status::serve(nats.clone(), front.bus.clone()).await,
            Self::Edge(edge, _) => edge.serve_status().await,
        }
    }

    async fn put_settings(&mut self, provider: &str, settings: &Settings) {
        match self {
            Self::Bus(front) => {
                let (_, policy) = Listening::split(settings);
                front.bus.put_settings(policy);
                listen(front, provider, settings).await;
            }
            Self::Edge(..) => warn!("an edge takes changed settings when it is started again"),
        }
    }

    async fn stop(self) {
        match self {
            Self::Bus(front) => front.stop().await,
            Self::Edge(edge, keeping) => {
                keeping.abort();
                edge.stop().await;
            }
        }
    }
}

/// Hears of links from now on, and of those that the host gave at the start.
async fn hear(nats: &async_nats::Client, host: &HostData, who: impl Hears) -> anyhow::Result<[JoinHandle<()>; 2]> {
    let links = link::listen(nats, &host.lattice_rpc_prefix, &host.provider_key, who.clone()).await?;
    for definition in host.link_definitions.clone() {
        if let Some((key, link)) = link::from_definition(&host.provider_key, definition) {
            who.put_link(key, link);
        }
    }
    Ok(links)
}

/// Listens beside the lattice, where the settings say so. What can't be had must not take the lattice along.
async fn listen(front: &mut Front, provider: &str, config: &Settings) {
    let (mine, _) = Listening::split(config);
    let problems = match Listening::from_settings(&format!("provider {provider}"), &mine) {
        Ok(listening) => match front.listen(&listening).await {
            Ok(()) => Vec::new(),
            Err(CantListen(problem)) => vec![problem],
        },
        Err(problems) => problems,
    };
    for p in problems {
        error!(code = %p.code, "{}", p.message);
    }
}

fn all(problems: &[Problem]) -> String {
    let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
    all.join("; ")
}
