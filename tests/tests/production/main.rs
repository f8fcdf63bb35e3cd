//! `deploy/nats` as it lies there: three servers that are one cluster, with their users, and the server of an edge.
//! What docs/production.md says of each user holds, and the server refuses the rest.

mod backup;
mod cluster;
mod edge;
mod metrics;
mod places;
mod users;
mod variables;
