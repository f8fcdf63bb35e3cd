//! The functions of one listener or server: who gets a place, and one invocation from its admission to its result.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::parameters::Parameters;
use crate::service::{Handler, Service};
use crate::wire::{self, Failure};
use crate::{Caller, Options, Part};

/// Served functions by instance and name.
#[derive(Default)]
pub(crate) struct Functions {
    by_name: HashMap<String, HashMap<String, Arc<Function>>>,
}

/// One of them, with places of its own.
pub(crate) struct Function {
    name: String,
    handler: Handler,
    places: Semaphore,
    admitted: Arc<Semaphore>,
    max_result_bytes: usize,
}

/// An invocation that has a place, or one in the queue.
pub(crate) struct Admitted {
    function: Arc<Function>,
    _place: OwnedSemaphorePermit,
}

impl Functions {
    pub(crate) fn new(service: &Service, options: &Options) -> Self {
        let mut functions = Self::default();
        for (instance, func, handler) in service.functions() {
            functions.insert(instance, func, handler, options);
        }
        functions
    }

    /// Adds one; it replaces one of that name.
    pub(crate) fn insert(&mut self, instance: &str, func: &str, handler: &Handler, options: &Options) -> Arc<Function> {
        let function = Arc::new(Function {
            name: format!("{instance}.{func}"),
            handler: Arc::clone(handler),
            places: Semaphore::new(options.in_flight),
            admitted: Arc::new(Semaphore::new(options.in_flight + options.queued)),
            max_result_bytes: options.max_body_bytes,
        });
        let instance = self.by_name.entry(instance.to_owned()).or_default();
        instance.insert(func.to_owned(), Arc::clone(&function));
        function
    }

    /// A place for one invocation now, or a refusal.
    pub(crate) fn admit(&self, instance: &str, func: &str) -> Result<Admitted, Failure> {
        let function = self.by_name.get(instance).and_then(|functions| functions.get(func));
        function.ok_or(Failure::Nobody)?.admit()
    }
}

impl Function {
    /// A place for one invocation now, or a refusal.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admitted, Failure> {
        let place = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Failure::Busy)?;
        Ok(Admitted {
            function: Arc::clone(self),
            _place: place,
        })
    }
}

impl Admitted {
    /// The name of its function.
    pub(crate) fn function(&self) -> &str {
        &self.function.name
    }

    /// Runs the handler until it is done, the deadline passed or the server stops. A panic of it ends here.
    pub(crate) async fn run(
        &self,
        caller: Caller,
        parameters: Parameters,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<Bytes, Failure> {
        let function = &self.function;
        let limit = function.max_result_bytes;
        let work = async {
            let _place = function.places.acquire().await.map_err(|_| Failure::Leaving)?;
            (function.handler)(caller, parameters, limit).await
        };
        tokio::select! {
            biased;
            done = AssertUnwindSafe(work).catch_unwind() => match done {
                Ok(Ok(body)) if body.len() > limit => {
                    Err(wire::too_large(Part::Result, body.len(), limit).into())
                }
                Ok(done) => done,
                Err(_) => Err(Failure::Failed("the handler panicked".into())),
            },
            () = sleep_until(deadline) => Err(Failure::Failed("the deadline passed".into())),
            () = stop.cancelled() => Err(Failure::Failed("the server stops".into())),
        }
    }
}
