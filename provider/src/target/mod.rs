//! What deliveries are handed to ([`crate::delivery::Target`]): a component's exports.
//!
//! It speaks the contract's types and knows no bus: `bus/` and `edge/` start deliveries with it.

mod component;
pub(crate) mod convert;

#[cfg(test)]
pub(crate) use component::{ANSWER, ANSWERS};
pub(crate) use component::{REJECTION, Subscriber};
