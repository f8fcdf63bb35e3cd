//! Calls to the bus, each within a deadline; those whose repeat is harmless are repeated while time is left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanout_transport::{CallContext, Error, Outcome};
use fanout_wit::types::{
    Cancellation, Event, FetchedDeliveries, InboxError, LinkStatus, Problem, PublishError, Reach, Receipt, Scheduled,
    SettleError, Settlement, SettlementOutcome, Start, SubscribeError, Subscription,
};
use fanout_wit::{inbox, publisher, status, subscriber};
use tokio::time::Instant;
use wrpc_transport::Invoke;

use crate::pause::Pause;
use crate::wanted::{Need, Wanted};

/// One attempt; a repeat may find another connection.
const ATTEMPT: Duration = Duration::from_secs(3);
/// What a fetch may take beyond its wait.
const FETCH_MARGIN: Duration = Duration::from_secs(5);
/// The waits between attempts: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why a call to the bus had no use.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It can't be reached, or says that it can't do it now: a retry can help.
    Now(Problem),
    /// It has no such subscription: it has to be made again.
    Unknown(Problem),
    /// It refuses: somebody has to change something first.
    Refused(Problem),
}

impl Trouble {
    /// What went wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Now(problem) | Self::Unknown(problem) | Self::Refused(problem) => problem,
        }
    }
}

/// What [`crate::Deliveries`] asks of a bus.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// Makes the subscription, one that is fetched; the same twice is one.
    fn declare(&self, wanted: &Wanted) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Takes deliveries, waiting for the first.
    fn fetch(
        &self,
        name: &str,
        most: u32,
        wait: Duration,
    ) -> impl Future<Output = Result<FetchedDeliveries, Trouble>> + Send;

    /// Settles deliveries: one answer for each.
    fn settle(
        &self,
        settlements: &[Settlement],
    ) -> impl Future<Output = Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble>> + Send;
}

/// A bus that is somewhere else.
#[derive(Clone, Debug)]
pub struct Upstream<I> {
    invoke: I,
    deadline: Duration,
    trouble: Arc<Mutex<Option<Problem>>>,
}

