//! What operators and their machines ask: whether the process lives, whether the bus can be used, and its numbers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fanout_plan::Code;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::call::Call;
use super::problem::Refused;
use crate::bus::Bus;
use crate::telemetry::{self, AsyncSnapshot as _, Format, Snapshot};

/// What was found out may be this old: however many ask, the store is asked once.
const FRESH: Duration = Duration::from_secs(1);
/// How long the store may take to say that it is there.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What operators are answered from.
#[derive(Clone)]
pub(super) struct Operators {
    bus: Bus,
    readiness: Recent<Readiness>,
    metrics: Recent<Arc<Snapshot>>,
}

/// The process lives.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Alive {
    /// Always true: who is dead says nothing.
    live: bool,
}

/// Whether the bus can be used.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Readiness {
    /// A policy is in force, and the store answers.
    ready: bool,
    /// What is missing.
    missing: Vec<Missing>,
}

/// Something without which the bus can't be used. Anybody may ask, so that it names no tenant and no setting.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Missing {
    /// Stable; each has a page in the documentation.
    code: String,
    /// What is missing, and what to check.
    message: &'static str,
}

impl Operators {
    pub(super) fn new(bus: Bus) -> Self {
        Self {
            bus,
            readiness: Recent::default(),
            metrics: Recent::default(),
        }
    }

    async fn check(&self) -> Readiness {
        let missing = match &self.bus.view().store {
            None => Some((
                Code::BusNotReady,
                "no policy is in force yet: the status and the log say why",
            )),
            Some(store) => match timeout(STORE_ANSWERS_WITHIN, store.is_reached()).await {
                Ok(Ok(())) => None,
                _ => Some((
                    Code::StoreUnavailable,
                    "the store does not answer: check NATS, and the way to it",
                )),
            },
        };
        let missing = missing.map(|(code, message)| Missing {
            code: code.to_string(),
            message,
        });
        Readiness {
            ready: missing.is_none(),
            missing: missing.into_iter().collect(),
        }
    }
}

/// `GET /livez`
pub(super) async fn live() -> Json<Alive> {
    Json(Alive { live: true })
}

/// `GET /readyz`
pub(super) async fn ready(State(operators): State<Operators>) -> Response {
    let readiness = operators.readiness.get(operators.check()).await;
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(readiness)).into_response()
}

/// `GET /metrics`: for whom the policy grants them to.
pub(super) async fn metrics(
    State(operators): State<Operators>,
    call: Call,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    call.parameters(&[])?;
    let snapshot = async { Arc::new(operators.bus.snapshot().await) };
    let snapshot = operators.metrics.get(snapshot).await;
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::negotiated(accept.unwrap_or_default());
    let content_type = [(header::CONTENT_TYPE, format.content_type())];
    Ok((content_type, telemetry::render(&snapshot, format)).into_response())
}

/// Something that is found out for all who ask at a time.
#[derive(Clone, Debug)]
struct Recent<T>(Arc<Mutex<Option<(Instant, T)>>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Recent<T> {
    async fn get(&self, find_out: impl Future<Output = T>) -> T {
        let mut last = self.0.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < FRESH
        {
            return found.clone();
        }
        let found = find_out.await;
        *last = Some((Instant::now(), found.clone()));
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_ask_it_is_found_out_once() {
        let (recent, times) = (Recent::default(), AtomicU32::new(0));
        let ask = || recent.get(async { times.fetch_add(1, Ordering::Relaxed) });
        assert_eq!(tokio::join!(ask(), ask(), ask()), (0, 0, 0));
        tokio::time::advance(FRESH).await;
        assert_eq!(ask().await, 1);
    }
}
