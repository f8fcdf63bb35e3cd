//! The instances of a bus among themselves: where a subscription has an order, its owner serves all fetches and settlements,
//! and the other instances forward theirs to it, by wRPC over NATS.
//!
//! Each instance serves the others below a subject of its own. The one that forwards a request has judged its caller by the
//! caller's link, and the owner trusts no other word for it: a request is sealed for one instance, with the secret that the
//! instances share, and holds for seconds. What the owner leases it seals for that caller, and it passes through the
//! other instance as it is.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use fanout_plan::subscription::Registered;
use fanout_plan::{Code, Problem, SubscriptionId, SubscriptionName, Timestamp};
use fanout_transport::{
    CallContext, Caller, Client, Error, Guard, Lattice, Options, Refusal, Server, Service, Shape, Tally, TooMany,
    listed, wait_without_permits,
};
use fanout_wit::types::{FetchedDeliveries, InboxError, SettleError, SettlementOutcome};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::Local;
use super::fetching::{Lease, settle_here};
use crate::bus::DRAIN;
use crate::contract::errors::{inbox_refusal, settle_refusal};
use crate::contract::inbox::{Outcome, leased, reserve, too_many_fetches, unread_answers};
use crate::delivery::{DeliveryHandle, Verdict};
use crate::inbox::{self, DEFAULT_BYTES, FetchLimits, Inbox, MAX_BYTES, Seal};
use crate::jetstream::Store;
use crate::view::View;

/// The interface that instances serve each other.
const INSTANCES: &str = "fanout:instances/inbox";
/// How long an owner may take beyond what a fetch waits, and to settle.
pub(super) const ANSWERS_IN: Duration = Duration::from_secs(4);
/// For how long a request holds: beyond the longest time in which it is answered.
const HOLDS: Duration = Duration::from_secs(30);
/// How long after they could not be served the other instances are served again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long it is until the secret is read again, at least, because instances do not take each other's requests.
const READ_AGAIN: Duration = Duration::from_secs(2);
/// Requests to other instances at once: every fetch that may wait here, and settlements.
const CALLS: usize = inbox::WAITING_OF_ALL + 1_024;

/// What one instance requests of another.
#[derive(Serialize, Deserialize)]
struct Request<T> {
    /// Who called the instance that forwards it.
    caller: String,
    /// It holds until then by the store's clock.
    until: Timestamp,
    what: T,
}

/// Deliveries of a subscription that the caller may fetch.
type FetchRequest = (SubscriptionId, FetchLimits);
/// A settlement of a delivery that the caller was given, and may still fetch.
type SettleRequest = (DeliveryHandle, Verdict);

/// The connection over which other instances are called, and called by: not that of callers and subscribers, so that a fetch
/// which waits elsewhere takes none of their calls.
pub(super) async fn connect(lattice: &Lattice) -> Result<Lattice, Error> {
    let options = Options {
        calls: CALLS,
        ..lattice.options().clone()
    };
    Lattice::new(lattice.nats().clone(), options).await
}

impl Local {
    /// Fetches at the owner of an order; `None` where that is the owner no more.
    pub(super) async fn fetch_at(
        &self,
        owner: &str,
        caller: &Caller,
        (of, limits): FetchRequest,
        within: Duration,
    ) -> Result<Option<FetchedDeliveries>, InboxError> {
        let sealed = self.sealed(owner, caller, (&of, limits)).await.map_err(inbox_refusal)?;
        let cx = CallContext::within(within);
        let called = self.client(owner).call_values(cx, INSTANCES, "fetch", (sealed,)).await;
        self.answered(&of.name, called)
            .map_err(inbox_refusal)?
            .unwrap_or(Ok(None))
    }

