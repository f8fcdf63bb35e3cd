//! Makes tenants' events of webhooks, and lets a consumer check the proof again.
//!
//! [`Source`] is what the settings say of one sender: its keys, and where in its webhooks the tenant, the type and the id
//! are. [`Source::events`] verifies a webhook by the crate `webhook-signature` and makes its events: all of them, or a
//! [`Refusal`]. [`recheck`](fn@recheck) is the consumer's side: it verifies again what an event carries as evidence.
//!
//! What this crate deliberately lacks: HTTP, the bus, a clock, a memory. The component `webhook-ingress` has them. It
//! stands by itself because a component can't be linked into another one, and a consumer that demands proof needs this.
//!
//! - [`setting`], [`place`], [`items`], [`unit`](mod@unit), [`defaults`]: what a source's settings are made of.
//! - [`document`]: JSON, forms and XML as one tree.
//! - [`event`]: a webhook's events; [`provenance`]: what they say of how they were verified.

pub mod defaults;
pub mod document;
pub mod event;
pub mod items;
mod json;
pub mod place;
pub mod provenance;
pub mod recheck;
pub mod refusal;
mod rule;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
pub mod setting;
pub mod source;
pub mod unit;

pub use event::{Event, Webhook};
pub use provenance::Provenance;
pub use recheck::{Claim, Unproven, recheck};
pub use refusal::Refusal;
pub use source::{Evidence, Secrets, Source};
