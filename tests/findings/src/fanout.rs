//! A bus on a server of its own, as an experiment uses it: the provider as a host would start it, listening on a Unix
//! socket beside its lattice.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, context::ContextBuilder};
use fanout_client::{Bus, connect};
use fanout_tests::Bench;
use fanout_transport::testing::NatsSettings;

use crate::ways::EVENT_TYPE;

/// The stream that holds the bus's events.
pub(crate) const LOG: &str = "fanout_payments_log";

/// The subject on which the bus stores a tenant's events.
pub(crate) fn subject(tenant: &str) -> String {
    format!("payments.{tenant}.webhook.{EVENT_TYPE}")
}

/// A server and a bus on it.
pub(crate) struct World {
    bench: Bench,
    url: String,
    /// Holds the socket.
    _folder: tempfile::TempDir,
}

impl World {
    /// Starts it with the settings given besides what every experiment uses.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the socket")?;
        let url = format!("unix:{}", folder.path().join("bus.sock").display());
        let user = rustix::process::getuid().as_raw().to_string();
        let mut all = vec![
            ("retention.max-bytes", "8GiB"),
            ("delivery.deadline", "10s"),
            ("delivery.ack-wait", "30s"),
            ("publish.deadline", "10s"),
            ("listen", &url),
            ("callers.program.unix-uid", &user),
            ("callers.program.publish.tenants", "*"),
            ("callers.program.subscribe.tenants", "*"),
        ];
        // What comes later holds.
        all.extend(settings);
        let bench = Bench::start_on(NatsSettings::default(), &all, &[]).await;
        Ok(Self {
            bench,
            url,
            _folder: folder,
        })
    }

    /// A connection to the bus.
    pub(crate) async fn bus(&self) -> Result<Bus> {
        Ok(connect(&self.url).await?)
    }

    /// A plain connection to the server.
    pub(crate) async fn client(&self) -> async_nats::Client {
        self.bench.nats.client().await
    }

    /// JetStream past the bus.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(10))
            .max_ack_inflight(16_384)
            .build(self.client().await)
    }
}
