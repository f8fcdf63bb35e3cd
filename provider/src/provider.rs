//! The provider on its lattice: what its host tells it, calls, deliveries and the status, over one connection.

use anyhow::Context as _;
use fanout_plan::listen::{self, Listening};
use fanout_plan::{Problem, Settings, edge};
use fanout_transport::{
    Access, HostControl, HostIds, InboxPrefix, Lattice, Options, Server, Service, connect, raise_open_files,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};
use wasmcloud_core::HostData;
use wasmcloud_provider_sdk::load_host_data;

use crate::bus::{Bus, DRAIN};
use crate::edge::Edge;
use crate::link::LinkSink;
use crate::listeners::CantListen;
use crate::running_bus::{self, RunningBus};
use crate::telemetry::Export;
use crate::watchdog::Watchdog;
use crate::{contract, link, status, telemetry};

/// Runs the provider until its host stops it, is gone, or the process is told to end, be it while it starts.
///
/// # Errors
/// When the host's data can't be read or the lattice can't be reached.
pub async fn run() -> anyhow::Result<()> {
    let mut watchdog = Watchdog::of_a_host().context("watch for signals")?;
    let mut provider = tokio::select! {
        started = Provider::start() => started?,
        () = watchdog.ends() => return Ok(()),
    };
    tokio::select! {
        () = provider.serve() => {}
        () = watchdog.ends() => {}
    }
    let nats = provider.nats.clone();
    let export = std::mem::take(&mut provider.export);
    running_bus::stop_in_order(provider.stop(), export, &nats, &mut watchdog).await;
    Ok(())
}

/// The host's data. A thread of its own waits for it: what it reads may never come, and must not keep the process there.
async fn host_data() -> anyhow::Result<&'static HostData> {
    let (read, data) = oneshot::channel();
    std::thread::spawn(move || {
        // Its error is dropped: it would repeat the whole text, the seed of the lattice's credentials included.
        // Nobody waits for it any more when the process ends.
        read.send(load_host_data().map_err(drop)).ok();
    });
    let host = data.await.ok().and_then(Result::ok);
    host.context("the host's data on standard input is not readable")
}

/// A provider that serves.
struct Provider {
    key: String,
    nats: async_nats::Client,
    control: HostControl,
    server: Server,
    role: Role,
    export: Export,
    links: [JoinHandle<()>; 2],
}

impl Provider {
    async fn start() -> anyhow::Result<Self> {
        raise_open_files();
        let host = host_data().await?;
        if host.structured_logging {
            telemetry::log_as_json(true);
        }
        let mut export = Export::begin(Some(&host.otel_config));
        let config: Settings = host.config.clone().into_iter().collect();
        let options = Options {
            inbox_prefixes: inbox_prefixes(&host.provider_key, &config)?,
            ..Options::default()
        };
        let access = Access {
            urls: host.lattice_rpc_url.clone(),
            user_jwt: host.lattice_rpc_user_jwt.clone(),
            user_seed: host.lattice_rpc_user_seed.clone(),
            ..Access::default()
        };
        let nats = connect(&access, "fanout-provider")
            .await
            .context("connect to the lattice")?;
        let lattice = Lattice::new(nats.clone(), options)
            .await
            .context("listen on the lattice")?;
        let ids = HostIds {
            host: host.host_id.clone(),
            lattice: host.lattice_rpc_prefix.clone(),
            provider: host.provider_key.clone(),
        };
        let control = HostControl::attend(&nats, lattice.inboxes(), &ids)
            .await
            .context("listen to the host")?;
        // Listening for links comes first, so that none is missed in between.
        let (role, links) = if edge::is_edge(&config) {
            let settings = edge::Edge::from_settings(&format!("provider {}", host.provider_key), &config)
                .map_err(|problems| anyhow::anyhow!("{}", all(&problems)))?;
            let edge = Edge::new(&host.provider_key, &host.lattice_rpc_prefix, lattice.clone(), settings)
                .map_err(|problem| anyhow::anyhow!("{problem}"))?;
            let links = follow_links(&nats, host, edge.clone()).await?;
            (Role::Edge(edge.clone(), tokio::spawn(edge.keep())), links)
        } else {
            let (_, initial) = Listening::split(&config);
            let bus = Bus::new(&host.provider_key, &host.lattice_rpc_prefix, lattice.clone(), initial);
            let links = follow_links(&nats, host, bus.clone()).await?;
            let mut running = RunningBus::start(bus, contract::TailLimits::default())
                .await
                .context("set the bus up")?;
            listen(&mut running, &host.provider_key, &config).await;
            (Role::Bus(Box::new(running)), links)
        };
        let server = Server::new(&lattice, &format!("{}.{}", host.lattice_rpc_prefix, host.provider_key));
        let service = role.service().await.context("serve on the lattice")?;
        server.serve(&service).await.context("serve on the lattice")?;
        // Whoever is told how it is doing may call it.
        role.serve_status(&lattice).await.context("serve the status")?;
        match &role {
            Role::Bus(running) => export.push(running.bus.clone()),
            Role::Edge(edge, _) => export.push(edge.clone()),
        }
        control.serving();
        info!(
            provider = host.provider_key,
            lattice = host.lattice_rpc_prefix,
            "serving"
        );
        Ok(Self {
            key: host.provider_key.clone(),
            nats,
            control,
            server,
            role,
            export,
            links,
        })
    }

