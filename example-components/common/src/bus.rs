//! The bus's types as they cross into a component, and their plain counterparts.
//!
//! A component maps `fanout:bus/types@0.2.0` to [`types`] with `wit_bindgen::generate!`'s `with`.

use crate::delivery::{Delivery, Rejection};

#[allow(missing_docs, unsafe_code)]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package fanout:component-support;
            world component-support {
                import fanout:bus/types@0.2.0;
            }
        ",
        path: "../../wit",
        generate_all,
        generate_unused_types: true,
    });
}

pub use bindings::fanout::bus::types;

impl<'a> From<&'a types::Delivery> for Delivery<'a> {
    fn from(delivery: &'a types::Delivery) -> Self {
        Self {
            subscription: &delivery.subscription,
            tenant: &delivery.event.tenant,
            event_type: &delivery.event.event_type,
            id: &delivery.event.id,
            source: &delivery.event.source,
            time: delivery.event.time,
            published_at: delivery.published_at,
            replayed: delivery.origin == types::Origin::Replayed,
            data: &delivery.event.data,
        }
    }
}

impl From<Rejection> for types::Rejection {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Retry(reason) => Self::Retry(reason),
            Rejection::DeadLetter(reason) => Self::DeadLetter(reason),
        }
    }
}
