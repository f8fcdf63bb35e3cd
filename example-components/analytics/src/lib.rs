//! Counts and sums a bus's events, for each tenant, type and day.
//!
//! It comes late and starts with history: a backfill delivers the retained log from a point on, then goes on live, and
//! says once when it has caught up. Backfills are made by a call (`POST /backfills`), or by the operator in a link.
//!
//! Each event is one entry in the store, and a report is counted from the entries: an event that is delivered twice, by a
//! crash or because two attempts overlapped, still counts once.
//!
//! - [`backfill`]: what `POST /backfills` takes.
//! - [`bus`]: the bus's subscriber interface as a trait, and [`subscription`], what it tells.
//! - [`fact`]: what an event adds to the reports.
//! - [`caught_up`]: when a backfill reached the present.
//! - [`report`]: counts and sums.
//! - [`http_api`]: `POST /backfills`, `GET /reports/{subscription}`, `GET /subscriptions` and
//!   `DELETE /subscriptions/{name}`.

pub mod backfill;
pub mod bus;
pub mod caught_up;
#[cfg(target_family = "wasm")]
mod component;
pub mod fact;
pub mod http_api;
pub mod report;
pub mod subscription;
