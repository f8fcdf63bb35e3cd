//! Durable and backfill subscriptions: pulls from the log's consumer no more than can be worked on, invokes the
//! subscriber, and settles each event.
//!
//! Several instances of the provider pull from the one consumer; the server gives each event to one of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::debug;

use super::Context;
use super::incoming;
use super::invoke::invoke;
use super::isolation::Permits;
use super::permits::{InFlightPermit, InFlightPermits};
use super::settle::{InFlight, Settler, Source, nak};
use super::state::DeliveryState;
use crate::jetstream::{StoreError, batch};

/// How many events are asked for at once where most are passed over, because their tenants are isolated.
const PASSED_OVER: usize = 1_000;

/// What the readers of one subscription share: they read several partitions, and hold no more together than one would.
#[derive(Clone)]
struct Shared {
    /// Of events in flight. An isolated tenant has permits of its own, so that it takes none from others.
    permits: InFlightPermits,
    /// Invocations at once; who waits for one is served in the order of asking.
    calls: Arc<Semaphore>,
    /// Whether nobody else takes from the same permits.
    alone: bool,
}

/// Delivers until stopped. Invocations under way have a permit of `calls`.
pub(super) async fn run(context: Arc<Context>, calls: Arc<Semaphore>) {
    let permits = Permits::new(&context);
    let mut readers = JoinSet::new();
    for (partition, reader) in context.store.readers_of(&context.registered) {
        let shared = Shared {
            permits: permits.of(&reader),
            calls: Arc::clone(&calls),
            alone: permits.has_one_reader(&reader),
        };
        readers.spawn(keep_reading(Arc::clone(&context), shared, partition.clone(), reader));
    }
    while readers.join_next().await.is_some() {}
}

