//! A bus in several places on a model of their stores: places join in any order, links are cut, the topology is changed, and
//! whatever happens no two places take one subject, and no two partitions have one number.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

mod joins;
mod laws;
mod problems;
mod retired;
#[expect(dead_code, reason = "other tests need the rest of it")]
#[path = "../subjects/mod.rs"]
mod subjects;
mod subscriptions;
mod world;
