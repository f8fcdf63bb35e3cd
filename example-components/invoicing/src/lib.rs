//! Writes an invoice line for each invoice event.
//!
//! Its subscription is durable, `invoice.*`: at least once, also after days away. So the same event can come twice, and
//! the line's key is made of the tenant and the event's id: written twice, it is one line. Deliveries come in batches, and
//! each is answered for itself: one that can't be handled does not hold up the others.
//!
//! - [`line`](mod@line): what an invoice event says.
//! - [`batch`]: many deliveries into the store.
//! - [`provenance`]: what is demanded of an event before it counts.
//! - [`totals`]: lines and sums for each tenant.
//! - [`http_api`]: `GET /invoices` and `GET /invoices/{tenant}`.

pub mod batch;
#[cfg(target_family = "wasm")]
mod component;
pub mod http_api;
pub mod line;
pub mod provenance;
pub mod totals;
