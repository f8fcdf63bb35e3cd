//! The parts of a run, started in order and stopped in reverse.
//!
//! Each part is held from the moment it exists, so that [`Stack::stop`] ends whatever a start that failed or was
//! interrupted left.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::time::Instant;
use tracing::info;

use crate::addresses;
use crate::archive;
use crate::bus::{PROVIDER, status_subject};
use crate::cli::Parts;
use crate::deployer::Deployer;
use crate::endpoints::Endpoints;
use crate::host::EmbeddedHost;
use crate::manifest::Application;
use crate::nats::NatsServer;
use crate::processes;
use crate::readiness::{self, Missing};
use crate::rundir::RunDir;
use crate::secrets::{self, Secrets, SecretsBackend};
use crate::served::ServedBus;
use crate::signature::Secret;
use crate::transport::{Certificates, Transport, edge_settings};

/// The file name of the packed Fanout provider, without its extension. The host's copy of it has it in its name.
pub(crate) const PROVIDER_ARCHIVE: &str = "fanout_provider";
/// The same, of the key-value provider.
pub(crate) const KEYVALUE_ARCHIVE: &str = "fanout_dev_keyvalue";

/// The parts of a run.
#[derive(Default)]
pub(crate) struct Stack {
    nats: Option<NatsServer>,
    client: Option<async_nats::Client>,
    bus: Option<Elsewhere>,
    secrets: Option<SecretsBackend>,
    deployer: Option<Deployer>,
    host: Option<EmbeddedHost>,
    application: Option<Application>,
    is_deployed: bool,
}

/// A bus that is not the provider: its own server, a connection to it, and the bus.
#[derive(Default)]
struct Elsewhere {
    nats: Option<NatsServer>,
    client: Option<async_nats::Client>,
    served: Option<ServedBus>,
}

impl Stack {
    /// Reads the manifest and packs what it refers to. Nothing runs yet.
    pub(crate) async fn prepare(&mut self, parts: &Parts, run: &RunDir, secret: &Secret) -> Result<Endpoints> {
        let endpoints = addresses::free()?;
        let application = read_manifest(&parts.manifest, run, &endpoints, secret).await?;
        pack_parts(parts, &application, &run.parts()).await?;
        self.application = Some(application);
        Ok(endpoints)
    }

    /// Starts everything that the manifest names and waits until it answers. Returns how long that took.
    pub(crate) async fn start(
        &mut self,
        parts: &Parts,
        run: &RunDir,
        endpoints: &Endpoints,
        transport: Transport,
    ) -> Result<Duration> {
        let began = Instant::now();
        if transport.listen().is_some() {
            self.start_bus(parts, run, transport).await?;
        }
        self.start_runtime(parts, run).await?;
        self.deploy().await?;
        self.deployed().await?;
        info!("deployed, says wadm");
        self.ready(endpoints, Missing::Renew).await?;
        info!("every part answers");
        Ok(began.elapsed())
    }

    /// Starts a bus as a process of its own, with the manifest's policy, and makes the provider an edge of it.
    async fn start_bus(&mut self, parts: &Parts, run: &RunDir, transport: Transport) -> Result<()> {
        info!(transport = transport.name(), "starting the bus and its own nats-server");
        let program = parts.fanout.as_deref();
        let program = program.context("the bus needs the `fanout` binary: set FANOUT_BIN")?;
        let bus = self.bus.insert(Elsewhere::default());
        let nats = bus
            .nats
            .insert(NatsServer::start(&parts.nats_server, run, "bus-nats").await?);
        bus.client = Some(nats.connect().await?);
        let certificates = match transport {
            Transport::Quic => Some(Certificates::make(&run.root().join("certificates"))?),
            Transport::Nats | Transport::Tcp => None,
        };
        let certificates = certificates.as_ref();
        let application = self.application.as_mut().ok_or_else(not_started)?;
        let policy = application.provider_settings(PROVIDER)?;
        let served = ServedBus::start(program, run, nats.address(), transport, &policy, certificates).await?;
        let edge = edge_settings(&policy, served.url(), certificates);
        application.configure(PROVIDER, edge)?;
        info!(url = served.url(), "the bus takes calls");
        bus.served = Some(served);
        Ok(())
    }

    async fn start_runtime(&mut self, parts: &Parts, run: &RunDir) -> Result<()> {
        info!("starting nats-server");
        let nats = self
            .nats
            .insert(NatsServer::start(&parts.nats_server, run, "nats").await?);
        let client = self.client.insert(nats.connect().await?);
        if let Some(file) = &parts.secrets {
            let secrets = Secrets::read(file)?;
            self.secrets = Some(SecretsBackend::start(client.clone(), secrets).await?);
        }
        let address = nats.address().to_owned();
        let application = self.application.as_mut().ok_or_else(not_started)?;
        application.tell_server(&address)?;
        info!(%address, "nats-server listens; starting wadm and the host");
        let deployer = self.deployer.insert(Deployer::start(&address, client.clone()).await?);
        let host = self.host.insert(EmbeddedHost::start(&address).await?);
        deployer.knows_host(host.id()).await?;
        info!("wadm knows the host");
        Ok(())
    }

    /// A connection to the run's server.
    pub(crate) fn client(&self) -> Result<&async_nats::Client> {
        self.client.as_ref().ok_or_else(not_started)
    }

    /// A connection to the server that the bus keeps its events on.
    pub(crate) fn bus_client(&self) -> Result<&async_nats::Client> {
        match &self.bus {
            Some(bus) => bus.client.as_ref().ok_or_else(not_started),
            None => self.client(),
        }
    }

