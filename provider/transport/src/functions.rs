//! The functions of one listener or server: who gets a permit, and one invocation from its admission to its result.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::chunks::Chunks;
use crate::counts::Counters;
use crate::failure::{Failure, too_large};
use crate::guard::{Guard, Refusal};
use crate::result_budget::{Reserve, Reserved, ResultBudget, ResultPermits};
use crate::service::{Handler, Service};
use crate::shape::Shape;
use crate::shares::{CallerKey, Share, Shares};
use crate::{Body, Caller, Error, Options};

/// Refusals of one function that are on their way at once. One more is refused without a word of why.
const MAX_REFUSALS: usize = 64;

tokio::task_local! {
    /// The invocation that runs here.
    static INVOCATION: Invocation;
}

/// What an invocation holds while its handler runs.
struct Invocation {
    /// Of its function: its permit among the handlers that run, and in the queue.
    held: RefCell<Vec<Share>>,
    caller: CallerKey,
    results: Arc<dyn Reserve>,
    reserved: RefCell<Option<Reserved>>,
}

/// The result of an invocation, and its permits until it is sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) permits: ResultPermits,
}

/// Gives back what this invocation holds of its function: its permit among the handlers that run, and in the queue. For
/// a handler that waits for something that has nothing to do with others, such as an event; how many may wait so is up
/// to it. Outside of an invocation it does nothing.
pub fn wait_without_permits() {
    // Nothing is held where no invocation runs.
    INVOCATION
        .try_with(|invocation| drop(std::mem::take(&mut *invocation.held.borrow_mut())))
        .ok();
}

/// Takes the permits for a result of `bytes` out of the caller's share, as soon as they are free, in place of those that this
/// invocation took before. A handler that makes large results calls it first: then a caller that does not read its results
/// waits for itself, and no memory is taken for results that can't be sent. The invocation keeps the permits until its result
/// is sent. The invocation's deadline bounds the wait; the handler may bound it further. Outside of an invocation it does nothing.
pub async fn reserve_result(bytes: usize) {
    release_result();
    let reserve = |invocation: &Invocation| Arc::clone(&invocation.results).reserve(invocation.caller.clone(), bytes);
    let Ok(reserved) = INVOCATION.try_with(reserve) else {
        return;
    };
    let reserved = reserved.await;
    INVOCATION
        .try_with(|invocation| drop(invocation.reserved.replace(Some(reserved))))
        .ok();
}

/// Gives back what [`reserve_result`] took: for a handler that waits, and makes no result yet.
pub fn release_result() {
    INVOCATION.try_with(|invocation| drop(invocation.reserved.take())).ok();
}

/// Served functions by instance and name.
#[derive(Default)]
pub(crate) struct Functions {
    by_name: HashMap<String, HashMap<String, Arc<Function>>>,
}

/// One of them, with permits of its own.
pub(crate) struct Function {
    instance: String,
    func: String,
    handler: Handler,
    guard: Option<Arc<dyn Guard>>,
    shape: Option<&'static Shape>,
    running: Arc<Shares>,
    admitted: Arc<Shares>,
    refusals: Arc<Semaphore>,
    max_result_bytes: usize,
    counts: &'static Counters,
}

/// An invocation that has a permit to run or to wait, or that is refused with an answer.
pub(crate) struct Admitted {
    function: Arc<Function>,
    state: State,
    key: CallerKey,
}

enum State {
    In(Box<Caller>, Share),
    Refused(Refusal, OwnedSemaphorePermit),
}

impl Functions {
    pub(crate) fn new(service: &Service, options: &Options, counts: &'static Counters) -> Self {
        let mut functions = Self::default();
        for (instance, func, handler) in service.functions() {
            let function = Arc::new(Function::new(service, (instance, func), handler, (options, counts)));
            let by_func = functions.by_name.entry(instance.to_owned()).or_default();
            by_func.insert(func.to_owned(), function);
        }
        functions
    }

    /// A permit for one invocation now, or a refusal. `first` is what is here of its parameters.
    pub(crate) fn admit(&self, instance: &str, func: &str, caller: Caller, first: &[u8]) -> Result<Admitted, Failure> {
        let function = self.by_name.get(instance).and_then(|functions| functions.get(func));
        function.ok_or(Failure::Nobody)?.admit(caller, first)
    }
}

