//! What an ordered subscription's owner is fed with: the log, dead letters that are to be redriven, and what was refused
//! and waited for a retry when there was no order yet.
//!
//! A feed reads no more than there is room for. It settles what is none of the subscription's, and hands on the rest
//! without looking at order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use bytes::Bytes;
use fanout_plan::isolation::Reader;
use fanout_plan::partition::Partition;
use fanout_plan::policy::Ordering;
use fanout_plan::retry::FailedAttempt;
use fanout_plan::sequence::Lane;
use fanout_plan::{Attributes, Code, Position, TenantId, timestamp};
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Context;
use super::incoming::{self, Place};
use super::pull::{self, free_place, free_room};
use super::reading::{Given, Reading};
use super::retries::{Share, Shares};
use super::settle::{Held, Settler, Source};
use super::turns;
use crate::jetstream::{PUBLISHED, Redrive, StoreError, Tenure, read};

/// Redriven dead letters that are held at once.
const REDRIVEN: usize = 1_000;

/// After how long a read of the log that failed is tried again.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// An event that waits for its turn.
pub(super) struct Item {
    pub(super) lane: Lane,
    pub(super) position: Position,
    pub(super) from: From,
    /// Failed attempts, once they are known.
    pub(super) failed: Option<Vec<FailedAttempt>>,
    /// Its place in what may be held.
    pub(super) _room: OwnedSemaphorePermit,
    /// Its part of what its tenant may hold, where that is bounded.
    pub(super) _share: Option<Share>,
}

/// Where an item comes from.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all come from the log; a box for each would cost more than the room"
)]
pub(super) enum From {
    /// The log, or the store of retries. The payload may have been let go; the message's other parts stay.
    Log {
        message: jetstream::Message,
        place: Place,
        attributes: Attributes,
        payload: Option<Bytes>,
        /// What its note says of earlier attempts, where it waited in the store of retries.
        waited: Option<Vec<FailedAttempt>>,
    },
    /// A request to redrive. The letter is read when its turn comes.
    Redrive(Redrive),
}

impl Item {
    /// Bytes of payload that it holds.
    pub(super) fn bytes(&self) -> usize {
        match &self.from {
            From::Log { payload, .. } => payload.as_ref().map_or(0, Bytes::len),
            From::Redrive(_) => 0,
        }
    }

    /// Bytes of the event as the store gave it out; not known of a letter before it is read.
    pub(super) fn size(&self) -> usize {
        match &self.from {
            From::Log { message, .. } => message.length,
            From::Redrive(_) => 0,
        }
    }

    /// Lets its payload go; it is read again from the log when its turn comes.
    pub(super) fn let_payload_go(&mut self) {
        if let From::Log { payload, .. } = &mut self.from {
            *payload = None;
        }
    }

    pub(super) fn is_of_log(&self) -> bool {
        matches!(self.from, From::Log { waited: None, .. })
    }

    /// Whether it waited in the store of retries.
    pub(super) fn is_retry(&self) -> bool {
        matches!(self.from, From::Log { waited: Some(_), .. })
    }

    /// Whether its message is a newer one than another's, and not the same that was given out again.
    pub(super) fn is_stored_after(&self, other: &Self) -> bool {
        let stored = |item: &Self| match &item.from {
            From::Log { message, .. } => message.info().ok().map(|info| info.stream_sequence),
            From::Redrive(_) => None,
        };
        stored(self) > stored(other)
    }

    /// Gives it back to the store, if the store gives it out by itself.
    pub(super) async fn give_back(&self, delay: Duration) {
        if let From::Log { message, .. } = &self.from {
            let again = AckKind::Nak(Some(delay).filter(|d| !d.is_zero()));
            if let Err(error) = message.ack_with(again).await {
                debug!(%error, "an event was not given back; it comes again by itself");
            }
        }
    }

    /// Whether the log had given it out before.
    pub(super) fn was_given_out(&self) -> bool {
        matches!(&self.from, From::Log { place, waited: None, .. } if place.given_out > 1)
    }

