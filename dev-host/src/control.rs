//! The lattice's control interface, as any operator's tool uses it.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::LATTICE;

#[derive(Deserialize)]
struct Answer<T> {
    success: bool,
    #[serde(default)]
    message: String,
    response: Option<T>,
}

/// Asks for something.
pub(crate) async fn ask<T: DeserializeOwned>(client: &async_nats::Client, what: &str) -> Result<T> {
    let answer = exchange(client, what, Bytes::new()).await?;
    answer
        .response
        .with_context(|| format!("the host answered nothing to {what}"))
}

/// Asks for something to be done.
pub(crate) async fn tell(client: &async_nats::Client, what: &str, with: &impl Serialize) -> Result<()> {
    let payload = serde_json::to_vec(with).with_context(|| format!("can't say {what}"))?;
    let _: Answer<serde_json::Value> = exchange(client, what, payload.into()).await?;
    Ok(())
}

async fn exchange<T: DeserializeOwned>(client: &async_nats::Client, what: &str, payload: Bytes) -> Result<Answer<T>> {
    let reply = client
        .request(format!("wasmbus.ctl.v1.{LATTICE}.{what}"), payload)
        .await
        .with_context(|| format!("the host did not answer to {what}"))?;
    let answer: Answer<T> = serde_json::from_slice(&reply.payload)
        .with_context(|| format!("the host's answer to {what} makes no sense"))?;
    if !answer.success {
        bail!("the host refused {what}: {}", answer.message);
    }
    Ok(answer)
}
