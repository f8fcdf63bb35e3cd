//! The contract, `fanout:bus`, as it is served: who calls, whether its link allows that, bounds, parsing and errors, once
//! for both backends, and before either is asked.
//!
//! Start at `exports` (one service for every listener) and `backend` (what a backend answers). `publisher`, `subscriber`,
//! `inbox` and `status` are the interfaces; `local` and `remote` the backends; `guard` and `shapes` what is judged before a
//! call is decoded. `http` is the same contract for whoever speaks HTTP and JSON.
//!
//! **Architecture invariant**: the contract's types (`fanout_wit`) do not leave this module, but for those that an edge
//! hands on as they are.

mod backend;
mod convert;
mod errors;
mod exports;
mod guard;
mod http;
mod inbox;
mod local;
mod publisher;
mod remote;
mod sending;
mod shapes;
mod status;
mod subscriber;

use fanout_transport::{Error, Service};

pub(crate) use http::Origins;
pub use http::{Share, TailLimits};

/// The functions of a bus, what it answers over HTTP besides, to pages of these origins and in live tails of these bounds, and
/// what serves its other instances until the bus stops.
pub(crate) async fn service(
    bus: crate::bus::Bus,
    origins: Origins,
    tails: TailLimits,
) -> Result<(Service, impl Future<Output = ()> + Send), Error> {
    let routes = http::router(&bus, origins.clone(), tails);
    let local = local::Local::new(bus).await?;
    let service = exports::service(local.clone()).await?;
    let service = service.http(routes, http::is_open, move |request| origins.beside(request));
    Ok((service, local.serve_instances()))
}

/// The functions of an edge.
pub(crate) async fn edge_service(edge: crate::edge::Edge) -> Result<Service, Error> {
    exports::service(edge).await
}
