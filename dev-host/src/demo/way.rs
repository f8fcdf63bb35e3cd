//! Over what the bus is reached, shown by what is where: the provider says where its bus is, and no server but the
//! bus's own holds an event.

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use futures::TryStreamExt as _;

use super::Story;
use crate::bus;
use crate::transport::Transport;

/// For the last line.
pub(super) fn described(transport: Transport) -> &'static str {
    match transport {
        Transport::Nats => "in the host, over NATS",
        Transport::Tcp => "elsewhere, with a store of its own, over TCP",
        Transport::Quic => "elsewhere, with a store of its own, over QUIC with mutual TLS",
    }
}

impl Story<'_> {
    /// Says where the bus is, and checks that it is there and nowhere else.
    pub(super) async fn way_to_the_bus(&mut self) -> Result<()> {
        let lattice = self.stack.client()?;
        let upstream = bus::status(lattice, bus::status_subject()).await?.upstream;
        let Some(bus) = self.stack.served_bus() else {
            self.checks
                .equal("the provider is the bus itself", true, upstream.is_none());
            return Ok(());
        };
        let url = bus.url().to_owned();
        let here = logs_of(lattice).await?;
        let there = logs_of(self.stack.bus_client()?).await?;
        self.console.timed(format!(
            "the provider beside the host is an edge of the bus at {url}; the lattice's own server holds no event"
        ));
        let said = upstream.map(|upstream| upstream.url).unwrap_or_default();
        self.checks.equal("where the edge says that its bus is", url, said);
        self.checks.equal("logs on the lattice's own server", 0, here);
        self.checks.equal("logs on the bus's own server", 1, there);
        Ok(())
    }
}

/// How many streams of a server hold a bus's events.
async fn logs_of(client: &async_nats::Client) -> Result<usize> {
    let context = jetstream::new(client.clone());
    let names: Vec<String> = context
        .stream_names()
        .try_collect()
        .await
        .context("can't list a server's streams")?;
    let is_log = |name: &&String| name.starts_with("fanout_") && name.ends_with("_log");
    Ok(names.iter().filter(is_log).count())
}
