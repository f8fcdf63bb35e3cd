//! A bus that is served, and a lattice elsewhere with an edge of it.

use std::path::PathBuf;

use fanout_transport::testing::{NatsServer, NatsSettings};

use crate::served::with_long_leases;
use crate::{ANYONE_HERE, Bench, LinkTo, SERVED_POLICY, Served, eventually, stored};

/// A hub and an edge.
pub struct EdgeWorld {
    /// The hub's store.
    pub hub_nats: NatsServer,
    /// The bus.
    pub hub: Served,
    /// The edge's lattice, with the edge as its provider.
    pub edge: Bench,
    policy: PathBuf,
    _folder: tempfile::TempDir,
}

impl EdgeWorld {
    /// Both, with these links at the edge.
    pub async fn new(links: &[LinkTo]) -> Self {
        Self::on(NatsSettings::default(), links).await
    }

    /// The same at a bus whose leases outlast a test.
    pub async fn with_long_leases(links: &[LinkTo]) -> Self {
        Self::under(&with_long_leases(), NatsSettings::default(), links).await
    }

    /// The same with a server for the edge's lattice that is made so.
    ///
    /// # Panics
    /// If there is no room for a policy.
    pub async fn on(lattice: NatsSettings, links: &[LinkTo]) -> Self {
        Self::under(&format!("{SERVED_POLICY}{ANYONE_HERE}"), lattice, links).await
    }

    async fn under(text: &str, lattice: NatsSettings, links: &[LinkTo]) -> Self {
        let hub_nats = NatsServer::start().await;
        let folder = tempfile::tempdir().expect("there is room for a policy");
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, text).expect("a policy can be written");
        let hub = Served::start(&hub_nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
        let upstream = hub.listen[0].clone();
        let settings = [
            ("role", "edge"),
            ("upstream", &upstream),
            ("delivery.deadline", "500ms"),
        ];
        let mut edge = Bench::with_config_on(lattice, &settings, links).await;
        edge.add_provider().await;
        Self {
            hub_nats,
            hub,
            edge,
            policy,
            _folder: folder,
        }
    }

    /// Kills the hub.
    pub fn kill_hub(&mut self) {
        self.hub.kill();
    }

    /// Kills the hub, if it runs, and starts it where it was.
    pub fn restart_hub(&mut self) {
        let url = self.hub.listen[0].clone();
        self.hub.kill();
        self.hub = Served::start(&self.hub_nats.url(), &self.policy, &["--listen", &url]);
    }

    /// How many events a subscription has not settled at the hub; `None` while it is not made there.
    pub async fn left(&self, name: &str) -> Option<u64> {
        let js = async_nats::jetstream::new(self.hub_nats.client().await);
        let log = js.get_stream_no_info("fanout_payments_log").await.ok()?;
        let info = log.consumer_info(stored::consumer_name(&log, name).await?).await.ok()?;
        Some(info.num_pending + info.num_ack_pending as u64)
    }

    /// Waits until a subscription is made at the hub.
    pub async fn made(&self, name: &str) {
        eventually("it is made at the hub", || async { self.left(name).await }).await;
    }

    /// Waits until the edge remembers that a backfill was told that it caught up.
    pub async fn has_noted_told(&self, name: &str) {
        let js = async_nats::jetstream::new(self.edge.nats.client().await);
        eventually("the edge notes what it told", || async {
            let memory = js.get_key_value("fanout_edge_default_bus").await.ok()?;
            memory.get(format!("told.{name}")).await.ok().flatten().map(drop)
        })
        .await;
    }

    /// Waits until a subscription has everything settled at the hub.
    pub async fn drained(&self, name: &str) {
        eventually("the hub has everything settled", || async {
            (self.left(name).await? == 0).then_some(())
        })
        .await;
    }
}
