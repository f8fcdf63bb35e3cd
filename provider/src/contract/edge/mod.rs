//! The contract's functions at an edge: the caller's link is checked here, and the bus answers. Traces go along.

mod inbox;
mod publisher;
mod subscriber;

use fanout_transport::{CallContext, Caller, Error, Service};

use super::guard::OfContract;
use super::status;
use crate::edge::Edge;
use crate::inbox::Waiting;
use fanout_wit::bus::exports::fanout::bus::status::Handler as StatusHandler;
use fanout_wit::types::LinkStatus;

#[derive(Clone)]
struct AtEdge {
    edge: Edge,
    /// Fetches that wait.
    waiting: Waiting,
}

/// Fetches of one component that wait at once, and those of all: each is a call to the bus, of which the edge has so
/// many.
const WAITING_OF_ONE: usize = 128;
const WAITING_OF_ALL: usize = 384;

/// The functions of an edge.
pub(crate) async fn service(edge: Edge) -> Result<Service, Error> {
    let guard = OfContract::new(edge.clone());
    let exports = AtEdge {
        edge,
        waiting: Waiting::new(WAITING_OF_ONE, WAITING_OF_ALL),
    };
    Service::new()
        .guarded(guard)
        .bindings(move |port| {
            let exports = exports.clone();
            async move { fanout_wit::bus::serve(port.as_ref(), exports).await }
        })
        .await
}

/// A call to the bus on behalf of a caller: within the edge's own deadline, in the caller's trace.
fn onward(caller: &Caller) -> CallContext {
    CallContext {
        traceparent: caller.traceparent.clone(),
        tracestate: caller.tracestate.clone(),
        ..CallContext::default()
    }
}

impl StatusHandler<Caller> for AtEdge {
    async fn links(&self, caller: Caller) -> anyhow::Result<Vec<LinkStatus>> {
        Ok(status::of(&caller, &self.edge.view().links))
    }
}
