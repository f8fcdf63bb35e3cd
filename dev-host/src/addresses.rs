//! Where endpoints are on a v1 host: each has a port of its own, which stands in the manifest.

use anyhow::Result;
use fanout_transport::testing::free_ports;

use crate::endpoints::{Endpoint, Endpoints};

/// Endpoints on free ports of the loopback address. Nothing reserves them until the host listens there.
pub(crate) fn free() -> Result<Endpoints> {
    Endpoints::at(|_| Ok(format!("127.0.0.1:{}", free_ports(1)[0])))
}

/// The word that stands for an endpoint's address in the manifest: `INGRESS_ADDRESS`.
pub(crate) fn placeholder(endpoint: &Endpoint) -> String {
    format!("{}_ADDRESS", endpoint.name().to_uppercase())
}
