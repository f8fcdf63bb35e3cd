//! What an ordered subscription's owner is fed with: the log, dead letters that are to be redriven, and what was refused
//! and waited for a retry when there was no order yet.
//!
//! A feed reads no more than there are permits for. It settles what is none of the subscription's, and hands on the rest
//! whatever its order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::policy::Ordering;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::sequence::Lane;
use fanout_plan::{Attributes, Code, Position, TenantId, Timestamp};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Context;
use super::generation_order::{self, Unread};
use super::incoming::{self, Metadata};
use super::permits::{free_permit, free_permits};
use super::reading::{Delivered, Reading};
use super::recovery::InFlightAtStore;
use super::retries::{Share, Shares};
use super::settle::{InFlight, Redriven, Settler, Source};
use super::state::DeliveryState;
use crate::jetstream::{PUBLISHED, Redrive, StoreError, Tenure, batch, read, settled_to};

/// Redriven dead letters that are in memory at once.
const REDRIVEN: usize = 1_000;

/// So many more events may be held than their consumer may have in flight. A server that was killed has forgotten some that are
/// held here, and confirms the settlement of such an event only after it has delivered the event again.
const SPARE: usize = 64;

/// After how long a read of the log that failed is tried again.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// A reader that begins, and what was in flight of its events at that moment.
pub(super) type Began = (Reader, InFlightAtStore);

/// An event that waits to be delivered.
pub(super) struct Item {
    pub(super) lane: Lane,
    pub(super) position: Position,
    pub(super) origin: Origin,
    /// Who was given it, if it came from the log.
    pub(super) reader: Option<Arc<Reader>>,
    /// Failed attempts, once they are known.
    pub(super) failed: Option<Vec<FailedAttempt>>,
    /// A fetcher's lease of it ended without a word, as far as is known; a refusal may have come since.
    pub(super) has_lapsed: bool,
    pub(super) state: DeliveryState,
    pub(super) _permit: OwnedSemaphorePermit,
    /// Its part of what its tenant may have in memory, where that is bounded.
    pub(super) _share: Option<Share>,
}

/// Where an item came from.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all come from the log; a box for each would cost more than the bytes"
)]
pub(super) enum Origin {
    /// The log, or the store of retries. The payload may have been let go; the message's other parts stay.
    Log {
        message: jetstream::Message,
        metadata: Metadata,
        attributes: Attributes,
        payload: Option<Bytes>,
        /// What its note says of earlier attempts, where it waited in the store of retries.
        waited: Option<Vec<FailedAttempt>>,
    },
    /// A request to redrive. The letter is read when it is to be delivered.
    Redrive(Redrive),
}

impl Item {
    /// Bytes of payload that it holds.
    pub(super) fn bytes(&self) -> usize {
        match &self.origin {
            Origin::Log { payload, .. } => payload.as_ref().map_or(0, Bytes::len),
            Origin::Redrive(_) => 0,
        }
    }

    /// Bytes of the event as the store delivered it; not known of a letter before it is read.
    pub(super) fn size(&self) -> Option<usize> {
        match &self.origin {
            Origin::Log { message, .. } => Some(message.length),
            Origin::Redrive(_) => None,
        }
    }

    /// Lets its payload go; it is read again from the log when it is to be delivered.
    pub(super) fn let_payload_go(&mut self) {
        if let Origin::Log { payload, .. } = &mut self.origin {
            *payload = None;
        }
    }

    pub(super) fn is_of_log(&self) -> bool {
        matches!(self.origin, Origin::Log { waited: None, .. })
    }

    /// Whether it waited in the store of retries.
    pub(super) fn is_retry(&self) -> bool {
        matches!(self.origin, Origin::Log { waited: Some(_), .. })
    }

    /// Whether its message is a newer one than another's, and not the same that was delivered again.
    pub(super) fn is_stored_after(&self, other: &Self) -> bool {
        let stored = |item: &Self| match &item.origin {
            Origin::Log { message, .. } => message.info().ok().map(|info| info.stream_sequence),
            Origin::Redrive(_) => None,
        };
        stored(self) > stored(other)
    }

    /// Its message in the store; a request to redrive has none that is acknowledged.
    pub(super) fn message(&self) -> Option<&jetstream::Message> {
        match &self.origin {
            Origin::Log { message, .. } => Some(message),
            Origin::Redrive(_) => None,
        }
    }

    /// Whether the log had delivered it before.
    pub(super) fn was_delivered_before(&self) -> bool {
        matches!(&self.origin, Origin::Log { metadata, waited: None, .. } if metadata.deliveries > 1)
    }

