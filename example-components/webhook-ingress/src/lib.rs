//! Takes webhooks in over HTTP, verifies them, and publishes each as a tenant's event.
//!
//! `POST /webhooks/{source}` or `POST /webhooks/{source}/{tenant}`. The answer is 2xx only when the event is stored;
//! otherwise its status tells the sender whether sending again can help ([`refusal`] has the whole table).
//!
//! A request goes through these, and a failure at one of them ends it:
//! - [`source`]: the source's settings, read anew for each request from `wasi:config` through [`setting`], [`place`] and
//!   [`unit`](mod@unit). One source's broken settings do not disturb another's.
//! - the body, never more than the source's limit and one byte.
//! - the signature over the raw body, by the crate `webhook-signature`.
//! - [`event`]: tenant, type, id and time, found where the source's settings say.
//! - the bus; [`publish`] is its interface in plain Rust.
//!
//! [`ingress`] is that sequence, free of IO: the host is a trait.
//!
//! A wasmCloud 1.x host ends the request without an answer when the bus can't be reached at all. To the sender that is a
//! failure too, and it sends again: what counts is that no 2xx is answered.
//!
//! What it deliberately lacks: a memory. The bus recognises a webhook that comes twice by the tenant and the event's id.
//! Secrets, signatures and bodies never reach the log.

#[cfg(target_family = "wasm")]
mod component;
pub mod event;
pub mod ingress;
pub mod place;
pub mod publish;
pub mod refusal;
pub mod setting;
pub mod source;
pub mod unit;
