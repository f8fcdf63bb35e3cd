//! Keeps an entitlement cache: which plan each customer has, and whether it entitles now.
//!
//! Its subscription is a queue of `customer.subscription.*`: lowest latency, at most once. An event that comes while no
//! instance listens is missed, and the customer's next one mends the cache; who needs every event subscribes durably.
//!
//! - [`entitlement`]: what a subscription event says, and the cache.
//! - [`audit`]: counts how often each event was handled, for those who want to see the promise kept.
//! - [`http_api`]: `GET /entitlements/{tenant}/{customer}` and `GET /audit`.
//!
//! Configuration: `audit=true` switches the audit on.
//!
//! What it deliberately lacks: a lock. `wasi:keyvalue` has no compare-and-set, so of two events of one customer that are
//! handled at the very same time the older may be written last. Handled one after the other, the newer always stays.

pub mod audit;
#[cfg(target_family = "wasm")]
mod component;
pub mod entitlement;
pub mod http_api;
