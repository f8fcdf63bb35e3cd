//! What comes of an event once its handler has answered: it leaves the subscription, waits for another attempt, or
//! becomes a dead letter.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, AckKind};
use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use fanout_plan::policy::Ordering;
use fanout_plan::retry::{Disposition, FailedAttempt, Rejection};
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Incarnation, LogPosition, Position, Problem, Round, TenantId, timestamp};
use tokio::sync::OnceCell;
use tracing::{debug, info, warn};

use super::incoming::Place;
use super::{Context, Delivery, Health, retries};
use crate::clock;
use crate::jetstream::{Attempts, Full, NewDeadLetter, Redrive, Refused, Retries, StoreError, Unstored};

/// How long an event waits when the store could not take what belongs to it.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// How long an event waits that can't become a dead letter now.
const DEAD_LETTERS_WAIT: Duration = Duration::from_secs(10);

/// Where an event that is delivered comes from, which is where it is settled.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all come from the log; a box for each would cost more than the room"
)]
pub(super) enum Source {
    /// The log. The store gives it to no other instance until `delivery.ack-wait` has passed.
    Log(jetstream::Message),
    /// The store of retries: it was refused before. It is given to no other instance in the same way.
    Retry(jetstream::Message),
    /// The dead letters, by request.
    Redrive(Redrive, HeaderMap),
}

impl Source {
    /// Tells the store. When that is lost, the event is delivered again: at least once.
    pub(super) async fn tell(&self, kind: AckKind) {
        match self {
            Self::Log(message) | Self::Retry(message) => tell(message, kind).await,
            // A request waits for as long as it takes.
            Self::Redrive(..) => {}
        }
    }
}

/// An event in this instance's hands.
pub(crate) struct Held {
    pub(super) source: Source,
    pub(crate) delivery: Delivery,
    pub(super) failed: Vec<FailedAttempt>,
}

impl Held {
    /// Gives it back to the store, which gives it out again after a while.
    pub(crate) async fn give_back(&self, delay: Duration) {
        self.source
            .tell(AckKind::Nak(Some(delay).filter(|d| !d.is_zero())))
            .await;
    }

    /// Tells the store, if it gives the event out by itself.
    pub(crate) async fn tell(&self, kind: AckKind) {
        self.source.tell(kind).await;
    }

    /// Where the store is told what came of it.
    pub(crate) fn reply(&self) -> String {
        match &self.source {
            Source::Log(message) | Source::Retry(message) => {
                message.reply.as_ref().map(ToString::to_string).unwrap_or_default()
            }
            Source::Redrive(..) => String::new(),
        }
    }
}

/// What comes of an event next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It has left the subscription.
    Gone,
    /// It waits for its next attempt in the store of retries.
    Waits,
    /// It is to be delivered again after this time.
    Again(Duration),
    /// The same, because the store did not take what belongs to it; this attempt does not count.
    Stuck(Duration),
    /// Its subscriber can't be reached: again after this time, and nothing else before.
    Unreached(Duration),
}

async fn tell(message: &jetstream::Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        debug!(subject = %message.subject, %error, "a settlement was not sent; the event comes again");
    }
}

/// Settles the events of one subscription.
pub(crate) struct Settler {
    context: Arc<Context>,
    attempts: Attempts,
    retries: Retries,
    /// Whether what is stored there is given out.
    read: OnceCell<()>,
    /// The round in which attempts at events of the log are counted.
    round: String,
    /// Whether the next event of a key waits until the store has confirmed that the last one is settled. Otherwise a
    /// settlement that is lost would bring an event again behind a later one.
    in_order: bool,
}

impl Settler {
    pub(crate) async fn new(context: &Arc<Context>) -> Result<Self, StoreError> {
        Ok(Self {
            attempts: context.store.attempts().await?,
            retries: context.store.retries(&context.registered),
            read: OnceCell::new(),
            round: format!("{}={}", context.id().name, Round::of(&context.registered)),
            in_order: context.store.policy().ordering != Ordering::None,
            context: Arc::clone(context),
        })
    }

    /// What is known of an event that was given out before.
    pub(super) async fn earlier_attempts(
        &self,
        source: &Source,
        position: Position,
    ) -> Result<Vec<FailedAttempt>, StoreError> {
        self.attempts.of(self.round_of(source, position), position).await
    }

    /// What is known of an event of the log.
    pub(crate) async fn attempts_so_far(&self, position: Position) -> Result<Vec<FailedAttempt>, StoreError> {
        self.attempts
            .of(self.round_in(self.in_its_log(position)), position)
            .await
    }

