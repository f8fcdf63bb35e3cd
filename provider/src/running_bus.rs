//! What every way of running a bus shares, whether a wasmCloud host started it or a person did: keeping the bus, one
//! service of the contract's functions on every listener, and an end that loses no call.

use std::future::Future;
use std::time::Duration;

use fanout_plan::listen::Listening;
use fanout_plan::{Code, Problem};
use fanout_transport::{Endpoint, Error, InboxPrefix, Service};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::bus::Bus;
use crate::contract::{self, Origins, TailLimits};
use crate::listeners::{CantListen, Listeners};
use crate::telemetry::Export;
use crate::watchdog::Watchdog;

/// A bus that is kept and served.
pub(crate) struct RunningBus {
    pub(crate) bus: Bus,
    pub(crate) service: Service,
    /// Keeps the bus as its policy says, and delivers.
    keeper: JoinHandle<()>,
    /// Keeps quotas, and publishes what is due. Ends by itself.
    keeper_beside: JoinHandle<()>,
    beside: [JoinHandle<()>; 4],
    /// Writes the journal of deliveries.
    journal: JoinHandle<()>,
    /// Serves the other instances of the bus.
    instances: JoinHandle<()>,
    listeners: Listeners,
    origins: Origins,
}

impl RunningBus {
    /// Begins to keep the bus, and waits until it can answer.
    pub(crate) async fn start(bus: Bus, tails: TailLimits) -> Result<Self, Error> {
        let keeper = tokio::spawn(bus.clone().keep());
        let keeper_beside = tokio::spawn(bus.clone().keep_beside());
        let beside = [
            tokio::spawn(bus.clone().watch_registry()),
            tokio::spawn(crate::gap::watch(bus.clone())),
            tokio::spawn(crate::floors::keep(bus.clone())),
            tokio::spawn(crate::last_known::keep(bus.clone())),
        ];
        let journal = tokio::spawn(bus.journal().clone().keep());
        bus.settled().await;
        let origins = Origins::default();
        let (service, instances) = contract::service(bus.clone(), origins.clone(), tails).await?;
        Ok(Self {
            service,
            origins,
            instances: tokio::spawn(instances),
            journal,
            bus,
            keeper,
            keeper_beside,
            beside,
            listeners: Listeners::default(),
        })
    }

    /// Listens there, and nowhere else any more.
    pub(crate) async fn listen(&mut self, listening: &Listening) -> Result<(), CantListen> {
        self.listeners.listen(listening, &self.service).await?;
        self.origins.set(&listening.allowed_origins);
        Ok(())
    }

    /// Where it listens, with the ports that the system chose.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.listeners.endpoints()
    }

    /// Stops: calls and deliveries under way end, and their callers are answered.
    pub(crate) async fn stop(self) {
        self.bus.stop();
        for task in self.beside {
            task.abort();
        }
        let ((), kept, beside, served) =
            tokio::join!(self.listeners.drain(), self.keeper, self.keeper_beside, self.instances);
        // Now that no call and no delivery is under way.
        self.bus.flush_quotas().await;
        self.bus.journal().close();
        let journaled = self.journal.await;
        for error in [kept, beside, served, journaled].into_iter().filter_map(Result::err) {
            warn!(%error, "deliveries did not end in order");
        }
    }
}

/// Where whoever asks over NATS may want the answer, as an instance is told.
pub(crate) fn inbox_prefixes(owner: &str, listening: &Listening) -> Result<Vec<InboxPrefix>, Problem> {
    if listening.inbox_prefixes.is_empty() {
        return Ok(vec![InboxPrefix::default()]);
    }
    let prefixes = listening.inbox_prefixes.iter().map(|prefix| InboxPrefix::parse(prefix));
    prefixes.collect::<Result<_, _>>().map_err(|e| {
        Problem::new(
            Code::InvalidSetting,
            format!("{owner}: setting `{}`: {e}", fanout_plan::listen::INBOX_PREFIXES),
        )
    })
}

/// How long the store may take to hear what was settled last: one that is away hears nothing more.
const FLUSH: Duration = Duration::from_secs(2);

/// Ends in order, unless a second signal says that there is no time for it.
pub(crate) async fn stop_in_order(
    stopping: impl Future<Output = ()>,
    export: Export,
    nats: &async_nats::Client,
    watchdog: &mut Watchdog,
) {
    let stopping = async {
        stopping.await;
        if !matches!(tokio::time::timeout(FLUSH, nats.flush()).await, Ok(Ok(()))) {
            warn!("the store can't be reached: the last settlements may be lost, and their events delivered again");
        }
        export.stop().await;
    };
    tokio::select! {
        () = stopping => info!("stopped"),
        () = watchdog.signalled() => warn!("received a second signal to end: stopped at once; what was under way is delivered again"),
    }
}
