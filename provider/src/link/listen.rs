//! Hears of links from the host directly.
//!
//! The provider SDK passes a new link on but not a changed one (it logs "duplicate link put" and drops it), and after
//! the deletion of one of a component's two links it takes both for deleted (wasmcloud-provider-sdk 0.17.1). The host
//! announces all of them on the lattice, so the provider listens there itself.

use async_nats::{Client, SubscribeError};
use futures::StreamExt as _;
use tokio::task::JoinHandle;
use tracing::warn;
use wasmcloud_core::InterfaceLinkDefinition;

use super::{Hears, Link, LinkKey, from_definition};

/// Subscribes; when this returns, no later change is missed.
pub(crate) async fn listen(
    nats: &Client,
    lattice: &str,
    provider: &str,
    who: impl Hears,
) -> Result<[JoinHandle<()>; 2], SubscribeError> {
    let put = follow(nats, lattice, provider, "put", who.clone(), |who, key, link| {
        who.put_link(key, link)
    })
    .await?;
    let deleted = follow(nats, lattice, provider, "del", who, |who, key, _| who.delete_link(&key)).await?;
    Ok([put, deleted])
}

async fn follow<W: Hears>(
    nats: &Client,
    lattice: &str,
    provider: &str,
    verb: &str,
    who: W,
    act: fn(&W, LinkKey, Link),
) -> Result<JoinHandle<()>, SubscribeError> {
    let subject = format!("wasmbus.rpc.{lattice}.{provider}.linkdefs.{verb}");
    let mut messages = nats.subscribe(subject).await?;
    let provider = provider.to_owned();
    Ok(tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            match serde_json::from_slice::<InterfaceLinkDefinition>(&message.payload) {
                Ok(definition) => {
                    if let Some((key, link)) = from_definition(&provider, definition) {
                        act(&who, key, link);
                    }
                }
                // The payload may hold sealed secrets: it is not repeated.
                Err(error) => {
                    warn!(subject = %message.subject, %error, "the host announced a link that is not readable")
                }
            }
        }
    }))
}