impl<I> Upstream<I>
where
    I: Invoke<Context = CallContext> + Clone + Send + Sync + 'static,
{
    /// A bus that is called by `invoke`. `deadline` is for a whole call with its repeats.
    pub fn new(invoke: I, deadline: Duration) -> Self {
        Self {
            invoke,
            deadline,
            trouble: Arc::default(),
        }
    }

    /// Why the last call did not reach the bus; `None` when it did.
    #[must_use]
    pub fn trouble(&self) -> Option<Problem> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes an event. When an outcome is unknown it is published again with the same id, which is the same event.
    ///
    /// # Errors
    /// The bus's own, and `unavailable` or `outcome-unknown` for what its transport met.
    pub async fn publish(&self, cx: &CallContext, event: &Event) -> Result<Receipt, PublishError> {
        let invoke = &self.invoke;
        let sent = self.repeat(cx, |cx| async move {
            publisher::publish_tenant_event(invoke, cx, event).await
        });
        sent.await.unwrap_or_else(|unsent| Err(unsent.publish_error()))
    }

    /// Publishes many; one result for each.
    pub async fn publish_many(&self, cx: &CallContext, events: &[Event]) -> Vec<Result<Receipt, PublishError>> {
        let invoke = &self.invoke;
        let sent = self.repeat(cx, |cx| async move {
            publisher::publish_tenant_events(invoke, cx, events).await
        });
        match sent.await {
            Ok(answers) => answers,
            Err(unsent) => events.iter().map(|_| Err(unsent.publish_error())).collect(),
        }
    }

    /// Publishes events that belong together; a repeat stores what is not stored yet.
    ///
    /// # Errors
    /// As [`Upstream::publish`].
    pub async fn publish_together(&self, cx: &CallContext, events: &[Event]) -> Result<Vec<Receipt>, PublishError> {
        let invoke = &self.invoke;
        let sent = self.repeat(cx, |cx| async move {
            publisher::publish_tenant_events_together(invoke, cx, events).await
        });
        sent.await.unwrap_or_else(|unsent| Err(unsent.publish_error()))
    }

    /// Publishes an event later. The same one twice is one, so an unknown outcome is asked again.
    ///
    /// # Errors
    /// As [`Upstream::publish`].
    pub async fn publish_at(&self, cx: &CallContext, event: &Event, at: i64) -> Result<Scheduled, PublishError> {
        let invoke = &self.invoke;
        let sent = self.repeat(cx, |cx| async move {
            publisher::publish_tenant_event_at(invoke, cx, event, at).await
        });
        sent.await.unwrap_or_else(|unsent| Err(unsent.publish_error()))
    }

    /// Cancels an event that was to be published later; a repeat says the same.
    ///
    /// # Errors
    /// As [`Upstream::publish`].
    pub async fn cancel(
        &self,
        cx: &CallContext,
        tenant: &str,
        source: &str,
        id: &str,
    ) -> Result<Cancellation, PublishError> {
        let invoke = &self.invoke;
        let sent = self.repeat(cx, |cx| async move {
            publisher::cancel_scheduled(invoke, cx, tenant, source, id).await
        });
        sent.await.unwrap_or_else(|unsent| Err(unsent.publish_error()))
    }

    /// Makes a subscription that is fetched.
    ///
    /// # Errors
    /// The bus's own, and `outcome-unknown` or `unavailable` for what its transport met.
    pub async fn subscribe(&self, cx: &CallContext, wanted: &Wanted) -> Result<Subscription, SubscribeError> {
        let (invoke, name) = (&self.invoke, wanted.name.as_str());
        let made = self.repeat(cx, |cx| async move {
            match &wanted.need {
                Need::Queue => subscriber::subscribe_queue(invoke, cx, name, &wanted.filter(), Reach::Inbox).await,
                Need::Durable => subscriber::subscribe_durable(invoke, cx, name, &wanted.options()).await,
                Need::Backfill { start, end } => {
                    subscriber::subscribe_backfill(invoke, cx, name, start, *end, &wanted.options()).await
                }
            }
        });
        made.await.unwrap_or_else(|unsent| Err(unsent.subscribe_error()))
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// As [`Upstream::subscribe`].
    pub async fn unsubscribe(&self, cx: &CallContext, name: &str) -> Result<(), SubscribeError> {
        let invoke = &self.invoke;
        let ended = self.repeat(cx, |cx| async move { subscriber::unsubscribe(invoke, cx, name).await });
        ended.await.unwrap_or_else(|unsent| Err(unsent.subscribe_error()))
    }

    /// Stops a subscription's deliveries, or lets them go on.
    ///
    /// # Errors
    /// As [`Upstream::subscribe`].
    pub async fn pause(&self, cx: &CallContext, name: &str, paused: bool) -> Result<Subscription, SubscribeError> {
        let invoke = &self.invoke;
        let changed = self.repeat(cx, |cx| async move {
            if paused {
                subscriber::pause(invoke, cx, name).await
            } else {
                subscriber::resume(invoke, cx, name).await
            }
        });
        changed.await.unwrap_or_else(|unsent| Err(unsent.subscribe_error()))
    }

    /// Puts a subscription back to a place in the log.
    ///
    /// # Errors
    /// As [`Upstream::subscribe`].
    pub async fn rewind(&self, cx: &CallContext, name: &str, to: &Start) -> Result<Subscription, SubscribeError> {
        let invoke = &self.invoke;
        let changed = self.repeat(cx, |cx| async move { subscriber::rewind(invoke, cx, name, to).await });
        changed.await.unwrap_or_else(|unsent| Err(unsent.subscribe_error()))
    }

    /// The subscriptions of this caller.
    ///
    /// # Errors
    /// As [`Upstream::subscribe`].
    pub async fn subscriptions(&self, cx: &CallContext) -> Result<Vec<Subscription>, SubscribeError> {
        let invoke = &self.invoke;
        let listed = self.repeat(cx, |cx| async move { subscriber::list_subscriptions(invoke, cx).await });
        listed.await.unwrap_or_else(|unsent| Err(unsent.subscribe_error()))
    }

    /// What the bus says of this caller.
    ///
    /// # Errors
    /// When it can't be reached.
    pub async fn links(&self, cx: &CallContext) -> Result<Vec<LinkStatus>, Problem> {
        let invoke = &self.invoke;
        let listed = self.repeat(cx, |cx| async move { status::links(invoke, cx).await });
        listed.await.map_err(|unsent| unsent.problem)
    }

    /// Takes deliveries of one subscription and holds them.
    ///
    /// # Errors
    /// The bus's own, and `unavailable` for what its transport met.
    pub async fn fetch_for(
        &self,
        cx: &CallContext,
        name: &str,
        most: u32,
        max_bytes: Option<u64>,
        wait: Duration,
    ) -> Result<FetchedDeliveries, InboxError> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let cx = CallContext {
            deadline: Some(wait + FETCH_MARGIN),
            ..cx.clone()
        };
        match inbox::fetch(&self.invoke, cx, name, most, max_bytes, wait_ms).await {
            Ok(answer) => self.reached(answer),
            Err(error) => Err(InboxError::Unavailable(self.missed(&error).problem)),
        }
    }

    /// Settles deliveries.
    ///
    /// # Errors
    /// When the bus can't be reached: whether it took them is unknown, and they may be settled again.
    pub async fn settle_for(
        &self,
        cx: &CallContext,
        settlements: &[Settlement],
    ) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Problem> {
        let cx = CallContext {
            deadline: Some(ATTEMPT),
            ..cx.clone()
        };
        match inbox::settle(&self.invoke, cx, settlements).await {
            Ok(answers) => Ok(self.reached(answers)),
            Err(error) => Err(self.missed(&error).problem),
        }
    }

    /// Calls again while the time is not up and a repeat can help. Everything that is called by it is idempotent.
    async fn repeat<T, F>(&self, cx: &CallContext, call: impl Fn(CallContext) -> F) -> Result<T, Unsent>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let whole = cx.deadline.unwrap_or(self.deadline);
        let end = Instant::now() + whole;
        let mut pause = Pause::new(PAUSES.0, PAUSES.1);
        let mut may_have_run = false;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let cx = CallContext {
                deadline: Some(left.min(ATTEMPT).max(Duration::from_millis(1))),
                ..cx.clone()
            };
            let error = match call(cx).await {
                Ok(answer) => return Ok(self.reached(answer)),
                Err(error) => error,
            };
            let mut unsent = self.missed(&error);
            may_have_run |= unsent.may_have_run;
            unsent.may_have_run = may_have_run;
            let is_over = tokio::time::timeout_at(end, pause.wait()).await.is_err();
            if is_over || !unsent.can_be_repeated {
                return Err(unsent);
            }
        }
    }

    fn reached<T>(&self, answer: T) -> T {
        let before = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if before.is_some() {
            tracing::info!("the bus is reached again");
        }
        answer
    }

    fn missed(&self, error: &anyhow::Error) -> Unsent {
        let unsent = Unsent::of(error);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            tracing::warn!(code = unsent.problem.code, "{}", unsent.problem.message);
        }
        *trouble = Some(unsent.problem.clone());
        unsent
    }
}