    /// What is known of an event that waited for a retry, whose note says so much. The note has as much as there was room
    /// for, and lacks an attempt that the store of retries did not take; what is remembered beside it expires.
    pub(super) async fn attempts_of_waiting(
        &self,
        position: Position,
        noted: &[FailedAttempt],
    ) -> Result<Vec<FailedAttempt>, StoreError> {
        let remembered = self.attempts_so_far(position).await?;
        let last = |attempts: &[FailedAttempt]| attempts.last().map_or(0, |a| a.attempt);
        Ok(match last(&remembered) >= last(noted) {
            true => remembered,
            false => noted.to_vec(),
        })
    }

    /// Whether an event that had been refused was settled since.
    pub(crate) async fn was_settled(&self, position: Position) -> Result<bool, StoreError> {
        let round = self.round_in(self.in_its_log(position));
        self.attempts.are_over(round, position).await
    }

    /// Forgets what is known of an event of the log that is settled.
    pub(crate) async fn forget(&self, position: Position) {
        let round = self.round_in(self.in_its_log(position));
        if let Err(error) = self.attempts.clear(round, position).await {
            debug!(%error, "failed attempts stay until they expire");
        }
    }

    /// Whether an event of the log that was given out before waits for a retry: what came of it then is stored, and the
    /// log was not told.
    pub(super) async fn waits(&self, position: Position) -> Result<bool, StoreError> {
        if self.in_order {
            return Ok(false);
        }
        self.retries.has(self.in_its_log(position)).await
    }

    fn round_of(&self, source: &Source, position: Position) -> String {
        match source {
            Source::Log(_) | Source::Retry(_) => self.round_in(self.place(source, position)),
            Source::Redrive(redrive, _) => in_log(format!("{}=redrive", redrive.of), redrive.log),
        }
    }

    fn round_in(&self, at: LogPosition) -> String {
        in_log(self.round.clone(), at.log)
    }

    /// Where an event of the log stands that is there now.
    fn in_its_log(&self, position: Position) -> LogPosition {
        self.context.store.in_its_log(position)
    }

    /// Where an event stands, or stood, and in which log: one that waited may be of an earlier one.
    fn place(&self, source: &Source, position: Position) -> LogPosition {
        match source {
            Source::Log(_) => self.in_its_log(position),
            Source::Retry(message) => {
                let waited = self.context.store.names().retry_of(&message.subject);
                waited.map_or_else(|| self.in_its_log(position), |(_, at)| at)
            }
            Source::Redrive(redrive, _) => redrive.at(),
        }
    }

    /// An event that is none of the subscription's.
    pub(super) async fn skip(&self, message: &jetstream::Message) {
        tell(message, AckKind::Ack).await;
    }

    /// Puts an event off because the store does not answer.
    pub(super) async fn wait_for_store(&self, message: &jetstream::Message, error: &StoreError) {
        tell(message, AckKind::Nak(Some(self.must_wait(error)))).await;
    }

    pub(super) fn must_wait(&self, error: &StoreError) -> Duration {
        warn!(subscription = %self.context.name(), %error, "an event waits for the store");
        STORE_WAIT
    }

    /// Acts on a handler's answer. What is rare is boxed: otherwise each event under way would carry room for all of it.
    pub(crate) async fn settle(&self, held: &mut Held, answer: Result<(), Rejection>) -> Next {
        let health = &self.context.health;
        let Err(rejection) = answer else {
            // Acknowledged only now that the handler has returned: a crash before this delivers again.
            let next = self.handled(held).await;
            if next == Next::Gone {
                Health::count(&health.handled);
                self.forget_attempts(held).await;
            }
            return next;
        };
        Health::count(&health.refused);
        held.failed.push(FailedAttempt {
            attempt: held.delivery.attempt,
            at: timestamp::to_rfc3339(clock::now()),
            reason: rejection.reason().to_owned(),
        });
        let position = held.delivery.position;
        let next = match self.context.retry().disposition(&rejection, held.delivery.attempt) {
            Disposition::RetryAfter(delay) if !self.expires_within(held, delay) => {
                // Written before the event is given back, so that no attempt is forgotten.
                let round = self.round_of(&held.source, position);
                let noted = Box::pin(self.attempts.put(round, position, &held.failed)).await;
                debug!(
                    subscription = %self.context.name(), %position, attempt = held.delivery.attempt,
                    ?delay, reason = rejection.reason(), "refused; it is tried again"
                );
                match (Box::pin(self.keep_for_retry(held, delay)).await, noted) {
                    // Its message tells of its attempts, too.
                    (true, _) => Next::Waits,
                    (false, Ok(())) => Next::Again(delay),
                    (false, Err(error)) => {
                        held.failed.pop();
                        return Next::Stuck(self.must_wait(&error));
                    }
                }
            }
            Disposition::RetryAfter(_) => {
                if let Some(last) = held.failed.last_mut() {
                    last.reason.push_str("; it would have expired before its next attempt");
                }
                Box::pin(self.give_up(held)).await
            }
            Disposition::DeadLetter => Box::pin(self.give_up(held)).await,
        };
        // While the dead letters take none, it holds up no others either. A fetcher is told, and says it again.
        let pushed = self.context.registered.subscription.reach != Reach::Inbox;
        match next {
            Next::Stuck(_) if pushed && Box::pin(self.keep_for_retry(held, DEAD_LETTERS_WAIT)).await => Next::Waits,
            next => next,
        }
    }