    /// Settles at the instance that dispatched a delivery; `None` where that is gone, or knows nothing of the subscription.
    pub(super) async fn settle_at(
        &self,
        owner: &str,
        caller: &Caller,
        (handle, verdict): (&DeliveryHandle, &Verdict),
    ) -> Result<Option<Outcome<Lease>>, SettleError> {
        let sealed = self
            .sealed(owner, caller, (handle, verdict))
            .await
            .map_err(settle_refusal)?;
        let cx = CallContext::within(ANSWERS_IN);
        let called = self.client(owner).call_values(cx, INSTANCES, "settle", (sealed,)).await;
        let answer = self.answered(&handle.of.name, called).map_err(settle_refusal)?;
        let answer: Result<Option<SettlementOutcome>, SettleError> = answer.unwrap_or(Ok(None));
        Ok(answer?.map(|outcome| match outcome {
            SettlementOutcome::Settled => Outcome::Settled,
            SettlementOutcome::Extended(token) => Outcome::Extended(Lease::Sealed(token)),
        }))
    }

    /// What another instance answered; `None` when it is gone.
    fn answered<R>(&self, name: &SubscriptionName, called: Result<R, Error>) -> Result<Option<R>, Problem> {
        let error = match called {
            Ok(answer) => return Ok(Some(answer)),
            Err(Error::NoResponders) => return Ok(None),
            Err(error) => error,
        };
        // It may know another secret.
        if let (Error::Remote(_), Ok(store)) = (&error, self.bus.view().store()) {
            self.read_secret_again(store);
        }
        let name = name.plain();
        Err(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {name}: the instance that owns its order did not answer ({error}): try again"),
        ))
    }

    /// Has the secret read again, since another instance may have read another one: but not each time that somebody sends what is
    /// no request, and nothing else is done for it.
    fn read_secret_again(&self, store: &Store) {
        let mut read_again = self.secret_read_again.lock().unwrap_or_else(PoisonError::into_inner);
        if read_again.is_none_or(|at| at.elapsed() >= READ_AGAIN) {
            *read_again = Some(Instant::now());
            let store = store.clone();
            tokio::spawn(async move {
                if let Err(problem) = inbox::read_secret(&store).await {
                    debug!(code = %problem.code, "{}", problem.message);
                }
            });
        }
    }

    fn client(&self, owner: &str) -> Client {
        Client::new(&self.instances, owner, self.bus.instance())
    }

    async fn sealed<T: Serialize>(&self, to: &str, caller: &Caller, what: T) -> Result<Bytes, Problem> {
        let view = self.bus.view();
        let store = view.store()?;
        let request = Request {
            caller: caller.component.clone(),
            until: store.now() + HOLDS,
            what,
        };
        let sealed = self.seal_of(store).await?.seal_request(to, &request);
        sealed.map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))
    }

    /// Serves the other instances until this one stops.
    pub(in crate::contract) async fn serve_instances(self) {
        let stop = self.bus.stopping().clone();
        while !stop.is_cancelled() {
            let Err(error) = self.serve_bus().await else { continue };
            warn!(%error, "other instances can't forward fetches to this one yet");
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// The same until the bus has another name, which is part of the subject.
    async fn serve_bus(&self) -> anyhow::Result<()> {
        let stop = self.bus.stopping();
        let mut views = self.bus.views();
        let store = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            view = views.wait_for(|view| view.store.is_some()) => view?.store()?.clone(),
        };
        let name = store.policy().bus.clone();
        let owner = Arc::new(Owner {
            local: self.clone(),
            address: store.names().instance(self.bus.instance()),
            refused: Tally::new("requests were refused that no instance of the bus had made"),
            store,
        });
        let (fetches, settles) = (Arc::clone(&owner), Arc::clone(&owner));
        let service = Service::new()
            .guarded(Arc::clone(&owner))
            .direct(INSTANCES, "fetch", move |_, (sealed,): (Bytes,)| {
                let owner = Arc::clone(&fetches);
                async move { Ok(owner.fetch(owner.opened(&sealed)?).await) }
            })
            .direct(INSTANCES, "settle", move |_, (sealed,): (Bytes,)| {
                let owner = Arc::clone(&settles);
                async move { Ok(owner.settle(owner.opened(&sealed)?).await) }
            });
        let server = Server::new(&self.instances, &owner.address);
        server.serve(&service).await?;
        tokio::select! {
            () = stop.cancelled() => {}
            _ = views.wait_for(|view| view.store.as_ref().is_some_and(|store| store.policy().bus != name)) => {}
        }
        server.drain(DRAIN).await;
        Ok(())
    }
}