    /// The event as it is delivered; `None` if there is nothing to deliver any more, and then it is settled.
    pub(super) async fn prepare(
        &mut self,
        context: &Context,
        settler: &Settler,
    ) -> Result<Option<InFlight>, StoreError> {
        let (message, attributes, data, metadata, waited) = match &self.origin {
            Origin::Log {
                message,
                metadata,
                attributes,
                payload,
                waited,
            } => {
                let data = match payload {
                    Some(data) => data.clone(),
                    None if waited.is_some() => match retry_payload(context, message).await? {
                        Some(data) => data,
                        None => {
                            // Another instance has settled it, or stored it anew.
                            settler.skip(message).await;
                            return Ok(None);
                        }
                    },
                    None => match context.store.payload(self.position).await? {
                        Some(data) => data,
                        None => {
                            warn!(
                                subscription = %context.name(), position = %self.position, code = %Code::RetentionGap,
                                "an event expired while it waited behind another of its key"
                            );
                            settler.skip(message).await;
                            return Ok(None);
                        }
                    },
                };
                (message, attributes.clone(), data, *metadata, waited)
            }
            Origin::Redrive(redrive) => {
                return redriven(context, settler, redrive, self.failed.clone()).await;
            }
        };
        let source = match waited {
            Some(_) => Source::Retry(message.clone()),
            None => Source::Log(message.clone()),
        };
        let failed = match (&self.failed, waited) {
            (Some(failed), _) => failed.clone(),
            (None, Some(noted)) => settler.attempts_of_waiting(self.position, noted).await?,
            (None, None) if metadata.deliveries > 1 => settler.earlier_attempts(&source, self.position).await?,
            (None, None) => Vec::new(),
        };
        let event = (&message.headers, data);
        let delivery = incoming::delivery(&context.registered, attributes, event, &metadata, &failed);
        Ok(Some(InFlight::new(source, delivery, failed)))
    }
}

/// A dead letter as it is delivered again, its failed attempts read where they are not known; `None` if there is nothing to
/// deliver, and then the request is ended.
pub(crate) async fn redriven(
    context: &Context,
    settler: &Settler,
    redrive: &Redrive,
    failed: Option<Vec<FailedAttempt>>,
) -> Result<Option<InFlight>, StoreError> {
    let position = redrive.position;
    let Some(letter) = context.store.letter_for(redrive).await? else {
        // It was discarded, or it was handled and the end of its request got lost.
        context.store.end_redrive(redrive).await?;
        return Ok(None);
    };
    let attributes = match read::from_headers(&redrive.tenant, &letter.headers) {
        Ok(attributes) => attributes,
        Err(problem) => {
            warn!(
                subscription = %context.name(), %position, code = %Code::NotRedrivable,
                "a dead letter holds no event and stays: {problem}"
            );
            context.store.end_redrive(redrive).await?;
            return Ok(None);
        }
    };
    let published = letter.headers.get(PUBLISHED).and_then(|v| v.as_str().parse().ok());
    let asked_for = &context.registered.subscription.filter;
    if !asked_for.allows(attributes.tenant(), attributes.event_type()) {
        // What it asks for is within what its link allows: the letter was its own under an earlier filter. The pattern is not
        // matched: the event matched it when it was delivered.
        warn!(
            subscription = %context.name(), %position, tenant = %attributes.tenant(), code = %Code::NotRedrivable,
            "a dead letter is not within what its subscription asks for now, and stays"
        );
        context.store.end_redrive(redrive).await?;
        return Ok(None);
    }
    let metadata = Metadata {
        position,
        published_at: published.unwrap_or_else(|| Timestamp::saturating(letter.time.unix_timestamp_nanos())),
        deliveries: 2,
    };
    let headers = Some(letter.headers.clone());
    let redriven = Redriven {
        number: letter.sequence,
        headers: letter.headers,
    };
    let source = Source::Redrive(redrive.clone(), redriven);
    let failed = match failed {
        Some(failed) => failed,
        None => settler.earlier_attempts(&source, position).await?,
    };
    let event = (&headers, letter.payload);
    let mut delivery = incoming::delivery(&context.registered, attributes, event, &metadata, &failed);
    delivery.replayed = true;
    Ok(Some(InFlight::new(source, delivery, failed)))
}