    /// Stores a refused event until its next attempt, and only then settles it where it came from. Where an order is
    /// kept, its owner holds it instead, and a redriven one waits beside its letter.
    async fn keep_for_retry(&self, held: &Held, delay: Duration) -> bool {
        let health = &self.context.health;
        let (message, replaces) = match &held.source {
            _ if self.in_order => return false,
            Source::Log(message) => (message, None),
            Source::Retry(message) => match message.info() {
                Ok(info) => (message, Some(info.stream_sequence)),
                Err(_) => return false,
            },
            Source::Redrive(..) => return false,
        };
        if !health.may_store_retries() {
            return false;
        }
        let delivery = &held.delivery;
        let delay = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
        let refused = Refused {
            at: self.place(&held.source, delivery.position),
            attributes: &delivery.attributes,
            traceparent: delivery.traceparent.as_deref(),
            data: delivery.data.clone(),
            published_at: delivery.published_at,
            attempts: &held.failed,
            due: self.context.store.now().saturating_add(delay),
            replaces,
        };
        // Somebody must give it out again: an account may have no consumer left.
        let read = self.read.get_or_try_init(|| async {
            let made = self.context.store.retries_consumer(&self.context.registered).await;
            made.map(drop)
        });
        if let Err(error) = read.await {
            health.retries_refuse(retries::problem(&self.context, &error));
            return false;
        }
        if let Err(error) = self.retries.store(refused).await {
            // Its message has no place for what the attempts said: it waits where it is.
            if matches!(error, Unstored::TooLarge { .. }) {
                debug!(subscription = %self.context.name(), position = %delivery.position, %error, "not stored among the retries");
                return false;
            }
            let why = std::error::Error::source(&error)
                .map(|s| format!(" ({s})"))
                .unwrap_or_default();
            health.retries_refuse(Problem::new(
                Code::RetriesFull,
                format!(
                    "subscription {}: the store of retries did not take a refused event: {error}{why}: such events take places in flight until their next attempt, and may hold up others: see why they are refused, or raise `retry.max-bytes`",
                    self.context.name()
                ),
            ));
            return false;
        }
        health.retries_are_taken(self.context.name().as_str());
        tell(message, AckKind::Ack).await;
        health.retry_stored.notify_one();
        true
    }

