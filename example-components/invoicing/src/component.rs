//! The component's boundary: bindings in, plain Rust inside.

#![allow(unsafe_code, reason = "the generated bindings cross the boundary")]

use component_support::{
    answer,
    bus::types,
    delivery::{Delivery, Rejection},
    secrets,
    wasi_store::WasiStore,
};
use exports::fanout::bus::batch_handler::Guest;
use wasmcloud_component::{http, wasi::config};
use webhook_source::{Claim, Secrets, setting::Settings};

use crate::{batch, http_api, provenance};

wit_bindgen::generate!({
    path: ["../../wit", "wit"],
    world: "example:invoicing/invoicing",
    with: { "fanout:bus/types@0.2.0": component_support::bus::types },
});

/// The bucket that holds the lines.
const BUCKET: &str = "invoicing";

struct Component;

export!(Component);
http::export!(Component);

impl Guest for Component {
    fn handle_events(deliveries: Vec<types::Delivery>) -> Vec<Result<(), types::Rejection>> {
        let ready = WasiStore::open(BUCKET)
            .map_err(|error| error.to_string())
            .and_then(|store| Ok((store, settings()?)));
        let (store, settings) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                return deliveries
                    .iter()
                    .map(|_| Err(types::Rejection::Retry(error.clone())))
                    .collect();
            }
        };
        batch::handle(&store, deliveries.iter().map(|delivery| checked(&settings, delivery)))
            .into_iter()
            .map(|result| result.map_err(Into::into))
            .collect()
    }
}

fn settings() -> Result<Settings, String> {
    config::store::get_all().map_err(|_| "the configuration can't be read".to_owned())
}

/// A delivery whose provenance holds, or is not demanded.
fn checked<'a>(settings: &Settings, delivery: &'a types::Delivery) -> Result<Delivery<'a>, Rejection> {
    let event = &delivery.event;
    let extensions: Vec<_> = event
        .extensions
        .iter()
        .map(|attribute| (attribute.name.as_str(), attribute.value.as_str()))
        .collect();
    let claim = Claim {
        source: &event.source,
        tenant: &event.tenant,
        event_type: &event.event_type,
        id: &event.id,
        extensions: &extensions,
        data: &event.data,
        stored_at: delivery.published_at,
    };
    provenance::check(settings, &GivenSecrets, &claim)?;
    Ok(Delivery::from(delivery))
}

/// The secrets that the manifest gives to this component.
struct GivenSecrets;

impl Secrets for GivenSecrets {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        secrets::read(name)
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
