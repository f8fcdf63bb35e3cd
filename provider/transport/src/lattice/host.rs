//! What a wasmCloud v1 host requests of a provider on the lattice, and how the provider answers: health, configuration and the
//! order to end.
//!
//! It stands in for `run_provider` of wasmcloud-provider-sdk 0.17.1, which answers a health check on whatever subject its
//! sender names (docs/adr/0013). The host's data, on standard input, is the SDK's to read, and links are the provider's own.

use std::collections::HashMap;
use std::sync::Arc;

use async_nats::{Client, Message, Subscriber};
use futures::StreamExt as _;
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::lattice::inboxes::Inboxes;
use crate::{Error, Tally};

/// The ids of a provider and its host, from the host's data.
#[derive(Clone, Debug)]
pub struct HostIds {
    /// The host.
    pub host: String,
    /// The lattice.
    pub lattice: String,
    /// The provider's own id.
    pub provider: String,
}

/// A provider's dealings with its host. Dropping it ends them.
#[derive(Debug)]
pub struct HostControl {
    health: watch::Sender<bool>,
    config: watch::Receiver<Option<HashMap<String, String>>>,
    shutdown: watch::Receiver<bool>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Shutdown {
    host_id: String,
}

impl HostControl {
    /// Begins to answer the host; until [`HostControl::serving`] the answer is that the provider starts.
    ///
    /// # Errors
    /// If NATS refuses a subscription.
    pub async fn attend(nats: &Client, inboxes: &Inboxes, ids: &HostIds) -> Result<Self, Error> {
        let of = async |what: &str| {
            let subject = format!("wasmbus.rpc.{}.{}.{what}", ids.lattice, ids.provider);
            nats.subscribe(subject)
                .await
                .map_err(|error| Error::Subscribe(error.into()))
        };
        let (health, healthy) = watch::channel(false);
        let (put_config, config) = watch::channel(None);
        let (shut, shutdown) = watch::channel(false);
        let unreadable = Tally::new("messages of the host could not be read");
        let answer = Answer {
            nats: nats.clone(),
            inboxes: inboxes.clone(),
        };
        let checks = tokio::spawn(answer_health(answer.clone(), of("health").await?, healthy));
        let changes = tokio::spawn(receive_config(of("config.update").await?, put_config, unreadable));
        let host_id = Arc::from(ids.host.as_str());
        let end = tokio::spawn(receive_shutdown(answer, of("default.shutdown").await?, host_id, shut));
        Ok(Self {
            health,
            config,
            shutdown,
            _tasks: [checks, changes, end].map(AbortOnDropHandle::new),
        })
    }

    /// The provider serves from now on.
    pub fn serving(&self) {
        self.health.send_replace(true);
    }

    /// What the host changes of the configuration; `None` until it does.
    #[must_use]
    pub fn config(&self) -> watch::Receiver<Option<HashMap<String, String>>> {
        self.config.clone()
    }

    /// Waits until the host wants the provider to end. The order is acknowledged at once, and the provider has the host's
    /// patience from then on.
    pub async fn shutdown(&self) {
        let mut shutdown = self.shutdown.clone();
        // A connection that is closed for good brings no order: that is not one either.
        if shutdown.wait_for(|shut| *shut).await.is_err() {
            std::future::pending().await
        }
    }
}

#[derive(Clone)]
struct Answer {
    nats: Client,
    inboxes: Inboxes,
}

impl Answer {
    async fn send(&self, message: &Message, body: impl Into<bytes::Bytes>) {
        if let Err(error) = self.inboxes.answer(&self.nats, message, body.into()).await {
            tracing::debug!(%error, subject = %message.subject, "the host was not answered");
        }
    }
}

async fn answer_health(answer: Answer, mut checks: Subscriber, healthy: watch::Receiver<bool>) {
    while let Some(check) = checks.next().await {
        let healthy = *healthy.borrow();
        let message = if healthy { "serving" } else { "starting" };
        let health = serde_json::json!({ "healthy": healthy, "message": message });
        answer.send(&check, health.to_string()).await;
    }
}

async fn receive_config(
    mut changes: Subscriber,
    config: watch::Sender<Option<HashMap<String, String>>>,
    unreadable: Tally,
) {
    while let Some(change) = changes.next().await {
        match serde_json::from_slice(&change.payload) {
            Ok(changed) => {
                config.send_replace(Some(changed));
            }
            // It may hold a secret: it is not repeated.
            Err(_) => unreadable.count(|| "a change of the configuration"),
        }
    }
}

async fn receive_shutdown(answer: Answer, mut orders: Subscriber, host: Arc<str>, shut: watch::Sender<bool>) {
    while let Some(order) = orders.next().await {
        // Of providers of one id at several hosts, that of one host is meant.
        let Shutdown { host_id } = serde_json::from_slice(&order.payload).unwrap_or_default();
        if order.reply.is_none() || *host_id != *host {
            continue;
        }
        tracing::info!("the host wants this provider to end");
        answer.send(&order, "shutting down").await;
        shut.send_replace(true);
        return;
    }
}
