//! A component, compiled and linked: what it exports, and an instance of it for each invocation.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, Store};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::bindings::surroundings::Surroundings as Offered;
use crate::bindings::{calls, caught_up, many, one};
use crate::guest::Guest;
use crate::surroundings::Surroundings;

/// How often a running component gives way, so that its deadline can end it.
const TICK: Duration = Duration::from_millis(10);
/// The most instances that run at a time; one more waits, within its deadline.
const INSTANCES: usize = 64;
/// The largest component file that is read.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A component that can be run.
pub struct Program {
    engine: Engine,
    surroundings: Arc<Surroundings>,
    sha256: String,
    exports: Exports,
    instances: Semaphore,
    deadline: Duration,
    _ticking: AbortOnDropHandle<()>,
}

/// What a component exports, ready to be instantiated.
pub(crate) struct Exports {
    pub(crate) http: Option<ProxyPre<Guest>>,
    pub(crate) one: Option<one::HandlesOnePre<Guest>>,
    pub(crate) many: Option<many::HandlesManyPre<Guest>>,
    pub(crate) caught_up: Option<caught_up::HandlesCaughtUpPre<Guest>>,
}

impl Program {
    /// Reads, compiles and links a component file. It runs as it is: the very file that a wasmCloud host would be given.
    ///
    /// # Errors
    /// When it is no component, or imports something that neither a wasmCloud 1.x host nor this runtime offers.
    pub async fn load(file: &Path, surroundings: Surroundings, deadline: Duration) -> Result<Self> {
        let shown = file.display();
        let length = tokio::fs::metadata(file)
            .await
            .with_context(|| format!("can't read component {shown}"))?
            .len();
        if length > MAX_FILE_BYTES {
            bail!("component {shown} has {length} bytes: at most {MAX_FILE_BYTES} are read");
        }
        let bytes = tokio::fs::read(file)
            .await
            .with_context(|| format!("can't read component {shown}"))?;
        let sha256 = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config)
            .map_err(Error::from)
            .context("can't start wasmtime")?;
        let compile = {
            let engine = engine.clone();
            // Seconds of computing, for a large one.
            tokio::task::spawn_blocking(move || Component::new(&engine, bytes))
        };
        let component = compile
            .await
            .context("the compiler was cut off")?
            .map_err(Error::from)
            .with_context(|| format!("{shown} is no component"))?;
        let linked = linker(&engine)?
            .instantiate_pre(&component)
            .map_err(Error::from)
            .with_context(|| {
                format!(
                    "component {shown} imports something that is not offered here; rebuild it, or leave that import out"
                )
            })?;
        let exports = Exports::of(&engine, &component, &linked)?;
        Ok(Self {
            _ticking: AbortOnDropHandle::new(tokio::spawn(tick(engine.clone()))),
            engine,
            surroundings: Arc::new(surroundings),
            sha256,
            exports,
            instances: Semaphore::new(INSTANCES),
            deadline,
        })
    }

    /// The SHA-256 of the file, in hexadecimal.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What all instances share.
    #[must_use]
    pub fn surroundings(&self) -> &Surroundings {
        &self.surroundings
    }

    /// True when it answers HTTP requests.
    #[must_use]
    pub fn answers_http(&self) -> bool {
        self.exports.http.is_some()
    }

    /// The interfaces that its deliveries come through, in the words of a link: `batch-handler` before `handler`.
    #[must_use]
    pub fn handlers(&self) -> Vec<String> {
        let Exports {
            one, many, caught_up, ..
        } = &self.exports;
        let taken = match (many, one) {
            (Some(_), _) => Some("batch-handler"),
            (None, Some(_)) => Some("handler"),
            (None, None) => None,
        };
        let told = caught_up.as_ref().map(|_| "backfill-handler");
        taken.into_iter().chain(told).map(str::to_owned).collect()
    }

    pub(crate) fn exports(&self) -> &Exports {
        &self.exports
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    /// A place among the running instances.
    pub(crate) async fn place(&self) -> wasmtime::Result<tokio::sync::SemaphorePermit<'_>> {
        Ok(self.instances.acquire().await?)
    }

    /// The store of a new instance, which is called in a trace.
    pub(crate) fn store(&self, traceparent: Option<&str>) -> Store<Guest> {
        let guest = Guest::new(Arc::clone(&self.surroundings), traceparent.map(str::to_owned));
        let mut store = Store::new(&self.engine, guest);
        store.limiter(|guest| &mut guest.limits);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        store
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Program")
            .field("surroundings", &self.surroundings)
            .field("sha256", &self.sha256)
            .finish_non_exhaustive()
    }
}

impl Exports {
    fn of(engine: &Engine, component: &Component, linked: &InstancePre<Guest>) -> Result<Self> {
        let kind = component.component_type();
        let has = |prefix: &str| kind.exports(engine).any(|(name, _)| name.starts_with(prefix));
        let strange = |what: &str| format!("the component's `{what}` is not the one of this contract");
        Ok(Self {
            http: has("wasi:http/incoming-handler@0.2.")
                .then(|| {
                    ProxyPre::new(linked.clone())
                        .map_err(Error::from)
                        .with_context(|| strange("wasi:http/incoming-handler"))
                })
                .transpose()?,
            one: has("fanout:bus/handler@")
                .then(|| {
                    one::HandlesOnePre::new(linked.clone())
                        .map_err(Error::from)
                        .with_context(|| strange("handler"))
                })
                .transpose()?,
            many: has("fanout:bus/batch-handler@")
                .then(|| {
                    many::HandlesManyPre::new(linked.clone())
                        .map_err(Error::from)
                        .with_context(|| strange("batch-handler"))
                })
                .transpose()?,
            caught_up: has("fanout:bus/backfill-handler@")
                .then(|| {
                    caught_up::HandlesCaughtUpPre::new(linked.clone())
                        .map_err(Error::from)
                        .with_context(|| strange("backfill-handler"))
                })
                .transpose()?,
        })
    }
}

/// Everything that a component can import.
fn linker(engine: &Engine) -> Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    type Own = HasSelf<Guest>;
    let add = |linker: &mut Linker<Guest>| -> wasmtime::Result<()> {
        wasmtime_wasi::p2::add_to_linker_async(linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
        Offered::add_to_linker::<_, Own>(linker, |guest| guest)?;
        calls::Calls::add_to_linker::<_, Own>(linker, |guest| guest)
    };
    add(&mut linker).map_err(|error| anyhow!("can't offer the interfaces of a host: {error:#}"))?;
    Ok(linker)
}

async fn tick(engine: Engine) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        engine.increment_epoch();
    }
}
