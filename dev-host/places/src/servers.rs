//! nats-servers, each a JetStream domain of its own.

use anyhow::{Context as _, Result};
use fanout_tests::{LeafNodes, jetstream_domain};
use fanout_transport::testing::NatsServer;

/// Starts one.
pub(crate) async fn start(domain: &'static str, leaf_nodes: LeafNodes) -> Result<NatsServer> {
    // It panics where there is no server to start, and says what to do.
    let starting = tokio::spawn(jetstream_domain(domain, "", leaf_nodes));
    starting
        .await
        .with_context(|| format!("the nats-server of {domain} did not start"))
}
