//! The stock wasmCloud v2 host as it is, on this machine: what the demo and the tests run components of ours in.
//!
//! [`Registry`] hands out component files as OCI images, [`WashHost`] is the host's process, [`manifest`] reads what is deployed
//! on Kubernetes, and [`Cluster`] stands for the operator: it fills in settings and secrets, and asks the host by its own
//! control API to run a workload.

mod application;
mod cluster;
mod host;
pub mod manifest;
mod registry;

pub use application::{Application, COMPONENTS, INGRESS};
pub use cluster::{Cluster, Running};
pub use host::WashHost;
pub use registry::Registry;
