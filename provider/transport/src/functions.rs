//! The functions of one listener: who gets a place, and one invocation from its admission to its result.

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

/// Served functions by instance and name, with places of their own each.
pub(crate) struct Functions {
    by_name: HashMap<String, HashMap<String, Arc<Function>>>,
    max_result_bytes: usize,
}

struct Function {
    handler: Handler,
    places: Semaphore,
    admitted: Arc<Semaphore>,
}

/// An invocation that has a place, or one in the queue.
pub(crate) struct Admitted {
    function: Arc<Function>,
    max_result_bytes: usize,
    _place: OwnedSemaphorePermit,
}

impl Functions {
    pub(crate) fn new(service: &Service, options: &Options) -> Self {
        let mut by_name: HashMap<String, HashMap<String, Arc<Function>>> = HashMap::new();
        for (instance, func, handler) in service.functions() {
            let function = Function {
                handler: Arc::clone(handler),
                places: Semaphore::new(options.in_flight),
                admitted: Arc::new(Semaphore::new(options.in_flight + options.queued)),
            };
            by_name
                .entry(instance.to_owned())
                .or_default()
                .insert(func.to_owned(), Arc::new(function));
        }
        Self {
            by_name,
            max_result_bytes: options.max_body_bytes,
        }
    }

    /// A place for one invocation now, or a refusal.
    pub(crate) fn admit(&self, instance: &str, func: &str) -> Result<Admitted, Failure> {
        let function = self.by_name.get(instance).and_then(|functions| functions.get(func));
        let function = Arc::clone(function.ok_or(Failure::Nobody)?);
        let place = Arc::clone(&function.admitted)
            .try_acquire_owned()
            .map_err(|_| Failure::Busy)?;
        Ok(Admitted {
            function,
            max_result_bytes: self.max_result_bytes,
            _place: place,
        })
    }
}

impl Admitted {
    /// Runs the handler until it is done, the deadline passed or the server stops. A panic of it ends here.
    pub(crate) async fn run(
        self,
        caller: Caller,
        parameters: Parameters,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<Bytes, Failure> {
        let limit = self.max_result_bytes;
        let work = async {
            let _place = self.function.places.acquire().await.map_err(|_| Failure::Leaving)?;
            (self.function.handler)(caller, parameters, limit).await
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