/// This instance as the others call it.
struct Owner {
    local: Local,
    store: Store,
    address: String,
    refused: Tally,
}

/// What is no request takes no permit, and is not decoded.
impl Guard for Owner {
    fn admit(&self, caller: Caller, _: &str, func: &str, first: &[u8]) -> Result<Caller, Refusal> {
        // The one parameter is a list of bytes, behind their number.
        let length = listed(first).and_then(|length| usize::try_from(length).ok());
        let begins = length.and_then(|length| first.len().checked_sub(length));
        if begins.is_some_and(|begins| self.opened::<IgnoredAny>(&first[begins..]).is_ok()) {
            return Ok(caller);
        }
        self.local.read_secret_again(&self.store);
        self.refused
            .count(|| format!("{func}: not sealed by an instance of the bus, or too old"));
        Err(Refusal::Failure("only instances of the bus are served here".to_owned()))
    }

    fn shape(&self, _: &str, _: &str) -> Option<&'static Shape> {
        Some(&Shape::Fields(&[Shape::Bytes]))
    }

    fn too_many(&self, _: &Caller, _: &str, _: &str, _: TooMany) -> Refusal {
        Refusal::Failure("there is more in it than a request".to_owned())
    }
}

impl Owner {
    fn seal(&self) -> Option<Arc<Seal>> {
        Some(self.local.seal_with(self.store.secret()?))
    }

    /// A request that another instance of the bus has just made, for this one.
    fn opened<T: DeserializeOwned>(&self, sealed: &[u8]) -> anyhow::Result<Request<T>> {
        let seal = self.seal().context("the secret that instances share is not read yet")?;
        let request: Option<Request<T>> = seal.open_request(&self.address, sealed);
        let request = request.filter(|request| self.store.now() <= request.until);
        request.context("no instance of the bus has made this request, or it is too old")
    }

    async fn fetch(&self, request: Request<FetchRequest>) -> Result<Option<FetchedDeliveries>, InboxError> {
        let caller = &forwarded_for(request.caller);
        let (of, limits) = request.what;
        let view = self.local.bus.view();
        let served = served(&view, &of).filter(|(_, inbox)| inbox.is_owner());
        let Some((registered, inbox)) = served else {
            return Ok(None);
        };
        if !limits.wait.is_zero() {
            // How many wait so is bounded by the inbox.
            wait_without_permits();
        } else if !reserve(limits.max_bytes.unwrap_or(DEFAULT_BYTES).min(MAX_BYTES)).await {
            return Err(inbox_refusal(unread_answers(caller, &registered.subscription)));
        }
        let fetched = self.local.fetch_here((registered, inbox), limits).await?;
        if !fetched.answers() && !inbox.is_owner() {
            return Ok(None);
        }
        if fetched.crowded && fetched.deliveries.is_empty() {
            let problem = too_many_fetches(caller, of.name.plain(), inbox::WAITING_OF_ONE);
            return Err(inbox_refusal(problem));
        }
        let seal = self.local.seal_of(&self.store).await.map_err(inbox_refusal)?;
        let fetched = leased::<Local>(&seal, caller, fetched);
        fetched.map(Some).map_err(inbox_refusal)
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Option<SettlementOutcome>, SettleError> {
        let caller = &forwarded_for(request.caller);
        let (handle, verdict) = request.what;
        let view = self.local.bus.view();
        let Some((_, inbox)) = served(&view, &handle.of) else {
            return Ok(None);
        };
        let outcome = settle_here(inbox, handle, verdict).await?;
        let seal = self.local.seal_of(&self.store).await.map_err(settle_refusal)?;
        outcome.sealed::<Local>(&seal, caller).map(Some)
    }
}

/// Who called another instance.
fn forwarded_for(component: String) -> Caller {
    Caller {
        component,
        ..Caller::default()
    }
}

/// The very subscription that a request is about, if it is served here.
fn served<'a>(view: &'a View, of: &SubscriptionId) -> Option<(&'a Registered, &'a Inbox)> {
    let registered = view
        .registry
        .get(&of.name)
        .filter(|registered| registered.id() == *of)?;
    Some((registered, &**view.inboxes.get(&of.name)?))
}