/// Feeds with what one consumer of the log delivers, once everything of earlier generations is settled, until stopped or the
/// ownership is over.
pub(super) async fn log(
    context: &Context,
    (partition, reader): (&Partition, &Reader),
    settler: &Settler,
    (unread, tenure): (&Unread, Tenure),
    (out, began, mut recovered): (mpsc::Sender<Item>, mpsc::Sender<Began>, watch::Receiver<bool>),
    stop: CancellationToken,
) -> Result<(), StoreError> {
    generation_order::wait_for(context, partition, unread, &stop).await;
    // Its own state is what it delivered before anything is pulled here.
    let Some(consumer) = context.store.consumer(&context.registered, partition, reader).await? else {
        began.send((reader.clone(), InFlightAtStore::default())).await.ok();
        stop.cancelled().await;
        return Ok(());
    };
    let info = consumer.cached_info();
    let in_flight = InFlightAtStore {
        count: info.num_ack_pending as u64,
        from: settled_to(info),
        to: info.delivered.stream_sequence,
    };
    if began.send((reader.clone(), in_flight)).await.is_err() {
        return Ok(());
    }
    let mut reading = Reading::begin(info.delivered.consumer_sequence, info.delivered.stream_sequence);
    // Permits are each reader's own. Were they shared, a pull that waits in a quiet partition would hold those of a busy one,
    // and what is held of one partition would leave no room for what comes back of another.
    let window = usize::try_from(info.config.max_ack_pending).unwrap_or_default() + SPARE;
    let feed = Feed {
        context,
        settler,
        reader: Arc::new(reader.clone()),
        permits: Arc::new(Semaphore::new(window.max(info.num_ack_pending))),
        out,
    };
    while !stop.is_cancelled() && tenure.is_valid() {
        let mut permits = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            permits = free_permits(&feed.permits) => permits,
        };
        let most = ((permits.num_permits(), batch::BYTES), &tenure);
        let mut batch = batch::owned(&context.store, &consumer, most).await?;
        let mut passed_over = false;
        while let Some(message) = batch.next().await {
            let Ok(info) = message.info() else { continue };
            let hole = reading.see(Delivered {
                number: info.consumer_sequence,
                sequence: info.stream_sequence,
                first: info.delivered == 1,
            });
            if let Some(behind) = hole {
                let hole = (behind, &message);
                tokio::select! {
                    () = stop.cancelled() => {}
                    lost = feed.read(&consumer, hole, &mut permits) => lost?,
                }
            }
            match feed.put(message, &mut permits).await {
                Ok(is_handed_on) => passed_over |= !is_handed_on,
                Err(_) => return Ok(()),
            }
        }
        if batch.broke_off() {
            context.is_there(&consumer).await?;
        }
        drop(permits);
        if passed_over && !*recovered.borrow_and_update() {
            // What is passed over takes no permit. Were it read on and on, there would always be some of it unsettled, and the
            // owner would never see that all else is in its hands.
            tokio::select! {
                () = stop.cancelled() => {}
                checked = recovered.changed() => {
                    if checked.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
    // The owner sees by itself that it is none any more.
    stop.cancelled().await;
    Ok(())
}

/// The way of one consumer's events to the owner.
struct Feed<'a> {
    context: &'a Context,
    settler: &'a Settler,
    reader: Arc<Reader>,
    permits: Arc<Semaphore>,
    out: mpsc::Sender<Item>,
}

impl Feed<'_> {
    /// Hands on an event, unless it is none of the subscription's; returns whether it did. An error if nobody takes it any more.
    async fn put(
        &self,
        mut message: jetstream::Message,
        permits: &mut OwnedSemaphorePermit,
    ) -> Result<bool, mpsc::error::SendError<Item>> {
        let admitted = incoming::admit(self.context, self.settler, self.reader.partition, &mut message).await;
        let Some((metadata, attributes)) = admitted else {
            return Ok(false);
        };
        let permit = match permits.split(1) {
            Some(permit) => permit,
            // What was lost on its way has taken it. Unless the server delivers more than was asked for, there is more.
            None => free_permit(&self.permits).await,
        };
        let ordering = self.context.store.policy().ordering;
        let item = Item {
            lane: Lane::of(ordering, &attributes, metadata.position),
            position: metadata.position,
            reader: Some(Arc::clone(&self.reader)),
            failed: None,
            // An owner before this one may have leased it.
            has_lapsed: metadata.deliveries > 1,
            origin: Origin::Log {
                payload: Some(message.payload.clone()),
                // The payload is kept beside the message, so that it can be let go.
                message: without_payload(message),
                metadata,
                attributes,
                waited: None,
            },
            state: DeliveryState::New,
            _permit: permit,
            _share: None,
        };
        self.out.send(item).await?;
        Ok(true)
    }

    /// Hands on what the consumer delivered in a hole before a message, and which did not arrive.
    async fn read(
        &self,
        consumer: &PullConsumer,
        hole: (u64, &jetstream::Message),
        permits: &mut OwnedSemaphorePermit,
    ) -> Result<(), StoreError> {
        let mut lost = self.context.store.lost(self.reader.partition, consumer, hole).await?;
        let mut count = 0;
        loop {
            match lost.next().await {
                Ok(Some(message)) => {
                    count += 1;
                    if self.put(message, permits).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    debug!(subscription = %self.context.name(), %error, "an event that was lost on its way can't be read from the log; later ones wait");
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        }
        if count > 0 {
            info!(
                subscription = %self.context.name(), partition = self.reader.partition, count,
                "events that the store delivered did not arrive, and were read from the log"
            );
        }
        Ok(())
    }
}

async fn retry_payload(context: &Context, message: &jetstream::Message) -> Result<Option<Bytes>, StoreError> {
    let Ok(info) = message.info() else { return Ok(None) };
    let found = context.store.retry_message(info.stream_sequence).await?;
    Ok(found.map(|found| found.payload))
}

pub(super) fn without_payload(mut message: jetstream::Message) -> jetstream::Message {
    message.message.payload = Bytes::new();
    message
}

/// Feeds with requests to redrive until stopped.
pub(super) async fn redrives(
    context: &Context,
    out: mpsc::Sender<Item>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let mut consumer = context.store.read_redrives(&context.id()).await?;
    // A redriven event is in line with its tenant at least, and with its key where keys have an order.
    let permits = Arc::new(Semaphore::new(REDRIVEN));
    // One tenant's many, each of which may wait for retries, leave permits for others'.
    let shares = Shares::new(REDRIVEN);
    // Requests of tenants that have as much in memory as they may are read again from this number on.
    let mut put_off: BTreeMap<TenantId, u64> = BTreeMap::new();
    while !stop.is_cancelled() {
        for (tenant, mut from) in std::mem::take(&mut put_off) {
            loop {
                let (Ok(permit), Ok(share)) = (Arc::clone(&permits).try_acquire_owned(), shares.take(&tenant)) else {
                    put_off.insert(tenant, from);
                    break;
                };
                let Some(redrive) = context.store.next_redrive(&context.id(), &tenant, from).await? else {
                    break;
                };
                from = redrive.request + 1;
                if out.send(item(context, redrive, (permit, share)).await?).await.is_err() {
                    return Ok(());
                }
            }
        }
        let mut taken = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            taken = free_permits(&permits) => taken,
        };
        let mut batch = batch::waiting(&context.store, &consumer, (taken.num_permits(), batch::BYTES)).await?;
        while let Some(message) = batch.next().await {
            let Some(redrive) = context.store.redrive_of(&message) else {
                debug!(subject = %message.subject, "a request to redrive is not readable and is skipped");
                continue;
            };
            if put_off.contains_key(&redrive.tenant) {
                continue;
            }
            let Ok(share) = shares.take(&redrive.tenant) else {
                put_off.insert(redrive.tenant, redrive.request);
                continue;
            };
            let Some(permit) = taken.split(1) else { continue };
            if out.send(item(context, redrive, (permit, share)).await?).await.is_err() {
                return Ok(());
            }
        }
        if batch.broke_off()
            && let Err(error) = batch::is_there(&consumer).await
        {
            // It lives on one server, and goes with it. What it has delivered already is in line, and known there.
            debug!(subscription = %context.name(), ?error, "the requests to redrive are read again");
            consumer = context.store.read_redrives(&context.id()).await?;
        }
    }
    Ok(())
}

async fn item(
    context: &Context,
    redrive: Redrive,
    (permit, share): (OwnedSemaphorePermit, Share),
) -> Result<Item, StoreError> {
    Ok(Item {
        lane: lane_of(context, &redrive).await?,
        position: redrive.position,
        reader: None,
        origin: Origin::Redrive(redrive),
        failed: None,
        has_lapsed: false,
        state: DeliveryState::New,
        _permit: permit,
        _share: Some(share),
    })
}

async fn lane_of(context: &Context, redrive: &Redrive) -> Result<Lane, StoreError> {
    let ordering = context.store.policy().ordering;
    if ordering == Ordering::Key
        && let Some(letter) = context.store.letter_for(redrive).await?
        && let Ok(attributes) = read::from_headers(&redrive.tenant, &letter.headers)
    {
        return Ok(Lane::of(ordering, &attributes, redrive.position));
    }
    Ok(Lane::of_tenant(redrive.tenant.clone()))
}