    /// The event as it is delivered; `None` if there is nothing to deliver any more, and then it is settled.
    pub(super) async fn prepare(&mut self, context: &Context, settler: &Settler) -> Result<Option<Held>, StoreError> {
        let (message, attributes, data, place, waited) = match &self.from {
            From::Log {
                message,
                place,
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
                (message, attributes.clone(), data, *place, waited)
            }
            From::Redrive(redrive) => {
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
            (None, None) if place.given_out > 1 => settler.earlier_attempts(&source, self.position).await?,
            (None, None) => Vec::new(),
        };
        let event = (&message.headers, data);
        let delivery = incoming::delivery(&context.registered, attributes, event, &place, &failed);
        Ok(Some(Held {
            source,
            delivery,
            failed,
        }))
    }
}

/// A dead letter as it is delivered again, its failed attempts read where they are not known; `None` if there is nothing to
/// deliver, and then the request is ended.
pub(crate) async fn redriven(
    context: &Context,
    settler: &Settler,
    redrive: &Redrive,
    failed: Option<Vec<FailedAttempt>>,
) -> Result<Option<Held>, StoreError> {
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
    let published = letter
        .headers
        .get(PUBLISHED)
        .and_then(|v| timestamp::from_rfc3339(v.as_str()));
    let asked_for = &context.registered.subscription.filter;
    if !asked_for.matches(attributes.tenant(), attributes.event_type()) {
        // What it asks for is within what its link allows: the letter was its own under an earlier filter.
        warn!(
            subscription = %context.name(), %position, tenant = %attributes.tenant(), code = %Code::NotRedrivable,
            "a dead letter is not within what its subscription asks for now, and stays"
        );
        context.store.end_redrive(redrive).await?;
        return Ok(None);
    }
    let place = Place {
        position,
        published_at: published
            .unwrap_or_else(|| i64::try_from(letter.time.unix_timestamp_nanos()).unwrap_or(i64::MAX)),
        given_out: 2,
    };
    let headers = Some(letter.headers.clone());
    let source = Source::Redrive(redrive.clone(), letter.headers);
    let failed = match failed {
        Some(failed) => failed,
        None => settler.earlier_attempts(&source, position).await?,
    };
    let event = (&headers, letter.payload);
    let mut delivery = incoming::delivery(&context.registered, attributes, event, &place, &failed);
    delivery.replayed = true;
    Ok(Some(Held {
        source,
        delivery,
        failed,
    }))
}

/// Feeds with what one consumer of the log gives, until stopped or the ownership is over, when its turn has come.
pub(super) async fn log(
    context: &Context,
    (partition, reader): (&Partition, &Reader),
    settler: &Settler,
    (room, tenure): (Arc<Semaphore>, Tenure),
    out: mpsc::Sender<Item>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    turns::come(context, partition, &stop).await;
    // What it says of itself is what it gave out before anything is pulled here.
    let Some(consumer) = context.store.consumer(&context.registered, partition, reader).await? else {
        stop.cancelled().await;
        return Ok(());
    };
    let given = &consumer.cached_info().delivered;
    let mut reading = Reading::begin(given.consumer_sequence, given.stream_sequence);
    let line = Line {
        context,
        settler,
        partition: partition.number,
        room,
        out,
    };
    while !stop.is_cancelled() && tenure.is_valid() {
        let mut permits = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            permits = free_room(&line.room) => permits,
        };
        let most = (permits.num_permits(), &tenure);
        let mut batch = pull::owned(&context.store, &consumer, most, &stop).await?;
        while let Some(message) = batch.next().await {
            let Ok(info) = message.info() else { continue };
            let hole = reading.see(Given {
                number: info.consumer_sequence,
                sequence: info.stream_sequence,
                first: info.delivered == 1,
            });
            if let Some(behind) = hole {
                let hole = (behind, &message);
                tokio::select! {
                    () = stop.cancelled() => {}
                    lost = line.read(&consumer, hole, &mut permits) => lost?,
                }
            }
            if line.put(message, &mut permits).await.is_err() {
                return Ok(());
            }
        }
        if batch.broke_off() {
            context.is_there(&consumer).await?;
        }
    }
    // The owner sees by itself that it is none any more.
    stop.cancelled().await;
    Ok(())
}

/// The way of one consumer's events to the owner.
struct Line<'a> {
    context: &'a Context,
    settler: &'a Settler,
    partition: u32,
    room: Arc<Semaphore>,
    out: mpsc::Sender<Item>,
}

