//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use component_support::{answer, bus::types, delivery::Delivery, wasi_store::WasiStore};
use exports::fanout::bus::batch_handler::Guest;
use wasmcloud_component::http;

use crate::{batch, http_api};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:invoicing/invoicing",
    with: { "fanout:bus/types@0.1.0": component_support::bus::types },
});

/// The bucket that holds the lines.
const BUCKET: &str = "invoicing";

struct Component;

export!(Component);
http::export!(Component);

impl Guest for Component {
    fn handle_events(deliveries: Vec<types::Delivery>) -> Vec<Result<(), types::Rejection>> {
        let store = match WasiStore::open(BUCKET) {
            Ok(store) => store,
            Err(error) => {
                return deliveries
                    .iter()
                    .map(|_| Err(types::Rejection::Retry(error.to_string())))
                    .collect();
            }
        };
        let deliveries: Vec<_> = deliveries.iter().map(Delivery::from).collect();
        batch::handle(&store, &deliveries)
            .into_iter()
            .map(|result| result.map_err(Into::into))
            .collect()
    }
}

impl http::Server for Component {
    fn handle(request: http::IncomingRequest) -> http::Result<http::Response<impl http::OutgoingBody>> {
        Ok(match WasiStore::open(BUCKET) {
            Ok(store) => http_api::answer(request.method(), request.uri().path(), &store),
            Err(error) => answer::store_unavailable(&error),
        })
    }
}