    /// The server that the bus keeps its events on.
    pub(crate) fn bus_nats(&self) -> Result<&NatsServer> {
        match &self.bus {
            Some(bus) => bus.nats.as_ref().ok_or_else(not_started),
            None => self.nats(),
        }
    }

    /// The bus, when it is a process of its own.
    pub(crate) fn served_bus(&self) -> Option<&ServedBus> {
        self.bus.as_ref()?.served.as_ref()
    }

    /// Where the bus says on that server how it is doing.
    pub(crate) fn bus_status(&self) -> String {
        self.served_bus().map_or_else(status_subject, ServedBus::status_subject)
    }

    /// The server.
    pub(crate) fn nats(&self) -> Result<&NatsServer> {
        self.nats.as_ref().ok_or_else(not_started)
    }

    /// The host.
    pub(crate) fn host(&self) -> Result<&EmbeddedHost> {
        self.host.as_ref().ok_or_else(not_started)
    }

    /// The application as it was last deployed.
    pub(crate) fn application(&self) -> Result<&Application> {
        self.application.as_ref().ok_or_else(not_started)
    }

    /// Deploys a new version with `instances` instances of a component. Returns how many it had.
    pub(crate) async fn scale(&mut self, component: &str, instances: usize) -> Result<usize> {
        let application = self.application.as_mut().ok_or_else(not_started)?;
        let before = application.scale(component, instances)?;
        self.deploy().await?;
        Ok(before)
    }

    /// Waits until wadm says Deployed.
    pub(crate) async fn deployed(&self) -> Result<()> {
        let deployer = self.deployer.as_ref().ok_or_else(not_started)?;
        deployer.deployed(self.application()?.name()).await
    }

    /// Waits until every part is ready.
    pub(crate) async fn ready(&self, endpoints: &Endpoints, missing: Missing) -> Result<()> {
        readiness::wait(self.client()?, self.application()?, endpoints, missing).await
    }

    async fn deploy(&mut self) -> Result<()> {
        let deployer = self.deployer.as_ref().ok_or_else(not_started)?;
        let application = self.application.as_ref().ok_or_else(not_started)?;
        // From the request on there may be something to take down, whatever comes back.
        self.is_deployed = true;
        deployer.deploy(application.manifest()).await
    }

    /// Stops everything, the server last. Goes on past failures and returns them.
    pub(crate) async fn stop(mut self) -> Vec<anyhow::Error> {
        let mut failures = Vec::new();
        let mut note = |result: Result<()>| failures.extend(result.err());
        if let (true, Some(deployer), Some(host), Some(application)) =
            (self.is_deployed, &self.deployer, &self.host, &self.application)
        {
            note(deployer.undeploy(application.name(), host.id()).await);
        }
        if let Some(deployer) = self.deployer.take() {
            deployer.stop().await;
        }
        if let Some(host) = self.host.take() {
            note(host.stop().await);
        }
        if let Some(Elsewhere { nats, client, served }) = self.bus.take() {
            if let Some(served) = served {
                note(served.stop().await);
            }
            drop(client);
            if let Some(nats) = nats {
                note(nats.stop().await);
            }
        }
        drop(self.secrets.take());
        drop(self.client.take());
        if let Some(nats) = self.nats.take() {
            note(nats.stop().await);
        }
        note(processes::no_children_left().await);
        failures
    }
}

fn not_started() -> anyhow::Error {
    anyhow!("the parts are not started")
}

async fn read_manifest(path: &Path, run: &RunDir, endpoints: &Endpoints, secret: &Secret) -> Result<Application> {
    let parts = run.parts().display().to_string();
    let addresses: Vec<_> = endpoints
        .all()
        .map(|endpoint| (addresses::placeholder(endpoint), endpoint.authority()))
        .collect();
    let mut values = vec![("PARTS", parts.as_str()), ("STRIPE_SECRET", secret.expose())];
    values.extend(
        addresses
            .iter()
            .map(|(placeholder, address)| (placeholder.as_str(), *address)),
    );
    Application::read(path, &values).await
}

/// Puts what the manifest refers to where it refers to it.
async fn pack_parts(parts: &Parts, application: &Application, folder: &Path) -> Result<()> {
    let pack = async |name: &str, binary: Option<&Path>, variable: &str| {
        let file = format!("{name}.par");
        if !application.mentions(&file) {
            return Ok(());
        }
        let binary = binary.with_context(|| format!("the manifest needs {file}: set {variable}"))?;
        archive::pack(name, binary, &folder.join(file)).await
    };
    tokio::try_join!(
        pack(PROVIDER_ARCHIVE, parts.provider.as_deref(), "FANOUT_PROVIDER_BIN"),
        pack(KEYVALUE_ARCHIVE, parts.keyvalue.as_deref(), "FANOUT_KEYVALUE_BIN"),
    )?;
    match &parts.components {
        Some(components) => copy_components(components, folder, parts.secrets.is_some()),
        None => Ok(()),
    }
}

/// Copies the components, with an identity if they are to be given secrets.
fn copy_components(from: &Path, to: &Path, with_identity: bool) -> Result<()> {
    let failed = || format!("can't read the components in {}", from.display());
    for entry in std::fs::read_dir(from).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm")
            && let Some(name) = path.file_name()
        {
            let failed = || format!("can't copy {}", path.display());
            if with_identity {
                let component = std::fs::read(&path).with_context(failed)?;
                let signed = secrets::sign(&name.to_string_lossy(), &component)?;
                std::fs::write(to.join(name), signed).with_context(failed)?;
            } else {
                std::fs::copy(&path, to.join(name)).with_context(failed)?;
            }
        }
    }
    Ok(())
}
