//! Takes webhooks in over HTTP, verifies them, and publishes what they say as tenants' events.
//!
//! `POST /webhooks/{source}` or `POST /webhooks/{source}/{tenant}`. The answer is 2xx only when every event of the webhook
//! is stored; otherwise its status tells the sender whether sending again can help ([`refusal`] has the whole table).
//!
//! A request goes through these, and a failure at one of them ends it:
//! - the source's settings, read anew for each request from `wasi:config` and `wasmcloud:secrets`. One source's broken
//!   settings do not disturb another's.
//! - the body, never more than the source's limit and one byte.
//! - the crate `webhook-source`: the signature over the raw body, and the events in it. All of them are made before the
//!   first is published, so that what never will be an event is found while nothing is stored.
//! - the bus; [`publish`] is its interface in plain Rust.
//!
//! [`ingress`] is that sequence, free of IO: the host is a trait.
//!
//! A wasmCloud 1.x host ends the request without an answer when the bus can't be reached at all. To the sender that is a
//! failure too, and it sends again: what counts is that no 2xx is answered.
//!
//! What it deliberately lacks: a memory. The bus recognises a webhook that comes twice by tenant, source and id.
//! Secrets, signatures and bodies never reach the log.

#[cfg(target_family = "wasm")]
mod component;
pub mod ingress;
pub mod publish;
pub mod refusal;
