//! What the bus says about itself on its status subject.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use fanout_plan::status::BusStatus;

/// Where the bus of the demo is asked how it is doing.
pub(crate) const STATUS: &str = "fanout.served.payments.status";

/// Asks a bus for its status. An error means that it did not answer.
pub(crate) async fn status(client: &async_nats::Client, subject: String) -> Result<BusStatus> {
    let reply = client
        .request(subject, Bytes::new())
        .await
        .context("the bus did not answer on its status subject")?;
    serde_json::from_slice(&reply.payload).context("the bus's status makes no sense")
}