impl Function {
    /// One of a service's.
    pub(crate) fn new(
        service: &Service,
        (instance, func): (&str, &str),
        handler: &Handler,
        (options, counts): (&Options, &'static Counters),
    ) -> Self {
        let guard = service.guard();
        Self {
            instance: instance.to_owned(),
            func: func.to_owned(),
            handler: Arc::clone(handler),
            shape: guard.and_then(|guard| guard.shape(instance, func)),
            guard: guard.map(Arc::clone),
            running: Arc::new(Shares::new(options.in_flight)),
            admitted: Arc::new(Shares::new(options.in_flight + options.queued)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            max_result_bytes: options.max_body_bytes,
            counts,
        }
    }

    /// A permit for one invocation now, or a refusal.
    pub(crate) fn admit(self: &Arc<Self>, caller: Caller, first: &[u8]) -> Result<Admitted, Failure> {
        let admitted = self.judge(caller, first);
        if !admitted.as_ref().is_ok_and(|admitted| !admitted.is_refused()) {
            self.counts.call_refused();
        }
        admitted
    }

    fn judge(self: &Arc<Self>, caller: Caller, first: &[u8]) -> Result<Admitted, Failure> {
        let judged = match &self.guard {
            Some(guard) => guard.admit(caller, &self.instance, &self.func, first),
            None => Ok(caller),
        };
        let (key, state) = match judged {
            Ok(caller) => {
                let key = caller.key();
                let share = self.admitted.try_take(&key, 1).ok_or(Failure::Busy)?;
                (key, State::In(Box::new(caller), share))
            }
            Err(refusal) => {
                let refusing = Arc::clone(&self.refusals).try_acquire_owned();
                (
                    CallerKey::from(""),
                    State::Refused(refusal, refusing.map_err(|_| Failure::Busy)?),
                )
            }
        };
        Ok(Admitted {
            function: Arc::clone(self),
            state,
            key,
        })
    }
}

impl Admitted {
    /// Whose share of everything it counts against.
    pub(crate) fn key(&self) -> &CallerKey {
        &self.key
    }

    /// Whether it is answered without a look at its parameters: none have to be read.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused(..))
    }

    /// The instance and the name of its function.
    pub(crate) fn function(&self) -> (&str, &str) {
        (&self.function.instance, &self.function.func)
    }

    /// Runs the handler until it is done, the deadline passed or the server stops. A panic of it ends here. The result has
    /// its permits of `results`.
    pub(crate) async fn run<B: ResultBudget>(
        self,
        parameters: Chunks,
        deadline: Instant,
        stop: &CancellationToken,
        results: &Arc<B>,
    ) -> Result<Answer, Failure> {
        let function = &*self.function;
        let (caller, share) = match self.state {
            State::In(caller, share) => (caller, share),
            State::Refused(refusal, _refusing) => {
                let permits = ResultPermits::default();
                return refusal.into_answer().map(|body| Answer { body, permits });
            }
        };
        let counted = function.counts.call();
        let limit = function.max_result_bytes;
        let work = async {
            let permit = function.running.take(&self.key, 1).await;
            let handling = async {
                let parameters = match function.walk(&caller, parameters).await? {
                    Ok(parameters) => parameters,
                    Err(refusal) => return refusal.into_answer(),
                };
                (function.handler)(*caller, parameters, limit).await
            };
            let invocation = Invocation {
                held: RefCell::new(vec![permit, share]),
                caller: CallerKey::clone(&self.key),
                results: Arc::<B>::clone(results),
                reserved: RefCell::default(),
            };
            let mut handling = pin!(INVOCATION.scope(invocation, handling));
            let body = handling.as_mut().await;
            let invocation = handling.take_value();
            let reserved = invocation.and_then(|invocation| invocation.reserved.into_inner());
            body.map(|body| (body, reserved))
        };
        let (body, reserved) = tokio::select! {
            biased;
            done = AssertUnwindSafe(work).catch_unwind() => match done {
                Ok(done) => done?,
                Err(_) => return Err(Failure::Failed("the handler panicked".into())),
            },
            () = sleep_until(deadline) => return Err(Failure::Failed("the deadline passed".into())),
            () = stop.cancelled() => return Err(Failure::Failed("the server stops".into())),
        };
        if body.len() > limit {
            return Err(too_large(Body::Result, body.len(), limit).into());
        }
        let permits = match reserved {
            Some(reserved) if reserved.bytes >= body.len() => reserved.permits,
            less => {
                drop(less);
                let taken = timeout_at(deadline, results.take(&self.key, body.len())).await;
                taken.map_err(|_| Failure::Failed("no memory left for the result".into()))?
            }
        };
        counted.answered();
        Ok(Answer { body, permits })
    }
}

impl Function {
    /// Counts what there is of each thing in the parameters, before anything is made of them.
    async fn walk(&self, caller: &Caller, parameters: Chunks) -> Result<Result<Chunks, Refusal>, Error> {
        let (Some(guard), Some(shape)) = (&self.guard, self.shape) else {
            return Ok(Ok(parameters));
        };
        let walked = parameters.walked(shape).await?;
        Ok(walked.map_err(|many| guard.too_many(caller, &self.instance, &self.func, many)))
    }
}