/// Delivers what is in one partition; goes on by itself when the store is there again.
async fn keep_reading(context: Arc<Context>, shared: Shared, partition: Partition, reader: Reader) {
    while !context.stop.is_cancelled() {
        let Err(error) = read(&context, &shared, &partition, &reader).await else {
            return;
        };
        let wait = context.health.fails(Problem::new(
            Code::StoreUnavailable,
            format!("subscription {}: {error}; its events wait in the log", context.name()),
        ));
        debug!(subscription = %context.name(), ?error, "pulling failed");
        tokio::select! {
            () = context.stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn read(
    context: &Arc<Context>,
    shared: &Shared,
    partition: &Partition,
    reader: &Reader,
) -> Result<(), StoreError> {
    let Some(consumer) = context.store.consumer(&context.registered, partition, reader).await? else {
        return Ok(());
    };
    let mut reading = PartitionReader {
        settler: Arc::new(Settler::new(context, context.stop.clone()).await?),
        passes_over: reader.tenant.is_none() && context.registered.isolates_in(partition.number),
        context,
        shared,
        partition: partition.number,
        consumer,
        deliveries: JoinSet::new(),
    };
    let ended = reading.run().await;
    while reading.deliveries.join_next().await.is_some() {}
    ended
}

/// Pulls from one consumer, and delivers what comes.
struct PartitionReader<'a> {
    context: &'a Arc<Context>,
    shared: &'a Shared,
    partition: u32,
    consumer: PullConsumer,
    settler: Arc<Settler>,
    /// Whether most of what comes may be events of isolated tenants.
    passes_over: bool,
    deliveries: JoinSet<()>,
}

impl PartitionReader<'_> {
    async fn run(&mut self) -> Result<(), StoreError> {
        // An idle partition must not hold permits that a busy one needs: beside others, one waits for a first event without
        // a permit, and then takes what there is at once.
        let mut is_idle = !self.shared.alone;
        while !self.context.stop.is_cancelled() {
            while self.deliveries.try_join_next().is_some() {}
            let mut first = None;
            if is_idle {
                first = self.wait_for_first().await?;
                if first.is_none() {
                    continue;
                }
            }
            let Some(mut permits) = self.take_permits().await else {
                if let Some(message) = first {
                    nak(&message, Duration::ZERO).await;
                }
                return Ok(());
            };
            if let Some(message) = first {
                let permit = permits.split(1, message.length);
                self.deliver(vec![message], permit);
            }
            if permits.events() > 0 && permits.bytes() > 0 {
                let came = self.pull(permits).await?;
                is_idle = !came && !self.shared.alone;
                self.await_probe().await;
            }
        }
        Ok(())
    }

    /// Waits for an event without a permit; `None` if none came.
    async fn wait_for_first(&self) -> Result<Option<jetstream::Message>, StoreError> {
        let mut pulled = batch::waiting(&self.context.store, &self.consumer, (1, batch::BYTES)).await?;
        let first = pulled.next().await;
        if first.is_none() && pulled.broke_off() {
            self.context.is_there(&self.consumer).await?;
        }
        Ok(first)
    }

    /// At least one permit, and all others that are free; `None` when deliveries are to stop.
    async fn take_permits(&self) -> Option<InFlightPermit> {
        tokio::select! {
            biased;
            () = self.context.stop.cancelled() => None,
            permits = self.shared.permits.take() => Some(permits),
        }
    }

    /// How many events are pulled at once with this number of permits.
    fn pull_size(&self, permits: usize) -> usize {
        if self.context.health.is_failing() {
            // While the subscriber does not answer, one batch is enough to learn when it does again.
            permits.min(self.batch_size())
        } else if self.passes_over {
            // The server never has more under way than the subscription may hold.
            permits.max(PASSED_OVER)
        } else {
            permits
        }
    }

    /// Pulls once and delivers what comes, in batches as they come. Returns whether anything did.
    async fn pull(&mut self, mut permits: InFlightPermit) -> Result<bool, StoreError> {
        let context = self.context;
        let store = &context.store;
        let most = (self.pull_size(permits.events()), permits.bytes());
        let batch = if self.shared.alone {
            batch::waiting(store, &self.consumer, most).await?
        } else {
            batch::at_once(store, &self.consumer, most).await?
        };
        let mut chunks = batch.ready_chunks(self.batch_size());
        let (mut came, mut left) = (false, Vec::new());
        while let Some(messages) = chunks.next().await {
            if context.stop.is_cancelled() {
                left.extend(messages);
                continue;
            }
            came = true;
            let bytes = messages.iter().map(|message| message.length).sum();
            let permit = permits.split(messages.len(), bytes);
            self.deliver(messages, permit);
        }
        // Only after the pull has ended, which would catch them again.
        for message in &left {
            nak(message, Duration::ZERO).await;
        }
        drop(permits);
        if chunks.get_ref().broke_off() {
            self.context.is_there(&self.consumer).await?;
        }
        Ok(came)
    }

    /// While the subscriber does not answer, waits for what comes of the probe: pulling on before would only pile up.
    async fn await_probe(&mut self) {
        if self.context.health.is_failing() {
            while self.deliveries.join_next().await.is_some() {}
        }
    }

    fn batch_size(&self) -> usize {
        self.context.registered.subscription.batch_size as usize
    }

    fn deliver(&mut self, messages: Vec<jetstream::Message>, permit: Option<InFlightPermit>) {
        let (context, settler) = (Arc::clone(self.context), Arc::clone(&self.settler));
        let (calls, partition) = (Arc::clone(&self.shared.calls), self.partition);
        // Boxed: the runtime moves what it is given, and this is kilobytes.
        self.deliveries.spawn(Box::pin(async move {
            deliver(&context, &settler, &calls, (partition, messages, permit)).await;
        }));
    }
}

/// Invokes the subscriber with the events of a batch and settles each.
async fn deliver(
    context: &Context,
    settler: &Settler,
    calls: &Semaphore,
    (partition, messages, mut permit): (u32, Vec<jetstream::Message>, Option<InFlightPermit>),
) {
    let received = Instant::now();
    let mut events = Vec::with_capacity(messages.len());
    for message in messages {
        let bytes = message.length;
        match admit(context, settler, partition, message).await {
            Some(event) => events.push(event),
            // It is settled, and others may take its place.
            None => drop(permit.as_mut().and_then(|permit| permit.split(1, bytes))),
        }
    }
    if events.is_empty() {
        return;
    }
    let Ok(_call) = calls.acquire().await else { return };
    let ack_wait = context.store.policy().delivery.ack_wait;
    if received.elapsed() >= ack_wait {
        // They waited so long for an invocation that the server has delivered them again.
        return;
    }
    let mut wait = None;
    for event in invoke(context, settler, (events, received), || context.stop.is_cancelled()).await {
        event.nak().await;
        if let DeliveryState::SubscriberUnavailable(delay) = event.state {
            wait = Some(delay);
        }
    }
    if let Some(wait) = wait {
        tokio::select! {
            () = context.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Sorts out what is not to be delivered, and learns of earlier attempts.
pub(crate) async fn admit(
    context: &Context,
    settler: &Settler,
    partition: u32,
    mut message: jetstream::Message,
) -> Option<InFlight> {
    let (metadata, attributes) = incoming::admit(context, settler, partition, &mut message).await?;
    let failed = if metadata.deliveries > 1 || context.registered.was_given_before(metadata.position) {
        let known = async {
            if settler.waits(metadata.position).await? {
                return Ok(None);
            }
            settler.attempts_so_far(metadata.position).await.map(Some)
        };
        match Box::pin(known).await {
            Ok(Some(failed)) => failed,
            Ok(None) => {
                // It was stored among the retries, and a crash or a lost acknowledgement kept the log from knowing.
                settler.skip(&message).await;
                return None;
            }
            Err(error) => {
                settler.wait_for_store(&message, &error).await;
                return None;
            }
        }
    } else {
        Vec::new()
    };
    let event = (&message.headers, message.payload.clone());
    let delivery = incoming::delivery(&context.registered, attributes, event, &metadata, &failed);
    unless_used_up(settler, InFlight::new(Source::Log(message), delivery, failed)).await
}

/// Has an event that there is no room for delivered again at once. What is not to be delivered is settled; returns whether it was.
/// Nothing else is asked of the store: a thousand may be put off for one that is delivered.
pub(crate) async fn put_off(
    context: &Context,
    settler: &Settler,
    partition: u32,
    mut message: jetstream::Message,
) -> bool {
    let is_wanted = incoming::admit(context, settler, partition, &mut message)
        .await
        .is_some();
    if is_wanted {
        nak(&message, Duration::ZERO).await;
    }
    !is_wanted
}

/// The event, unless a refusal that came late was its last.
pub(super) async fn unless_used_up(settler: &Settler, mut event: InFlight) -> Option<InFlight> {
    if event.failed.is_empty() || !Box::pin(settler.was_used_up(&mut event)).await {
        return Some(event);
    }
    event.nak().await;
    None
}
