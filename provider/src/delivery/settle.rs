//! What comes of an event once its handler has answered: it leaves the subscription, waits for another attempt, or
//! becomes a dead letter.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use fanout_plan::journal::{Entry, Outcome};
use fanout_plan::policy::Ordering;
use fanout_plan::retry::{Disposition, FailedAttempt, Rejection};
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Incarnation, LogPosition, Position, Problem, Round};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::journaled::{self, Call};
use super::state::DeliveryState;
use super::{Context, Delivery, Health, retries};
use crate::jetstream::{
    Acknowledgement, Attempts, Beside, Message, Redrive, Refused, Retries, StoreError, Unstored, acknowledge,
    explained, stated,
};

/// How long an event waits when the store could not take what belongs to it.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// How long the store may take to confirm a settlement: the answer may be lost with a connection.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);

/// How long an event waits that can't become a dead letter now.
pub(super) const DEAD_LETTERS_WAIT: Duration = Duration::from_secs(10);

/// Where the event came from; it is settled there.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The log. The store delivers the event to no other instance until `delivery.ack-wait` has passed.
    Log(Message),
    /// The store of retries: the event was refused before. The store delivers it in the same way.
    Retry(Message),
    /// The dead letters, by request. A request waits for as long as it takes.
    Redrive(Redrive, Redriven),
}

/// The letter that is redriven.
#[derive(Clone, Debug)]
pub(super) struct Redriven {
    pub(super) number: u64,
    /// The event's, and the letter's own.
    pub(super) headers: HeaderMap,
}

impl Source {
    /// The message that is acknowledged; a redriven letter has none.
    pub(super) fn message(&self) -> Option<&Message> {
        match self {
            Self::Log(message) | Self::Retry(message) => Some(message),
            Self::Redrive(..) => None,
        }
    }
}

/// An event that this instance delivers.
pub(crate) struct InFlight {
    pub(super) source: Source,
    pub(crate) delivery: Delivery,
    pub(super) failed: Vec<FailedAttempt>,
    pub(crate) state: DeliveryState,
    pub(super) call: Call,
    /// Its fetcher's lease ended without a word; a refusal of it may come late.
    pub(crate) has_lapsed: bool,
    /// Why the store did not take its dead letter or its attempt, while it waits for that.
    pub(crate) waits_for: Option<Box<Problem>>,
}

impl InFlight {
    pub(super) fn new(source: Source, delivery: Delivery, failed: Vec<FailedAttempt>) -> Self {
        Self {
            source,
            delivery,
            failed,
            state: DeliveryState::New,
            call: Call::default(),
            has_lapsed: false,
            waits_for: None,
        }
    }

    /// It is in its subscriber's hands from now on.
    pub(crate) fn begin(&mut self) {
        self.state = DeliveryState::InFlight;
        self.call = Call::begin();
    }

    /// Begins its lease anew: the store waits `delivery.ack-wait` from here.
    pub(crate) async fn renew(&self) {
        if let Some(message) = self.source.message() {
            renew(message).await;
        }
    }

    /// Naks what is to be delivered again, with the delay; anything else stays as it is.
    pub(crate) async fn nak(&self) {
        if let (Some(message), Some(delay)) = (self.source.message(), self.state.again_after()) {
            nak(message, delay).await;
        }
    }

    /// Naks it at once: it is not delivered any more.
    pub(crate) async fn release(&self) {
        if let Some(message) = self.source.message() {
            nak(message, Duration::ZERO).await;
        }
    }

    /// The reply subject of its message, on which it is acknowledged; empty for a redriven letter.
    pub(crate) fn reply(&self) -> String {
        let reply = self.source.message().and_then(|message| message.reply.as_ref());
        reply.map(ToString::to_string).unwrap_or_default()
    }
}

/// Begins the lease of a message anew.
pub(super) async fn renew(message: &Message) {
    acknowledge(message, Acknowledgement::Progress).await;
}

/// Has the store deliver a message again, after the delay.
pub(super) async fn nak(message: &Message, delay: Duration) {
    acknowledge(message, Acknowledgement::Nak(delay)).await;
}

/// Settles the events of one subscription.
pub(crate) struct Settler {
    pub(super) context: Arc<Context>,
    attempts: Attempts,
    retries: Retries,
    /// Set once there is a consumer that delivers what is stored there.
    consumer: OnceCell<()>,
    /// The round in which attempts at events of the log are counted.
    round: String,
    /// Whether the next event of a key waits until the store has confirmed that the last one is settled. Otherwise a
    /// settlement that is lost would bring an event again behind a later one.
    in_order: bool,
    /// Cancelled when whoever delivers is to end: what the store does not confirm then is delivered again.
    over: CancellationToken,
}