    /// Takes changed settings over until the host stops it.
    async fn serve(&mut self) {
        let mut settings_changes = self.control.config();
        let shutdown = self.control.shutdown();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                changed = settings_changes.changed() => {
                    if changed.is_err() { return }
                    let changed = settings_changes.borrow_and_update().clone();
                    if let Some(changed) = changed {
                        self.role.put_settings(&self.key, &changed.into_iter().collect()).await;
                    }
                }
            }
        }
    }

    async fn stop(self) {
        for task in self.links {
            task.abort();
        }
        let (drained, ()) = tokio::join!(self.server.drain(DRAIN), self.role.stop());
        if drained.abandoned > 0 {
            warn!(
                calls = drained.abandoned,
                "calls were cut off; their callers were notified"
            );
        }
    }
}

/// Where whoever asks over NATS may want the answer.
fn inbox_prefixes(provider: &str, config: &Settings) -> anyhow::Result<Vec<InboxPrefix>> {
    let (mine, _) = Listening::split(config);
    let owner = format!("provider {provider}");
    // What else is wrong with it is said where it is used.
    let prefixes = mine
        .into_iter()
        .filter(|(setting, _)| setting == listen::INBOX_PREFIXES)
        .collect();
    let listening =
        Listening::from_settings(&owner, &prefixes).map_err(|problems| anyhow::anyhow!("{}", all(&problems)))?;
    running_bus::inbox_prefixes(&owner, &listening).map_err(|problem| anyhow::anyhow!("{problem}"))
}

/// The role of this instance.
enum Role {
    /// It keeps a bus.
    Bus(Box<RunningBus>),
    /// It stands for one that is elsewhere.
    Edge(Edge, JoinHandle<()>),
}

impl Role {
    async fn service(&self) -> Result<Service, fanout_transport::Error> {
        match self {
            Self::Bus(running) => Ok(running.service.clone()),
            Self::Edge(edge, _) => contract::edge_service(edge.clone()).await,
        }
    }

    async fn serve_status(&self, lattice: &Lattice) -> Result<(), async_nats::SubscribeError> {
        match self {
            Self::Bus(running) => status::serve(lattice, running.bus.clone()).await,
            Self::Edge(edge, _) => edge.serve_status().await,
        }
    }

    async fn put_settings(&mut self, provider: &str, settings: &Settings) {
        match self {
            Self::Bus(running) => {
                let (_, policy) = Listening::split(settings);
                running.bus.put_settings(policy);
                listen(running, provider, settings).await;
            }
            Self::Edge(..) => warn!("an edge takes changed settings when it is started again"),
        }
    }

    async fn stop(self) {
        match self {
            Self::Bus(running) => running.stop().await,
            Self::Edge(edge, keeping) => {
                keeping.abort();
                edge.stop().await;
            }
        }
    }
}

/// Passes the links that the host gave at the start, and those it puts and deletes from now on, to a sink.
async fn follow_links(
    nats: &async_nats::Client,
    host: &HostData,
    sink: impl LinkSink,
) -> anyhow::Result<[JoinHandle<()>; 2]> {
    let links = link::listen(nats, &host.lattice_rpc_prefix, &host.provider_key, sink.clone()).await?;
    for definition in host.link_definitions.clone() {
        if let Some((key, link)) = link::from_definition(&host.provider_key, definition) {
            sink.put_link(key, link);
        }
    }
    Ok(links)
}

/// Listens beside the lattice, where the settings say so. What can't be had must not take the lattice along.
async fn listen(running: &mut RunningBus, provider: &str, config: &Settings) {
    let (mine, _) = Listening::split(config);
    let problems = match Listening::from_settings(&format!("provider {provider}"), &mine) {
        Ok(listening) => match running.listen(&listening).await {
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