    /// Whether the log lets an event go before another attempt could be made.
    fn expires_within(&self, held: &Held, delay: Duration) -> bool {
        let max_age = self.context.store.policy().max_age;
        let nanoseconds = |d: Duration| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX);
        let expires_at = held.delivery.published_at.saturating_add(nanoseconds(max_age));
        !matches!(held.source, Source::Redrive(..))
            && self.context.store.now().saturating_add(nanoseconds(delay)) >= expires_at
    }

    async fn give_up(&self, held: &mut Held) -> Next {
        let event = Unhandled {
            position: held.delivery.position,
            tenant: held.delivery.attributes.tenant().clone(),
            payload: held.delivery.data.clone(),
            published_at: held.delivery.published_at,
        };
        let next = self.dead_letter(&held.source, &event, &held.failed).await;
        if next == Next::Gone {
            self.forget_attempts(held).await;
        } else {
            // This attempt is made again, and counted then.
            held.failed.pop();
        }
        next
    }

    async fn handled(&self, held: &Held) -> Next {
        match &held.source {
            Source::Log(message) | Source::Retry(message) => self.acknowledge(message).await,
            Source::Redrive(redrive, _) => match Box::pin(self.context.store.redriven(redrive)).await {
                Ok(()) => {
                    info!(
                        subscription = %redrive.of.name, tenant = %redrive.tenant, position = %redrive.position,
                        "a dead letter was redriven and handled"
                    );
                    Next::Gone
                }
                Err(error) => Next::Stuck(self.must_wait(&error)),
            },
        }
    }

    async fn acknowledge(&self, message: &jetstream::Message) -> Next {
        if !self.in_order {
            tell(message, AckKind::Ack).await;
            return Next::Gone;
        }
        if let Some(reply) = message.reply.clone() {
            Box::pin(self.acknowledge_for_sure(reply)).await;
        }
        Next::Gone
    }

    /// Until it is confirmed its key waits. The handler has returned, so nothing is delivered a second time for it unless
    /// this instance ends meanwhile: also when deliveries are to stop, the store is told.
    async fn acknowledge_for_sure(&self, reply: Subject) {
        loop {
            match self.context.store.nats().request(reply.clone(), "+ACK".into()).await {
                Ok(_) => return,
                Err(error) => {
                    debug!(subscription = %self.context.name(), %error, "a settlement is not confirmed yet");
                    tokio::select! {
                        () = self.context.stop.cancelled() => return,
                        () = tokio::time::sleep(STORE_WAIT) => {}
                    }
                }
            }
        }
    }

    async fn forget_attempts(&self, held: &Held) {
        let round = self.round_of(&held.source, held.delivery.position);
        if !held.failed.is_empty()
            && let Err(error) = Box::pin(self.attempts.clear(round, held.delivery.position)).await
        {
            debug!(%error, "failed attempts stay until they expire");
        }
    }

    /// Something that is no event: nothing could ever handle it, and it is not dropped. `tenant` is whose it seems to be.
    pub(super) async fn dead_letter_unreadable(
        &self,
        source: &Source,
        (tenant, place): (Option<TenantId>, &Place),
        problem: &Problem,
    ) {
        let (Source::Log(message) | Source::Retry(message)) = source else {
            return;
        };
        let Some(tenant) = tenant.or_else(|| "_".parse().ok()) else {
            return;
        };
        let failed = [FailedAttempt {
            attempt: 0,
            at: timestamp::to_rfc3339(clock::now()),
            reason: format!("not an event: {problem}"),
        }];
        let event = Unhandled {
            position: place.position,
            tenant,
            payload: message.payload.clone(),
            published_at: place.published_at,
        };
        if let Next::Stuck(wait) = self.dead_letter(source, &event, &failed).await {
            tell(message, AckKind::Nak(Some(wait))).await;
        }
    }

    /// Why an event has no dead letter yet.
    fn no_letter(&self, event: &Unhandled, error: &StoreError) -> Problem {
        let (subscription, position, tenant) = (self.context.name(), event.position, &event.tenant);
        let (code, why) = match error.full() {
            Some(Full::Storage) => (Code::StoreFull, format!("{} is full: give it more", Full::Storage)),
            Some(_) => (
                Code::StoreFull,
                "the dead letters are full: redrive or discard some, or raise `dead-letters.max-bytes` or `dead-letters.max-events`"
                    .to_owned(),
            ),
            None => (Code::StoreUnavailable, error.to_string()),
        };
        let message = format!("subscription {subscription}: {why}; event {position} of tenant {tenant} waits");
        Problem::new(code, message)
    }

    /// Stores a dead letter and only then settles the event.
    async fn dead_letter(&self, source: &Source, event: &Unhandled, attempts: &[FailedAttempt]) -> Next {
        let subscription = self.context.name();
        let (headers, replaces) = match source {
            Source::Log(message) | Source::Retry(message) => (message.headers.as_ref(), false),
            Source::Redrive(_, headers) => (Some(headers), true),
        };
        let letter = NewDeadLetter {
            of: &self.context.id(),
            tenant: &event.tenant,
            at: self.place(source, event.position),
            headers,
            payload: event.payload.clone(),
            attempts,
            published_at: event.published_at,
            replaces,
        };
        let stored = match (self.context.store.store_dead_letter(letter).await, source) {
            (Ok(()), Source::Redrive(redrive, _)) => self.context.store.dead_lettered_again(redrive).await,
            (stored, _) => stored,
        };
        if let Err(error) = stored {
            self.context.health.fails(self.no_letter(event, &error));
            let wait = self.must_wait(&error);
            // What the store refuses now it refuses for a while, and each further try is an invocation.
            return Next::Stuck(if error.answer().is_some() {
                DEAD_LETTERS_WAIT
            } else {
                wait
            });
        }
        Health::count(&self.context.health.dead_lettered);
        let (tenant, position) = (&event.tenant, event.position);
        let reason = attempts.last().map_or("", |a| a.reason.as_str());
        info!(%subscription, %tenant, %position, attempts = attempts.len(), reason, "stored as a dead letter");
        match source {
            Source::Log(message) | Source::Retry(message) => self.acknowledge(message).await,
            Source::Redrive(..) => Next::Gone,
        }
    }
}

/// A round's name in one log: attempts at events of another are counted apart.
fn in_log(round: String, log: Incarnation) -> String {
    if log.is_unsaid() {
        round
    } else {
        format!("{round}={log}")
    }
}

/// What a dead letter keeps of an event.
struct Unhandled {
    position: Position,
    tenant: TenantId,
    payload: Bytes,
    published_at: i64,
}
