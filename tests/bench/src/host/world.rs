//! The dev host with the bench's component in it, and this program's own connection to the same server.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::{self, stream};
use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use bytes::Bytes;
use fanout_tests::DevHost;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::orders::{Orders, add_up};
use crate::load::raw_as_stored;
use crate::tally::Tally;
use crate::world::PAYLOAD;

/// Where the component tells how many it handled, takes messages and orders, and sends messages: its own constants.
const HANDLED: &str = "bench.handled";
const PLAIN: Subject = Subject::from_static("bench.plain");
const PUBLISHED: &str = "bench.published";
const STORED: &str = "bench.stored";

/// The stream of what the component sends to be stored without the bus.
const STREAM: &str = "bench_stored";

/// How often a link is tried until it works, for how long each time, and after how many times it is renewed: wadm takes a
/// while to put a link again.
const PROBES: usize = 40;
const PROBE: Duration = Duration::from_secs(3);
const RENEWED_AFTER: usize = 4;

/// The host and what it is measured with.
pub(crate) struct HostWorld {
    pub(crate) client: Client,
    pub(crate) js: jetstream::Context,
    /// What the components were given.
    pub(crate) handled: Tally,
    /// Messages that the component published and nobody stores.
    pub(crate) published: Tally,
    /// What it is told to publish.
    pub(crate) orders: Orders,
    _listening: JoinSet<()>,
    host: DevHost,
}

impl HostWorld {
    /// Starts everything and waits until each of the component's links works.
    pub(crate) async fn start() -> Result<Self> {
        let host = DevHost::start(&named("FANOUT_HOST_BIN")?, &named("FANOUT_HOST_MANIFEST")?, None);
        let client = ConnectOptions::new()
            // Whatever comes while this program is not scheduled.
            .subscription_capacity(1 << 20)
            .request_timeout(Some(Duration::from_secs(30)))
            .connect(host.nats())
            .await?;
        let js = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(10))
            .ack_timeout(Duration::from_secs(60))
            .build(client.clone());
        js.create_stream(stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![STORED.to_owned()],
            ..stream::Config::default()
        })
        .await?;
        let (handled, published) = (Tally::default(), Tally::default());
        let mut listening = JoinSet::new();
        listening.spawn(add_up(client.subscribe(HANDLED).await?, handled.clone()));
        listening.spawn(count(client.subscribe(PUBLISHED).await?, published.clone()));
        let world = Self {
            orders: Orders::new(client.clone()),
            client,
            js,
            handled,
            published,
            _listening: listening,
            host,
        };
        world.linked().await.inspect_err(|_| tell!("{}", world.host.said()))?;
        Ok(world)
    }

    /// Empties the log and the stream.
    pub(crate) async fn clear(&self) -> Result<()> {
        for name in ["fanout_payments_log", STREAM] {
            let stream = self.js.get_stream_no_info(name).await?;
            stream.purge().await.with_context(|| format!("empty {name}"))?;
        }
        Ok(())
    }

    /// Sends messages that nobody stores to the component.
    pub(crate) async fn messages(&self, messages: usize) -> Result<usize> {
        for _ in 0..messages {
            let payload = Bytes::from_static(&[b'x'; PAYLOAD]);
            self.client.publish(PLAIN, payload).await?;
        }
        self.client.flush().await?;
        Ok(messages)
    }

    /// Uses every link once. The dev host looks after the bus's; of the others, one that is put while its provider
    /// starts can be lost without a word (`dev-host/src/links.rs`).
    async fn linked(&self) -> Result<()> {
        self.probe("publishes", || self.orders.of("event", "probe", 1, 1, 1))
            .await?;
        self.probe("plain", || self.handled.of(1, self.messages(1))).await?;
        for handler in ["one", "many"] {
            let target = self.handled.count() + 1;
            self.probe(handler, || async move {
                // It is one event, however often it is published.
                raw_as_stored(&self.js, handler, "probe", 1).await?;
                self.handled.until(target).await
            })
            .await?;
        }
        self.clear().await
    }

    async fn probe<T, F: Future<Output = Result<T>>>(
        &self,
        component: &str,
        mut use_it: impl FnMut() -> F,
    ) -> Result<()> {
        let mut why = "it took too long".to_owned();
        let mut probes = tokio::time::interval(PROBE);
        for probe in 1..=PROBES {
            probes.tick().await;
            match tokio::time::timeout(PROBE, use_it()).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => why = format!("{error:#}"),
                Err(_) => {}
            }
            if probe % RENEWED_AFTER == 0 {
                tell!("  renewing the links of {component} with the host's messaging: {why}");
                self.renew("messaging", component).await?;
                self.renew(component, "default").await?;
            }
        }
        bail!("the links of {component} do not work: {why}")
    }

    /// Deletes a link. wadm, which is told of it, puts it again.
    async fn renew(&self, source: &str, name: &str) -> Result<()> {
        let link = serde_json::json!({
            "source_id": source,
            "name": name,
            "wit_namespace": "wasmcloud",
            "wit_package": "messaging",
        });
        let deleted = self
            .client
            .request("wasmbus.ctl.v1.default.link.del", link.to_string().into());
        deleted.await.context("the host did not answer")?;
        Ok(())
    }
}

async fn count(mut messages: Subscriber, published: Tally) {
    while messages.next().await.is_some() {
        published.add(1);
    }
}

/// What `cargo xtask bench` names.
fn named(variable: &str) -> Result<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.with_context(|| format!("{variable} is not set: run `cargo xtask bench host`, which builds what it names"))
}