impl Line<'_> {
    /// Hands on an event, unless it is none of the subscription's. An error if nobody takes it any more.
    async fn put(
        &self,
        mut message: jetstream::Message,
        permits: &mut OwnedSemaphorePermit,
    ) -> Result<(), mpsc::error::SendError<Item>> {
        let admitted = incoming::admit(self.context, self.settler, self.partition, &mut message).await;
        let Some((place, attributes)) = admitted else {
            return Ok(());
        };
        let room = match permits.split(1) {
            Some(room) => room,
            // What was lost on its way has taken it. Unless the server gives out more than was asked for, there is more.
            None => free_place(&self.room).await,
        };
        let ordering = self.context.store.policy().ordering;
        let item = Item {
            lane: Lane::of(ordering, &attributes, place.position),
            position: place.position,
            failed: None,
            from: From::Log {
                payload: Some(message.payload.clone()),
                // The payload is kept beside the message, so that it can be let go.
                message: without_payload(message),
                place,
                attributes,
                waited: None,
            },
            _room: room,
            _share: None,
        };
        self.out.send(item).await
    }

    /// Hands on what the consumer gave out in a hole before a message, and which did not come.
    async fn read(
        &self,
        consumer: &PullConsumer,
        hole: (u64, &jetstream::Message),
        permits: &mut OwnedSemaphorePermit,
    ) -> Result<(), StoreError> {
        let mut lost = self.context.store.lost(self.partition, consumer, hole).await?;
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
                    debug!(subscription = %self.context.name(), %error, "what is behind waits");
                    tokio::time::sleep(READ_AGAIN).await;
                }
            }
        }
        if count > 0 {
            info!(
                subscription = %self.context.name(), partition = self.partition, count,
                "events that were given out did not arrive, and were read from the log"
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
    let room = Arc::new(Semaphore::new(REDRIVEN));
    // One tenant's many, each of which may wait for retries, leave room for others'.
    let shares = Shares::new(REDRIVEN);
    // Requests of tenants that hold as much as they may are read again from this number on.
    let mut put_off: BTreeMap<TenantId, u64> = BTreeMap::new();
    while !stop.is_cancelled() {
        for (tenant, mut from) in std::mem::take(&mut put_off) {
            loop {
                let (Ok(place), Ok(share)) = (Arc::clone(&room).try_acquire_owned(), shares.take(&tenant)) else {
                    put_off.insert(tenant, from);
                    break;
                };
                let Some(redrive) = context.store.next_redrive(&context.id(), &tenant, from).await? else {
                    break;
                };
                from = redrive.request + 1;
                if out.send(item(context, redrive, (place, share)).await?).await.is_err() {
                    return Ok(());
                }
            }
        }
        let mut permits = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            permits = free_room(&room) => permits,
        };
        let mut batch = pull::waiting(&context.store, &consumer, permits.num_permits(), &stop).await?;
        while let Some(message) = batch.next().await {
            let Some(redrive) = context.store.redrive_of(&message) else {
                debug!(subject = %message.subject, "a request to redrive is not readable and is passed over");
                continue;
            };
            if put_off.contains_key(&redrive.tenant) {
                continue;
            }
            let Ok(share) = shares.take(&redrive.tenant) else {
                put_off.insert(redrive.tenant, redrive.request);
                continue;
            };
            let Some(place) = permits.split(1) else { continue };
            if out.send(item(context, redrive, (place, share)).await?).await.is_err() {
                return Ok(());
            }
        }
        if batch.broke_off()
            && let Err(error) = pull::is_there(&consumer).await
        {
            // It lives on one server, and goes with it. What it has given out already is in line, and known there.
            debug!(subscription = %context.name(), ?error, "redrives are read anew");
            consumer = context.store.read_redrives(&context.id()).await?;
        }
    }
    Ok(())
}

async fn item(
    context: &Context,
    redrive: Redrive,
    (room, share): (OwnedSemaphorePermit, Share),
) -> Result<Item, StoreError> {
    Ok(Item {
        lane: lane_of(context, &redrive).await?,
        position: redrive.position,
        from: From::Redrive(redrive),
        failed: None,
        _room: room,
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
