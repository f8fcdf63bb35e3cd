//! Serves the bus's functions on the lattice.

use std::sync::Arc;

use fanout_plan::BusName;
use fanout_transport::{Error, Server};
use tokio::sync::Mutex;

use super::bindings;
use crate::bus::Bus;
use crate::inbox::Seal;

/// The one handler behind every function of the contract.
#[derive(Clone)]
pub(super) struct Exports {
    pub(super) bus: Bus,
    /// What seals the inbox's tokens, once one was needed, and for which bus.
    pub(super) seal: Arc<Mutex<Option<(BusName, Arc<Seal>)>>>,
}

/// Serves `publisher`, `subscriber`, `inbox` and `status`.
pub(crate) async fn serve(server: &Server, bus: Bus) -> Result<(), Error> {
    let exports = Exports {
        bus,
        seal: Arc::default(),
    };
    server
        .serve_bindings(move |port| {
            let exports = exports.clone();
            async move { bindings::serve(port.as_ref(), exports).await }
        })
        .await
}
