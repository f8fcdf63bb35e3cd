//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use component_support::{
    answer,
    bus::types,
    delivery::{Delivery, Rejection},
    wasi_store::WasiStore,
};
use exports::fanout::bus::handler::Guest;
use wasmcloud_component::{http, warn, wasi::config};

use crate::{audit, entitlement, http_api};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:entitlements/entitlements",
    with: { "fanout:bus/types@0.2.0": component_support::bus::types },
});

/// The bucket that holds the cache and the audit.
const BUCKET: &str = "entitlements";

struct Component;

export!(Component);
http::export!(Component);

impl Guest for Component {
    fn handle_event(delivery: types::Delivery) -> Result<(), types::Rejection> {
        let delivery = Delivery::from(&delivery);
        handle(&delivery).map_err(|rejection| {
            // A queue subscription keeps no dead letters: this line is all that remains of the event.
            warn!(
                "event {:?} of tenant {} was not handled: {rejection:?}",
                delivery.id, delivery.tenant
            );
            rejection.into()
        })
    }
}

fn handle(delivery: &Delivery<'_>) -> Result<(), Rejection> {
    let unavailable = |error| Rejection::Retry(format!("{error}"));
    let store = WasiStore::open(BUCKET).map_err(unavailable)?;
    entitlement::apply(&store, delivery)?;
    if audited() {
        audit::record(&store, delivery).map_err(unavailable)?;
    }
    Ok(())
}

fn audited() -> bool {
    matches!(config::store::get("audit"), Ok(Some(value)) if value == "true")
}

impl http::Server for Component {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        Ok(match WasiStore::open(BUCKET) {
            Ok(store) => http_api::answer(request.method(), request.uri().path(), &store),
            Err(error) => answer::store_unavailable(&error),
        })
    }
}
