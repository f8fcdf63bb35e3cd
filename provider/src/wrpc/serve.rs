//! Serves the bus's functions on the lattice.

use fanout_transport::{Error, Server};

use super::bindings;
use crate::bus::Bus;

/// The one handler behind every function of the contract.
#[derive(Clone)]
pub(super) struct Exports {
    pub(super) bus: Bus,
}

/// Serves `publisher`, `subscriber` and `status`.
pub(crate) async fn serve(server: &Server, bus: Bus) -> Result<(), Error> {
    let exports = Exports { bus };
    server
        .serve_bindings(move |port| {
            let exports = exports.clone();
            async move { bindings::serve(port.as_ref(), exports).await }
        })
        .await
}
