//! The server, the bus and its callers, as a bench needs them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use bytes::Bytes;
use fanout_tests::types::Event;
use fanout_tests::{Bench, Component, LinkTo, event};
use fanout_transport::CallContext;
use fanout_transport::testing::NatsSettings;
use procfs::process::Process;
use wasmcloud_core::OtelConfig;

/// The size of every event's payload.
pub(crate) const PAYLOAD: usize = 1 << 10;

/// The subject that the bus of every bench stores events of type `invoice.paid` on.
pub(crate) fn subject(tenant: &str) -> String {
    format!("payments.{tenant}.webhook.invoice.paid")
}

/// A server with one instance of the provider.
pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) ingress: Component,
    pub(crate) js: jetstream::Context,
}

impl World {
    /// A bus with the settings given besides what every bench uses. `config` is the server's configuration file.
    pub(crate) async fn start(config: Option<&str>, settings: &[(&str, &str)], links: &[LinkTo]) -> Self {
        Self::start_watched((OtelConfig::default(), &[]), config, settings, links).await
    }

    /// The same, whose instance exports what it does, with variables.
    pub(crate) async fn start_watched(
        (otel, variables): (OtelConfig, &[(&str, &str)]),
        config: Option<&str>,
        settings: &[(&str, &str)],
        links: &[LinkTo],
    ) -> Self {
        let mut all = vec![
            ("retention.max-bytes", "8GiB"),
            ("delivery.deadline", "10s"),
            ("delivery.ack-wait", "30s"),
            ("publish.deadline", "30s"),
        ];
        all.extend(settings);
        let mut links = links.to_vec();
        links.push(LinkTo::caller("ingress", &["publisher"], "*"));
        let nats = NatsSettings {
            config: config.map(ToOwned::to_owned),
            ..NatsSettings::default()
        };
        let mut bench = Bench::without_provider_on(nats, &all, &links).await;
        bench.watch(otel);
        for (name, value) in variables {
            bench.give(name, value);
        }
        bench.add_provider().await;
        let ingress = bench.silent_component("ingress").await;
        // Enough for every caller of a bench at once; the plain client waits by itself.
        let js = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(10))
            .ack_timeout(Duration::from_secs(60))
            .build(bench.nats.client().await);
        Self { bench, ingress, js }
    }

    /// Empties the log, so that each round begins with the same.
    pub(crate) async fn clear(&self) -> Result<()> {
        let log = self.js.get_stream_no_info("fanout_payments_log").await?;
        log.purge().await.context("empty the log")?;
        Ok(())
    }

    /// The provider's memory.
    pub(crate) fn provider_memory(&self) -> Result<Memory> {
        Memory::of(self.provider()?)
    }

    /// From now on a peak counts anew.
    pub(crate) fn forget_peaks(&self) -> Result<()> {
        for process in [self.provider()?, self.bench.nats.id()] {
            let path = format!("/proc/{process}/clear_refs");
            // 5: only the peak (proc(5)).
            std::fs::write(&path, "5").with_context(|| format!("can't write {path}"))?;
        }
        Ok(())
    }

    fn provider(&self) -> Result<u32> {
        Ok(self.bench.providers.first().context("there is a provider")?.id())
    }

    /// The server's memory.
    pub(crate) fn server_memory(&self) -> Result<Memory> {
        Memory::of(self.bench.nats.id())
    }
}

/// An event of 1 KiB.
pub(crate) fn sized(tenant: &str, id: &str) -> Event {
    Event {
        data: Bytes::from_static(&[b'x'; PAYLOAD]),
        ..event(tenant, "invoice.paid", id)
    }
}

/// A call that waits as long as the slowest store takes.
pub(crate) fn patient() -> CallContext {
    CallContext::within(Duration::from_secs(60))
}

/// A process's resident memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Now, in MiB.
    pub(crate) now: f64,
    /// The most since it was last forgotten, in MiB.
    pub(crate) peak: f64,
}

impl Memory {
    fn of(process: u32) -> Result<Self> {
        let status = Process::new(i32::try_from(process)?)?.status()?;
        let mib = |kib: Option<u64>| kib.map(|kib| kib as f64 / 1024.0);
        Ok(Self {
            now: mib(status.vmrss).context("its resident memory")?,
            peak: mib(status.vmhwm).context("its peak")?,
        })
    }
}