impl Settler {
    pub(crate) async fn new(context: &Arc<Context>, over: CancellationToken) -> Result<Self, StoreError> {
        Ok(Self {
            attempts: context.store.attempts().await?,
            retries: context.store.retries(&context.registered),
            consumer: OnceCell::new(),
            round: format!("{}={}", context.id().name, Round::of(&context.registered)),
            in_order: context.store.policy().ordering != Ordering::None,
            over,
            context: Arc::clone(context),
        })
    }

    /// The failed attempts of an event that was delivered before.
    pub(super) async fn earlier_attempts(
        &self,
        source: &Source,
        position: Position,
    ) -> Result<Vec<FailedAttempt>, StoreError> {
        self.attempts.of(self.round_of(source, position), position).await
    }

    /// The failed attempts of an event of the log.
    pub(crate) async fn attempts_so_far(&self, position: Position) -> Result<Vec<FailedAttempt>, StoreError> {
        self.attempts
            .of(self.round_in(self.in_its_log(position)), position)
            .await
    }

    /// The failed attempts of an event that waited for a retry, whose note says so much. The note has as much as there was room
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

    /// Counts a refusal of an event of the log whose lease was over. It is noted and nothing else: the event may be in other hands,
    /// whose lease goes on, and what follows from it follows when it comes again. `false` where another instance has written since it was
    /// read.
    pub(crate) async fn count_late(
        &self,
        position: Position,
        (mut earlier, revision): (Vec<FailedAttempt>, u64),
        attempt: FailedAttempt,
    ) -> Result<bool, StoreError> {
        earlier.push(attempt);
        let round = self.round_in(self.in_its_log(position));
        let is_counted = self.attempts.replace(round, position, revision, &earlier).await?;
        if is_counted {
            Health::count(&self.context.health.refused);
        }
        Ok(is_counted)
    }

    /// The failed attempts of an event of the log, and the revision that [`Self::count_late`] replaces.
    pub(crate) async fn attempts_revised(&self, position: Position) -> Result<(Vec<FailedAttempt>, u64), StoreError> {
        let round = self.round_in(self.in_its_log(position));
        self.attempts.revised(round, position).await
    }

    /// Takes in what was refused late of an event that an owner dispatches once more, or has. Returns whether that has used its
    /// attempts up, and it is settled, or waits for the store.
    pub(crate) async fn learns_of_late(&self, event: &mut InFlight) -> bool {
        if !event.has_lapsed || event.source.message().is_none() {
            return false;
        }
        let position = event.delivery.position;
        match self.earlier_attempts(&event.source, position).await {
            Ok(failed) if failed.len() > event.failed.len() => {
                event.delivery.attempt = failed.last().map_or(1, |last| last.attempt + 1);
                event.failed = failed;
                self.was_used_up(event).await
            }
            Ok(_) => false,
            Err(error) => {
                event.state = DeliveryState::StoreUnavailable(self.must_wait(&error));
                true
            }
        }
    }

    /// Whether an event's attempts were used up by a refusal that came late. It becomes a dead letter instead of being delivered, or
    /// waits for the store.
    pub(crate) async fn was_used_up(&self, event: &mut InFlight) -> bool {
        if !self.context.retry().is_used_up(&event.failed) {
            return false;
        }
        event.state = self.give_up(event).await;
        self.note(event, None, true);
        true
    }

    /// Whether an event of the log that was delivered before waits for a retry: what came of it then is stored, and the
    /// log does not know.
    pub(super) async fn waits(&self, position: Position) -> Result<bool, StoreError> {
        if self.in_order {
            return Ok(false);
        }
        self.retries.has(self.in_its_log(position)).await
    }

