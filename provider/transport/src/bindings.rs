//! The isolated path: generated bindings serve one invocation at a time each, so that none can hold up another.
//!
//! The `serve` function of wit-bindgen-wrpc hands out one stream of invocations a function, which decodes them one
//! after the other: a sender that stalls blocks it for everyone. Here each invocation gets a `serve` of its own, over a
//! [`Port`] that yields just that one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::oneshot;
use wrpc_transport::Serve;
use wrpc_transport::frame::{Incoming, Outgoing};

use crate::chunks::Chunks;
use crate::failure::Failure;
use crate::frame_io::{read_frames, written_body};
use crate::service::Answer;
use crate::{Caller, Error, Service};

/// One decoded invocation, as generated bindings hand it out.
type Handling = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// One function as generated bindings serve it: instance, name, invocations.
pub type Served = (
    &'static str,
    &'static str,
    Pin<Box<dyn Stream<Item = anyhow::Result<Handling>> + Send>>,
);

/// What generated bindings serve on: `bindings::serve(port.as_ref(), handler)`.
#[derive(Debug)]
pub struct Port(State);

#[expect(clippy::large_enum_variant, reason = "the large one is made for each invocation")]
enum State {
    /// Notes what is exported.
    List(Mutex<Vec<Export>>),
    /// Yields one invocation.
    One {
        export: Arc<Export>,
        invocation: Mutex<Option<(Caller, Outgoing, Incoming)>>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Export {
    instance: String,
    func: String,
    streams: bool,
}

impl Service {
    /// Adds all functions that generated bindings export. `bindings` is called once to learn of them, and once for
    /// each invocation:
    ///
    /// ```text
    /// let service = Service::new()
    ///     .bindings(move |port| {
    ///         let handler = handler.clone();
    ///         async move { bindings::serve(port.as_ref(), handler).await }
    ///     })
    ///     .await?;
    /// ```
    ///
    /// The handler's context is the [`Caller`]. An `Err` of the handler is logged by the server and reaches a stock
    /// caller as "incomplete results": answer domain errors inside WIT results.
    ///
    /// # Errors
    /// For functions with streams, futures or resources.
    pub async fn bindings<B, Fut, I>(mut self, bindings: B) -> Result<Self, Error>
    where
        B: Fn(Arc<Port>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = anyhow::Result<I>> + Send + 'static,
        I: IntoIterator<Item = Served> + Send + 'static,
    {
        let list = Arc::new(Port(State::List(Mutex::default())));
        let served = bindings(Arc::clone(&list))
            .await
            .map_err(|_| Error::Unsupported("an export of the bindings"))?;
        let names: Vec<_> = served.into_iter().map(|(instance, func, _)| (instance, func)).collect();
        let bindings = Arc::new(bindings);
        for export in list.listed() {
            if export.streams {
                return Err(Error::Unsupported("WIT streams and futures"));
            }
            if !names.contains(&(export.instance.as_str(), export.func.as_str())) {
                return Err(Error::Unsupported("WIT resources"));
            }
            let export = Arc::new(export);
            let bindings = Arc::clone(&bindings);
            let handler = {
                let export = Arc::clone(&export);
                move |caller: Caller, parameters: Chunks, limit: usize| -> Answer {
                    let export = Arc::clone(&export);
                    let bindings = Arc::clone(&bindings);
                    Box::pin(async move { isolated(&*bindings, export, limit, caller, parameters).await })
                }
            };
            self.insert(&export.instance, &export.func, Arc::new(handler));
        }
        Ok(self)
    }
}

async fn isolated<B, Fut, I>(
    bindings: &B,
    export: Arc<Export>,
    limit: usize,
    caller: Caller,
    parameters: Chunks,
) -> Result<Bytes, Failure>
where
    B: Fn(Arc<Port>) -> Fut + Sync,
    Fut: Future<Output = anyhow::Result<I>> + Send,
    I: IntoIterator<Item = Served> + Send,
{
    let failed = |error: anyhow::Error| Failure::Failed(format!("{error:#}"));
    let (body_tx, body) = oneshot::channel();
    let outgoing = Outgoing::new(Vec::new(), move |written: Vec<u8>, done| async move {
        let body = done
            .map_err(|error| Failure::Failed(error.to_string()))
            .and_then(|()| written_body(written, limit).map_err(Failure::from));
        // Nobody waits for it any more if the invocation was cut off.
        drop(body_tx.send(body));
    });
    let no_paths: [&[Option<usize>]; 0] = [];
    let incoming = Incoming::new(read_frames(parameters), no_paths, false, |_, _| async {});
    let port = Arc::new(Port(State::One {
        export: Arc::clone(&export),
        invocation: Mutex::new(Some((caller, outgoing, incoming))),
    }));
    let mut invocations = bindings(port)
        .await
        .map_err(failed)?
        .into_iter()
        .find(|(instance, func, _)| *instance == export.instance && *func == export.func)
        .map(|(_, _, invocations)| invocations)
        .ok_or(Error::Protocol("the bindings no longer export the function"))?;
    let handling = invocations
        .next()
        .await
        .ok_or(Error::Protocol("the bindings did not take the invocation"))?
        .map_err(failed)?;
    handling.await.map_err(failed)?;
    body.await.map_err(|_| Error::Protocol("the bindings did not answer"))?
}

impl Port {
    fn listed(&self) -> Vec<Export> {
        match &self.0 {
            State::List(exports) => exports.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            State::One { .. } => Vec::new(),
        }
    }
}

impl Serve for Port {
    type Context = Caller;

    async fn serve(
        &self,
        instance: &str,
        func: &str,
        paths: Arc<[Box<[Option<usize>]>]>,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<(Caller, Outgoing, Incoming)>> + Send + 'static + use<>> {
        let invocation = match &self.0 {
            State::List(exports) => {
                exports.lock().unwrap_or_else(PoisonError::into_inner).push(Export {
                    instance: instance.to_owned(),
                    func: func.to_owned(),
                    streams: !paths.is_empty(),
                });
                None
            }
            State::One { export, invocation } if export.instance == instance && export.func == func => {
                invocation.lock().unwrap_or_else(PoisonError::into_inner).take()
            }
            State::One { .. } => None,
        };
        Ok(stream::iter(invocation.map(Ok)))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List(exports) => f.debug_tuple("List").field(exports).finish(),
            Self::One { export, .. } => f.debug_tuple("One").field(export).finish(),
        }
    }
}
