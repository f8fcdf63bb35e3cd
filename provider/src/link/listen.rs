//! Receives links from the host directly.
//!
//! The host announces each new, changed and deleted link on the lattice. The provider listens there itself: its SDK
//! (wasmcloud-provider-sdk 0.17.1) drops a changed one as a duplicate, and takes both of a component's two links for deleted
//! when one is.

use async_nats::{Client, SubscribeError};
use fanout_transport::Tally;
use futures::StreamExt as _;
use tokio::task::JoinHandle;
use wasmcloud_core::InterfaceLinkDefinition;

use super::{Link, LinkKey, LinkSink, from_definition};

/// Subscribes; when this returns, no later change is missed.
pub(crate) async fn listen(
    nats: &Client,
    lattice: &str,
    provider: &str,
    who: impl LinkSink,
) -> Result<[JoinHandle<()>; 2], SubscribeError> {
    let put = follow(nats, lattice, provider, "put", who.clone(), |who, key, link| {
        who.put_link(key, link)
    })
    .await?;
    let deleted = follow(nats, lattice, provider, "del", who, |who, key, _| who.delete_link(&key)).await?;
    Ok([put, deleted])
}

async fn follow<W: LinkSink>(
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
    let unreadable = Tally::new("announcements of links could not be read");
    Ok(tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            match serde_json::from_slice::<InterfaceLinkDefinition>(&message.payload) {
                Ok(definition) => {
                    if let Some((key, link)) = from_definition(&provider, definition) {
                        act(&who, key, link);
                    }
                }
                // The payload may hold sealed secrets: it is not repeated.
                Err(error) => unreadable.count(|| format!("{}: {error}", message.subject)),
            }
        }
    }))
}
