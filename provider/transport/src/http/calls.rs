//! One request's calls: who makes them, and what they may hold.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::functions::{Admitted, Answer};
use crate::http::problem::HttpProblem;
use crate::result_budget::ResultPermits;
use crate::stream::listener_state::ListenerState;
use crate::stream::peer::{InFlight, Peer};
use crate::stream::stock::PeerResults;
use crate::{Caller, Error, Identity, Resource};

/// What a call takes of the allowance at least.
pub(crate) const MIN_CALL_BYTES: usize = 256;
/// A stream's token is looked up this often: it may be taken out of the policy while the stream goes on.
const CHECK_TOKEN_EVERY: Duration = Duration::from_secs(10);

/// By which a route makes calls of its service, as the caller of its request. It is among the request's extensions; clones
/// are the same request's.
///
/// The request's body and the result of its last call count against its caller until the response is sent.
#[derive(Clone)]
pub struct Calls(Arc<Request>);

/// One request, from its head to the end of its response.
struct Request {
    listener: Arc<ListenerState>,
    peer: Peer,
    caller: Caller,
    arrived: Instant,
    deadline: Duration,
    /// The connection takes no more requests.
    leaving: CancellationToken,
    reserved: Mutex<Reserved>,
    _in_flight: InFlight,
}

#[derive(Debug, Default)]
struct Reserved {
    body: Permits,
    result: ResultPermits,
    /// Why the request's body can't be read: the answer to it, whatever a route makes of that.
    fault: Option<HttpProblem>,
}

impl Calls {
    /// Those of a request that has just arrived; `None` where its caller has as many as it may have.
    pub(crate) fn begin(
        listener: &Arc<ListenerState>,
        peer: Peer,
        caller: Caller,
        deadline_ms: u32,
        leaving: CancellationToken,
    ) -> Option<Self> {
        let in_flight = peer.call(listener)?;
        Some(Self(Arc::new(Request {
            listener: Arc::clone(listener),
            deadline: listener.deadline(deadline_ms),
            peer,
            caller,
            arrived: Instant::now(),
            leaving,
            reserved: Mutex::default(),
            _in_flight: in_flight,
        })))
    }

    /// Who sends the request.
    #[must_use]
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// Calls a function with encoded parameters; returns its encoded result. It is the call that this caller could have made
    /// itself: the guard judges it, it waits for its permits, and it has the deadline of any call, from now on.
    ///
    /// # Errors
    /// [`Error::NoResponders`], [`Error::Busy`], or [`Error::Remote`] with the handler's reason. [`Error::outcome`] is what is
    /// known of the handler; `HttpProblem::from` makes an answer of it.
    pub async fn invoke(&self, instance: &str, func: &str, params: Bytes) -> Result<Bytes, Error> {
        // A result that waits for the one before would wait for itself.
        self.reserved().result = ResultPermits::default();
        let admitted = self.admit(instance, func, &params)?;
        let (params, permits) = match admitted.is_refused() {
            true => (Bytes::new(), Permits::default()),
            false => {
                let permits = self.permits(params.len()).ok_or(Error::Busy(Resource::Bytes))?;
                (params, permits)
            }
        };
        let deadline = Instant::now() + self.0.deadline;
        let Answer { body, permits } = self.run(admitted, params, permits, deadline).await?;
        self.reserved().result = permits;
        Ok(body)
    }

    /// A permit for a call of a function, or its refusal. `first` is what is here of its parameters.
    pub(crate) fn admit(&self, instance: &str, func: &str, first: &[u8]) -> Result<Admitted, Error> {
        let functions = &self.0.listener.functions;
        Ok(functions.admit(instance, func, self.0.caller.clone(), first)?)
    }

    /// Runs a call that was admitted.
    pub(crate) async fn run(
        &self,
        admitted: Admitted,
        params: Bytes,
        permits: Permits,
        deadline: Instant,
    ) -> Result<Answer, Error> {
        let request = &self.0;
        let (instance, func) = admitted.function();
        let name = format!("{instance}.{func}");
        let parameters = Chunks::whole(params, permits);
        let results = Arc::new(PeerResults {
            listener: Arc::clone(&request.listener),
            peer: request.peer.clone(),
        });
        let run = admitted.run(parameters, deadline, &request.listener.stop, &results);
        run.await.map_err(|failure| {
            let calls = &request.listener.tallies.calls;
            calls.count(|| format!("{name}, called by {}: {failure}", request.caller.identity));
            failure.into()
        })
    }

    /// Permits for `bytes` of parameters.
    pub(crate) fn permits(&self, bytes: usize) -> Option<Permits> {
        self.0.peer.permits(&self.0.listener, bytes.max(MIN_CALL_BYTES))
    }

    /// Holds permits of the request's body until its response is sent.
    pub(crate) fn hold(&self, permits: Permits) {
        self.reserved().body.merge(permits);
    }

    /// Takes over what [`Calls::hold`] holds.
    pub(crate) fn take_reserved(&self) -> Permits {
        std::mem::take(&mut self.reserved().body)
    }

    /// Notes why the request's body can't be read.
    pub(crate) fn fail(&self, problem: HttpProblem) {
        self.reserved().fault.get_or_insert(problem);
    }

    /// Why it could not be read.
    pub(crate) fn fault(&self) -> Option<HttpProblem> {
        self.reserved().fault.take()
    }

    /// When the request's own call has to be done.
    pub(crate) fn deadline(&self) -> Instant {
        self.0.arrived + self.0.deadline
    }

    pub(crate) fn listener(&self) -> &Arc<ListenerState> {
        &self.0.listener
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.0.peer
    }

    /// Ends when a response that goes on has to end.
    pub(crate) async fn over(self) {
        let Request {
            listener,
            leaving,
            caller,
            ..
        } = &*self.0;
        let forgotten = async {
            let Identity::Token(token) = &caller.identity else {
                return std::future::pending().await;
            };
            while listener
                .guard
                .as_ref()
                .is_some_and(|guard| guard.knows_token(&token.sha256))
            {
                sleep(CHECK_TOKEN_EVERY).await;
            }
        };
        tokio::select! {
            () = leaving.cancelled() => {}
            () = listener.drain.cancelled() => {}
            () = forgotten => {}
        }
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.0.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls")
            .field("caller", &self.0.caller)
            .finish_non_exhaustive()
    }
}
