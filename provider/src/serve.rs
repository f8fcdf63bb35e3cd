//! The bus as a plain server, without a wasmCloud host: the same bus, policy and functions, for programs that connect.

use std::path::PathBuf;

use fanout_plan::document::Document;
use fanout_plan::listen::Listening;
use fanout_plan::{Code, JetStreamApi, PlaceName, Policy, Problem, Settings};
use fanout_transport::{Access, Endpoint, Lattice, Options, connect, raise_open_files};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::bus::Bus;
use crate::contract::TailLimits;
use crate::jetstream::{Store, StoreError};
use crate::listeners::CantListen;
use crate::running_bus::{RunningBus, inbox_prefixes, stop_in_order};
use crate::status;
use crate::telemetry::Export;
use crate::watchdog::Watchdog;

/// The lattice's name in what is only for lattices, such as the subject of the status.
const NO_LATTICE: &str = "served";

/// What a server is told on its command line.
#[derive(Clone, Debug)]
pub struct Server {
    /// The policy, as TOML. Read again on SIGHUP.
    pub policy: PathBuf,
    /// Which of the policy's places it is at, instead of what the policy's `place` says.
    pub place: Option<PlaceName>,
    /// The store.
    pub nats: Access,
    /// Which JetStream holds the bus, instead of what the policy says.
    pub jetstream: Option<JetStreamApi>,
    /// Where it listens, instead of the policy file's `listen`; empty to take that.
    pub listening: Listening,
    /// The bounds of live tails over HTTP.
    pub tails: TailLimits,
}

/// Why a server did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The policy, or where to listen, is not legal.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Refused(Vec<Problem>),
    /// The policy can't be read.
    #[error("can't read {}", path.display())]
    Policy {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// NATS can't be reached.
    #[error("can't reach the store")]
    Store(#[source] fanout_transport::Error),
    /// NATS is there, and no JetStream answers.
    #[error("{0}")]
    NoJetStream(Problem),
    /// The process can't be told to end.
    #[error("can't watch for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs until the process is told to end, be it while it starts. `ready` is called once calls are taken, with the bus's
/// name and where.
///
/// # Errors
/// When it can't start.
pub async fn serve(server: Server, ready: impl FnOnce(&str, &[Endpoint])) -> Result<(), ServeError> {
    let mut watchdog = Watchdog::of_signals().map_err(ServeError::Signals)?;
    let mut changed = signal(SignalKind::hangup()).map_err(ServeError::Signals)?;
    let mut export = Export::begin(None);
    let Serving { nats, bus, mut running } = tokio::select! {
        started = start(&server) => started?,
        () = watchdog.ends() => return Ok(()),
    };
    export.push(bus.clone());
    ready(bus.provider(), &running.endpoints());
    loop {
        tokio::select! {
            () = watchdog.ends() => break,
            _ = changed.recv() => match read(&server) {
                Ok((settings, listening)) => {
                    info!("the policy was read again");
                    bus.put_settings(settings);
                    let listens = tokio::select! {
                        listens = running.listen(&listening) => listens,
                        () = watchdog.ends() => break,
                    };
                    if let Err(CantListen(p)) = listens {
                        error!(code = %p.code, "{}; the listeners stay as they were: mend `listen` and send SIGHUP again", p.message);
                    }
                }
                Err(error) => warn!(%error, "the policy stays as it was"),
            },
        }
    }
    stop_in_order(running.stop(), export, &nats, &mut watchdog).await;
    Ok(())
}

/// A bus that takes calls.
struct Serving {
    nats: async_nats::Client,
    bus: Bus,
    running: RunningBus,
}

async fn start(server: &Server) -> Result<Serving, ServeError> {
    raise_open_files();
    let (settings, listening) = read(server)?;
    let owner = server.policy.display().to_string();
    let policy = Policy::from_settings(&owner, &settings).map_err(ServeError::Refused)?;
    if listening.endpoints.is_empty() {
        return Err(ServeError::Refused(vec![Problem::new(
            Code::MissingSetting,
            format!("{owner}: it is not said where to listen: give `--listen URL`, or `listen` in the policy"),
        )]));
    }
    if policy.callers.is_empty() {
        warn!("the policy names no callers: every call is refused until it has a table `[callers.NAME]`");
    }
    let nats = connect(&server.nats, "fanout-serve").await.map_err(ServeError::Store)?;
    // A store that is away comes back. One that is none does not: it is told at once.
    if let Err(StoreError::NoJetStream(problem)) = Store::new(nats.clone(), policy.clone()).answers().await {
        return Err(ServeError::NoJetStream(problem));
    }
    let options = Options {
        inbox_prefixes: inbox_prefixes(&owner, &listening).map_err(|p| ServeError::Refused(vec![p]))?,
        ..Options::default()
    };
    let lattice = Lattice::new(nats.clone(), options).await.map_err(ServeError::Store)?;
    let name = policy.bus.to_string();
    let bus = Bus::new(&name, NO_LATTICE, lattice.clone(), settings);
    let mut running = RunningBus::start(bus.clone(), server.tails)
        .await
        .map_err(ServeError::Store)?;
    if let Err(CantListen(problem)) = running.listen(&listening).await {
        running.stop().await;
        return Err(ServeError::Refused(vec![problem]));
    }
    if let Err(error) = status::serve(&lattice, bus.clone()).await {
        warn!(%error, "requests for the status are not served");
    }
    Ok(Serving { nats, bus, running })
}

/// The policy's settings, and where to listen: where the command line says so, else where the policy does.
fn read(server: &Server) -> Result<(Settings, Listening), ServeError> {
    let path = &server.policy;
    let text = std::fs::read_to_string(path).map_err(|source| ServeError::Policy {
        path: path.clone(),
        source,
    })?;
    let file = path.display().to_string();
    let document = Document::parse(&text)
        .map_err(|problems| ServeError::Refused(problems.into_iter().map(|p| p.in_file(&file, &text)).collect()))?;
    let (mine, mut rest) = Listening::split(&document.settings);
    if let Some(api) = &server.jetstream {
        rest.remove("jetstream.domain");
        rest.insert("jetstream.api-prefix".to_owned(), api.subject());
    }
    if let Some(place) = &server.place {
        rest.insert("place".to_owned(), place.to_string());
    }
    let mut listening = Listening::from_settings(&file, &mine).map_err(ServeError::Refused)?;
    if !server.listening.endpoints.is_empty() {
        listening.endpoints.clone_from(&server.listening.endpoints);
    }
    listening.by_flags = server.listening.by_flags;
    if server.listening.tls.is_some() {
        listening.tls.clone_from(&server.listening.tls);
    }
    listening.allow_unauthenticated_network_peers |= server.listening.allow_unauthenticated_network_peers;
    Ok((rest, listening))
}
