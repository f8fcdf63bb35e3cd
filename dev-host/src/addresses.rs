//! Where endpoints are on a v1 host: each has a port of its own, which stands in the manifest.

use std::net::TcpListener;

use anyhow::{Context as _, Result};

use crate::endpoints::{Endpoint, Endpoints};

/// Endpoints on free ports of the loopback address. Nothing reserves them until the host listens there; the kernel hands out
/// other ones meanwhile.
pub(crate) fn free() -> Result<Endpoints> {
    // Held until all are chosen, so that they differ.
    let mut held = Vec::new();
    Endpoints::at(|_| {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free loopback port")?;
        let address = listener.local_addr().context("a listener has no address")?;
        held.push(listener);
        Ok(address.to_string())
    })
}

/// The word that stands for an endpoint's address in the manifest: `INGRESS_ADDRESS`.
pub(crate) fn placeholder(endpoint: &Endpoint) -> String {
    format!("{}_ADDRESS", endpoint.name().to_uppercase())
}
