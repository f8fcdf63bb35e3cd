//! Delivering: a durable subscription to native handlers, beside a bare pull consumer that acknowledges each message.

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use fanout_tests::LinkTo;
use fanout_tests::types::{Delivery, Rejection};
use fanout_transport::{Lattice, Options, Server, Service};
use fanout_wit::{BATCH_HANDLER, HANDLER};
use futures::StreamExt as _;

use crate::case::{Case, Size, in_turns};
use crate::load::raw_as_stored;
use crate::relay::Relay;
use crate::report::Report;
use crate::tally::Tally;
use crate::world::{World, subject};

/// The tenant whose events the plain client reads.
pub(crate) const BARE: &str = "bare";
pub(crate) const LOG: &str = "fanout_payments_log";

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    let links = [
        durable("one", "handler", "one"),
        durable("many", "batch-handler", "many"),
    ];
    let world = World::start(None, &[], &links).await;
    let one = Counting::serve(&world, "one").await?;
    let many = Counting::serve(&world, "many").await?;
    let _relay = Relay::start(&world)?;
    let events = size.events(20_000);
    let world = &world;
    let cases = vec![
        Case::new("bare pull consumer, an acknowledgement each", |r| async move {
            pull(&world.js, &format!("bare-{r}"), events).await
        }),
        Case::new("bare relay, a request to a handler each, 64 at once", |r| async move {
            Relay::deliver(&world.js, &format!("relay-{r}"), events).await
        }),
        Case::new("handler, 64 at once", |r| {
            let one = &one;
            async move { one.handle(world, "one", &format!("one-{r}"), events).await }
        }),
        Case::new("batch-handler, 250 in an invocation", |r| {
            let many = &many;
            async move { many.handle(world, "many", &format!("many-{r}"), events).await }
        }),
    ];
    in_turns(report, "stored and then handled", size, cases, || world.clear()).await
}

/// A durable subscription of one tenant's events, with a handler of this interface.
pub(crate) fn durable(name: &str, interface: &str, tenant: &str) -> LinkTo {
    LinkTo::subscriber(
        name,
        &[interface],
        &[
            ("subscription", name),
            ("need", "durable"),
            ("tenants", tenant),
            ("batch-size", "250"),
            ("concurrency", "64"),
        ],
    )
}

/// Reads and acknowledges so many events with a consumer.
pub(crate) async fn read_all(consumer: &PullConsumer, events: usize) -> Result<()> {
    let mut messages = consumer
        .stream()
        .max_messages_per_batch(500)
        .messages()
        .await
        .context("read")?;
    for _ in 0..events {
        let message = messages.next().await.context("the messages ended")??;
        message.ack().await.map_err(|e| anyhow::anyhow!("{e}"))?;
    }
    Ok(())
}

/// The plain client: stores and reads with a durable consumer of its own.
pub(crate) async fn pull(js: &jetstream::Context, run: &str, events: usize) -> Result<usize> {
    let consumer = consumer(js, run).await?;
    let publishing = raw_as_stored(js, BARE, run, events);
    let (published, read) = tokio::join!(publishing, read_all(&consumer, events));
    read?;
    let log = js.get_stream_no_info(LOG).await?;
    log.delete_consumer(run).await?;
    published
}

/// A durable consumer of the plain client's.
pub(crate) async fn consumer(js: &jetstream::Context, name: &str) -> Result<PullConsumer> {
    let log = js.get_stream_no_info(LOG).await?;
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: subject(BARE),
        max_ack_pending: 4_096,
        ..pull::Config::default()
    };
    Ok(log.create_consumer(config).await?)
}

/// A subscriber that counts what it is given.
pub(crate) struct Counting {
    handled: Tally,
    _server: Server,
}

impl Counting {
    pub(crate) async fn serve(world: &World, id: &str) -> Result<Self> {
        let lattice = Lattice::new(world.bench.nats.client().await, Options::default()).await?;
        let server = Server::new(&lattice, &format!("default.{id}"));
        let handled = Tally::default();
        let (one, many) = (handled.clone(), handled.clone());
        let service = Service::new()
            .direct(HANDLER, "handle-event", move |_, (_,): (Delivery,)| {
                one.add(1);
                async { Ok(Ok::<_, Rejection>(())) }
            })
            .direct(
                BATCH_HANDLER,
                "handle-events",
                move |_, (deliveries,): (Vec<Delivery>,)| {
                    many.add(deliveries.len());
                    async move { Ok(vec![Ok::<_, Rejection>(()); deliveries.len()]) }
                },
            );
        server.serve(&service).await?;
        Ok(Self {
            handled,
            _server: server,
        })
    }

    /// How many it was given so far.
    pub(crate) fn handled(&self) -> usize {
        self.handled.count()
    }

    /// Waits until it was given so many.
    pub(crate) async fn until(&self, target: usize) -> Result<()> {
        self.handled.until(target).await
    }

    /// Does something that brings it so many, and waits until it was given each.
    pub(crate) async fn of(&self, events: usize, doing: impl Future<Output = Result<usize>>) -> Result<usize> {
        self.handled.of(events, doing).await
    }

    /// Stores events and waits until each was handled.
    pub(crate) async fn handle(&self, world: &World, tenant: &str, run: &str, events: usize) -> Result<usize> {
        let storing = raw_as_stored(&world.js, tenant, run, events);
        self.handled.of(events, storing).await
    }
}