    fn round_of(&self, source: &Source, position: Position) -> String {
        match source {
            Source::Log(_) | Source::Retry(_) => self.round_in(self.position_in_log(source, position)),
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
    pub(super) fn position_in_log(&self, source: &Source, position: Position) -> LogPosition {
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
    pub(super) async fn skip(&self, message: &Message) {
        acknowledge(message, Acknowledgement::Ack).await;
    }

    /// Puts an event off because the store does not answer.
    pub(super) async fn wait_for_store(&self, message: &Message, error: &StoreError) {
        nak(message, self.must_wait(error)).await;
    }

    pub(super) fn must_wait(&self, error: &StoreError) -> Duration {
        warn!(subscription = %self.context.name(), %error, "an event waits for the store");
        STORE_WAIT
    }

    /// Acts on a handler's answer, and returns the state that the delivery is in then. What is rare is boxed: otherwise each
    /// event in flight would carry room for all of it.
    pub(crate) async fn settle(&self, event: &mut InFlight, answer: Result<(), Rejection>) -> DeliveryState {
        let (took, was_refused) = (event.call.took(), answer.is_err());
        event.waits_for = None;
        event.state = match answer {
            Ok(()) => self.handled(event).await,
            Err(rejection) => Box::pin(self.refused(event, &rejection)).await,
        };
        self.note(event, took, was_refused);
        let (position, attempt) = (event.delivery.position, event.delivery.attempt);
        debug!(subscription = %self.context.name(), %position, attempt, state = %event.state, "answered");
        event.state
    }

    /// Writes down what came of an event.
    fn note(&self, event: &InFlight, took: Option<Duration>, was_refused: bool) {
        let Some(outcome) = journaled::outcome(event.state, was_refused) else {
            return;
        };
        let (delivery, call) = (&event.delivery, &event.call);
        let redriven = matches!(event.source, Source::Redrive(..));
        let went_well_at_once = outcome == Outcome::Handled && delivery.attempt <= 1 && !redriven;
        self.context.journal.note(went_well_at_once, || {
            let at = self.position_in_log(&event.source, delivery.position);
            let last = event.failed.last().map(|last| last.reason.as_str());
            let why = last.filter(|_| was_refused);
            Entry {
                redriven,
                ..self.context.entry(delivery, at, (call, took), (outcome, why))
            }
        });
    }

    async fn handled(&self, event: &InFlight) -> DeliveryState {
        match &event.source {
            // Acknowledged only now that the handler has returned: a crash before this delivers again.
            Source::Log(message) | Source::Retry(message) => {
                if !self.acknowledge(message).await {
                    // The next owner may deliver it once more, so whoever settled it is not told that it is settled.
                    return DeliveryState::StoreUnavailable(STORE_WAIT);
                }
            }
            Source::Redrive(redrive, _) => {
                if let Err(error) = Box::pin(self.context.store.redriven(redrive)).await {
                    return DeliveryState::StoreUnavailable(self.must_wait(&error));
                }
                info!(
                    subscription = %redrive.of.name, tenant = %redrive.tenant, position = %redrive.position,
                    "a dead letter was redriven and handled"
                );
            }
        }
        Health::count(&self.context.health.handled);
        self.forget_attempts(event).await;
        DeliveryState::Settled
    }

    async fn refused(&self, event: &mut InFlight, rejection: &Rejection) -> DeliveryState {
        Health::count(&self.context.health.refused);
        event.failed.push(FailedAttempt {
            attempt: event.delivery.attempt,
            at: self.context.store.now().to_string(),
            reason: rejection.reason().to_owned(),
            late: None,
        });
        let state = match self.context.retry().disposition(rejection, event.delivery.attempt) {
            Disposition::RetryAfter(delay) if !self.expires_within(event, delay) => {
                return self.retry(event, delay).await;
            }
            Disposition::RetryAfter(_) => {
                if let Some(last) = event.failed.last_mut() {
                    last.reason.push_str("; it would have expired before its next attempt");
                }
                self.give_up(event).await
            }
            Disposition::DeadLetter => self.give_up(event).await,
        };
        // While the dead letters take none, it holds up no others either. A fetcher receives the error, and settles again.
        let pushed = self.context.registered.subscription.reach != Reach::Inbox;
        match state {
            DeliveryState::StoreUnavailable(_) if pushed && self.store_retry(event, DEAD_LETTERS_WAIT).await => {
                event.call.wait = Some(DEAD_LETTERS_WAIT);
                DeliveryState::WaitingRetry
            }
            state => state,
        }
    }

    /// Has an event delivered again after the delay.
    async fn retry(&self, event: &mut InFlight, delay: Duration) -> DeliveryState {
        let position = event.delivery.position;
        event.call.wait = Some(delay);
        // Written before the event is nak'ed, so that no attempt is forgotten.
        let round = self.round_of(&event.source, position);
        let noted = self.attempts.put(round, position, &event.failed).await;
        match (self.store_retry(event, delay).await, noted) {
            // Its message notes its attempts, too.
            (true, _) => DeliveryState::WaitingRetry,
            (false, Ok(())) => DeliveryState::Retry(delay),
            (false, Err(error)) => {
                event.failed.pop();
                event.waits_for = error.full().map(|_| {
                    Box::new(Problem::new(
                        Code::StoreFull,
                        format!(
                            "subscription {}: the store of failed attempts is full: see why so many events are refused, or raise `attempts.max-bytes`; event {position} waits",
                            self.context.name()
                        ),
                    ))
                });
                DeliveryState::StoreUnavailable(self.must_wait(&error))
            }
        }
    }

    /// Stores a refused event until its next attempt, and only then settles it where it came from. Where an order is
    /// kept, its owner holds it instead, and a redriven one waits beside its letter.
    async fn store_retry(&self, event: &InFlight, delay: Duration) -> bool {
        let health = &self.context.health;
        let (message, replaces) = match &event.source {
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
        let delivery = &event.delivery;
        // One that waited already takes the place that it had.
        if replaces.is_none() && !self.retries.has_place(delivery.bytes()).await {
            health.retries_refuse(Problem::new(
                Code::RetriesFull,
                format!(
                    "subscription {}: callers' refused events have their share of the store of retries, whose last quarter is for subscriptions that the policy and links declare: such events stay in flight until their next attempt, and may hold up others of the subscription: see why they are refused, or raise `retry.max-bytes`",
                    self.context.name()
                ),
            ));
            return false;
        }
        let refused = Refused {
            at: self.position_in_log(&event.source, delivery.position),
            attributes: &delivery.attributes,
            beside: Beside {
                traceparent: delivery.traceparent.as_deref(),
                publisher: stated(message.headers.as_ref()),
            },
            data: delivery.data.clone(),
            published_at: delivery.published_at,
            attempts: &event.failed,
            due: self.context.store.now() + delay,
            replaces,
        };
        // Something must deliver it again: an account may have no consumer left.
        let consumer = self.consumer.get_or_try_init(|| async {
            let made = self.context.store.retries_consumer(&self.context.registered).await;
            made.map(drop)
        });
        if let Err(error) = consumer.await {
            health.retries_refuse(retries::problem(&self.context, &error));
            return false;
        }
        if let Err(error) = self.retries.store(refused).await {
            // Its message has no place for what the attempts said: it waits where it is.
            if matches!(error, Unstored::TooLarge { .. }) {
                debug!(subscription = %self.context.name(), position = %delivery.position, %error, "a refused event is too large for the store of retries; it waits in the log");
                return false;
            }
            let why = explained(&error);
            health.retries_refuse(Problem::new(
                Code::RetriesFull,
                format!(
                    "subscription {}: the store of retries did not take a refused event: {why}: such events stay in flight until their next attempt, and may hold up others: see why they are refused, or raise `retry.max-bytes`",
                    self.context.name()
                ),
            ));
            return false;
        }
        health.retries_are_taken(self.context.name().as_str());
        acknowledge(message, Acknowledgement::Ack).await;
        health.retry_stored.notify_one();
        true
    }

    /// Whether the log lets an event go before another attempt could be made.
    fn expires_within(&self, event: &InFlight, delay: Duration) -> bool {
        let max_age = self.context.store.policy().retention.max_age;
        let expires_at = event.delivery.published_at + max_age;
        !matches!(event.source, Source::Redrive(..)) && self.context.store.now() + delay >= expires_at
    }

    /// Returns whether it is acknowledged, where there is an order; else it is sent, and at least once is what is promised.
    pub(super) async fn acknowledge(&self, message: &Message) -> bool {
        if !self.in_order {
            acknowledge(message, Acknowledgement::Ack).await;
            return true;
        }
        match message.reply.clone() {
            Some(reply) => Box::pin(self.acknowledge_for_sure(reply)).await,
            None => true,
        }
    }

    /// Until it is confirmed its key waits. The handler has returned, so nothing is delivered a second time for it unless
    /// this owner ends meanwhile: also when it is to end, the settlement is sent once. Not for ever: a server that was
    /// killed has forgotten the delivery, a consumer that was deleted knows of none, and neither ever confirms it. Returns
    /// whether it is confirmed.
    async fn acknowledge_for_sure(&self, reply: Subject) -> bool {
        loop {
            match self.context.store.confirm_ack(reply.clone(), CONFIRMED_WITHIN).await {
                Ok(()) => return true,
                Err(error) => {
                    debug!(subscription = %self.context.name(), %error, "a settlement is not confirmed yet");
                    tokio::select! {
                        () = self.over.cancelled() => return false,
                        () = tokio::time::sleep(STORE_WAIT) => {}
                    }
                }
            }
        }
    }

    pub(super) async fn forget_attempts(&self, event: &InFlight) {
        let round = self.round_of(&event.source, event.delivery.position);
        if (!event.failed.is_empty() || event.has_lapsed)
            && let Err(error) = Box::pin(self.attempts.clear(round, event.delivery.position)).await
        {
            debug!(%error, "failed attempts stay until they expire");
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