/// What the transport met.
struct Unsent {
    problem: Problem,
    may_have_run: bool,
    can_be_repeated: bool,
}

impl Unsent {
    fn of(error: &anyhow::Error) -> Self {
        let known = Error::find(error);
        let refused = matches!(
            known,
            Some(Error::TooLarge { .. } | Error::Unsupported(_) | Error::Encode(_) | Error::Decode(_))
        );
        Self {
            problem: Problem {
                code: known.map_or("call-failed", Error::code).to_owned(),
                message: format!(
                    "the bus can't be reached: {error:#}: see that it runs, and that its URL and certificates are right here"
                ),
            },
            may_have_run: known.is_none_or(|error| error.outcome() != Outcome::NotStarted),
            can_be_repeated: !refused,
        }
    }

    fn publish_error(&self) -> PublishError {
        if self.may_have_run {
            PublishError::OutcomeUnknown(Problem {
                code: "outcome-unknown".to_owned(),
                message: format!(
                    "it may be stored; publish it again with the same id: {}",
                    self.problem.message
                ),
            })
        } else {
            PublishError::Unavailable(self.problem.clone())
        }
    }

    fn subscribe_error(&self) -> SubscribeError {
        if self.may_have_run {
            SubscribeError::OutcomeUnknown(self.problem.clone())
        } else {
            SubscribeError::Unavailable(self.problem.clone())
        }
    }
}

impl<I> Inbox for Upstream<I>
where
    I: Invoke<Context = CallContext> + Clone + Send + Sync + 'static,
{
    async fn declare(&self, wanted: &Wanted) -> Result<(), Trouble> {
        match self.subscribe(&CallContext::default(), wanted).await {
            Ok(_) => Ok(()),
            Err(SubscribeError::Unavailable(problem) | SubscribeError::OutcomeUnknown(problem)) => {
                Err(Trouble::Now(problem))
            }
            Err(
                SubscribeError::InvalidRequest(problem)
                | SubscribeError::NotPermitted(problem)
                | SubscribeError::Conflict(problem)
                | SubscribeError::UnknownSubscription(problem),
            ) => Err(Trouble::Refused(problem)),
        }
    }

    async fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble> {
        let fetched = self.fetch_for(&CallContext::default(), name, most, None, wait).await;
        fetched.map_err(|error| match error {
            InboxError::Unavailable(problem) => Trouble::Now(problem),
            InboxError::UnknownSubscription(problem) => Trouble::Unknown(problem),
            InboxError::InvalidRequest(problem) | InboxError::NotPermitted(problem) => Trouble::Refused(problem),
        })
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble> {
        let settled = self.settle_for(&CallContext::default(), settlements).await;
        settled.map_err(Trouble::Now)
    }
}
