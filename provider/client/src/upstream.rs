//! Calls to a bus in the contract's own types, each within a deadline; repeated while time is left and that can help.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fanout_attempts::{self as attempts, ATTEMPT, Attempts, Refusal};
use fanout_transport::{CallContext, ConnectOptions, Endpoint, Error};
use fanout_wit::types::{
    Event, FetchedDeliveries, InboxError, Problem, PublishError, Reach, Receipt, SettleError, Settlement,
    SettlementOutcome, SubscribeError, Subscription as Made,
};
use fanout_wit::{PUBLISHER, inbox, subscriber};
use tokio::time::Instant;
use wrpc_transport::Invoke;
use wrpc_transport::frame::{Incoming, Outgoing};

use crate::connection::Connection;
use crate::missed::Missed;
use crate::retry::Backoff;
use crate::subscription::{Request, Subscription};

/// What a fetch may take beyond its wait.
const FETCH_MARGIN: Duration = Duration::from_secs(5);

/// A bus that is somewhere else, connected to by the first call.
#[derive(Clone, Debug)]
pub struct Upstream {
    connection: Connection,
    /// For a whole call with its repeats.
    deadline: Duration,
    attempt: Duration,
    /// The link that it is called by, on a lattice.
    link: Option<String>,
    /// Tries again, too, what the bus itself can't do now.
    is_persistent: bool,
    /// Waits, too, for as long as the bus says that a quota is used up.
    waits_for_quota: bool,
    trouble: Arc<Mutex<Option<Problem>>>,
}

impl Upstream {
    /// A bus at an endpoint. `deadline` is for a whole call with its repeats.
    #[must_use]
    pub fn new(endpoint: Endpoint, options: ConnectOptions, deadline: Duration) -> Self {
        Self {
            connection: Connection::new(endpoint, options),
            deadline,
            attempt: ATTEMPT,
            link: None,
            is_persistent: false,
            waits_for_quota: false,
            trouble: Arc::default(),
        }
    }

    /// The same for a program: called by a link, and tried again while the bus says that a retry can help.
    pub(crate) fn persistent(mut self, attempt: Duration, link: &str) -> Self {
        self.attempt = attempt;
        self.link = Some(link.to_owned());
        self.is_persistent = true;
        self
    }

    /// The same, which waits out a quota.
    pub(crate) fn waiting_for_quota(mut self, waits: bool) -> Self {
        self.waits_for_quota = waits;
        self
    }

    /// How long the bus says that a refusal lasts, where that is waited out.
    pub(crate) fn quota_wait<E: Refusal>(&self, refusal: &E) -> Option<Duration> {
        // A wait of nothing would ask without a pause.
        let wait = refusal.retry_after().filter(|_| self.waits_for_quota)?;
        Some(wait.max(Duration::from_millis(1)))
    }

    /// Connects, unless that was done before.
    pub(crate) async fn connect(&self, within: Duration) -> Result<(), Error> {
        let cx = CallContext::within(within);
        self.connection.remote_for(cx).await.map(drop)
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
        self.ask(cx.clone(), |cx| async move {
            let (remote, cx) = self.connection.remote_for(cx).await?;
            // Without the frames that generated bindings put around each value.
            Ok(remote
                .call_values(cx, PUBLISHER, "publish-tenant-event", (event,))
                .await?)
        })
        .await
    }

    /// Publishes many; one result for each.
    pub async fn publish_many(&self, cx: &CallContext, events: &[Event]) -> Vec<Result<Receipt, PublishError>> {
        self.ask_many(cx.clone(), events.len(), |cx| async move {
            let (remote, cx) = self.connection.remote_for(cx).await?;
            let answers = remote.call_values(cx, PUBLISHER, "publish-tenant-events", (events,));
            Ok(answers.await?)
        })
        .await
    }

    /// As [`Upstream::ask`], of so many things each of which has its answer.
    async fn ask_many<T, E, F>(
        &self,
        cx: CallContext,
        count: usize,
        call: impl Fn(CallContext) -> F,
    ) -> Vec<Result<T, E>>
    where
        E: Refusal + Clone + From<Missed>,
        F: Future<Output = anyhow::Result<Vec<Result<T, E>>>>,
    {
        let asked = self.repeat(cx, |cx| {
            let answers = call(cx);
            async move { Ok(Ok::<_, E>(answers.await?)) }
        });
        match asked.await {
            // Each has its answer, and of each an attempt before may be known to nobody.
            (Ok(answers), attempts) => answers
                .into_iter()
                .map(|answer| answer.map_err(|refusal| attempts.whole(refusal)))
                .collect(),
            (Err(refusal), _) => (0..count).map(|_| Err(refusal.clone())).collect(),
        }
    }

    /// Makes a subscription, as one that is fetched; the same twice is one.
    ///
    /// # Errors
    /// The bus's own, and `unavailable` or `outcome-unknown` for what its transport met.
    pub async fn subscribe(&self, cx: &CallContext, wanted: &Subscription) -> Result<Made, SubscribeError> {
        let (bus, name, request) = (self, &wanted.name, &wanted.request());
        self.ask(cx.clone(), |cx| async move {
            match request {
                Request::Queue(filter) => subscriber::subscribe_queue(bus, cx, name, filter, Reach::Inbox).await,
                Request::Durable(options) => subscriber::subscribe_durable(bus, cx, name, options).await,
                Request::Backfill(start, end, options) => {
                    subscriber::subscribe_backfill(bus, cx, name, start, *end, options).await
                }
            }
        })
        .await
    }

    /// The subscriptions of this caller.
    ///
    /// # Errors
    /// As [`Upstream::subscribe`].
    pub async fn subscriptions(&self, cx: &CallContext) -> Result<Vec<Made>, SubscribeError> {
        self.ask(cx.clone(), |cx| subscriber::list_subscriptions(self, cx))
            .await
    }

    /// Leases deliveries of one subscription.
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
        let cx = self.within(cx, wait + FETCH_MARGIN);
        match inbox::fetch(self, cx, name, most, max_bytes, wait_ms).await {
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
        let cx = self.within(cx, self.attempt);
        match inbox::settle(self, cx, settlements).await {
            Ok(answers) => Ok(self.reached(answers)),
            Err(error) => Err(self.missed(&error).problem),
        }
    }

    /// Calls a function of the contract: again while the time is not up and a repeat can help, so that it has to be
    /// idempotent, as all of the contract's are. When an attempt had an unknown outcome and none after it settled that, the
    /// outcome of the whole is unknown.
    ///
    /// # Errors
    /// The bus's own, and what stands for what the transport met.
    pub async fn ask<T, E, F>(&self, cx: CallContext, call: impl Fn(CallContext) -> F) -> Result<T, E>
    where
        E: Refusal + Clone + From<Missed>,
        F: Future<Output = anyhow::Result<Result<T, E>>>,
    {
        self.repeat(cx, call).await.0
    }

    /// The answer, and the attempts before it.
    async fn repeat<T, E, F>(&self, cx: CallContext, call: impl Fn(CallContext) -> F) -> (Result<T, E>, Attempts<E>)
    where
        E: Refusal + Clone + From<Missed>,
        F: Future<Output = anyhow::Result<Result<T, E>>>,
    {
        let end = Instant::now() + cx.deadline.unwrap_or(self.deadline);
        let left = || end.saturating_duration_since(Instant::now());
        let mut backoff = Backoff::default();
        let mut attempts = Attempts::default();
        loop {
            let within = attempts::within(left(), self.attempt);
            let (refusal, can_help) = match call(self.within(&cx, within)).await {
                Ok(answer) => match self.reached(answer) {
                    Ok(done) => return (Ok(done), attempts),
                    Err(refusal) if refusal.is_transient() => (refusal, self.is_persistent),
                    Err(refusal) => {
                        let is_waited_out = self.quota_wait(&refusal).is_some();
                        (refusal, is_waited_out)
                    }
                },
                Err(error) => {
                    let missed = self.missed(&error);
                    let can_help = missed.can_be_repeated;
                    (E::from(missed), can_help)
                }
            };
            let wait = self.quota_wait(&refusal).unwrap_or_else(|| backoff.next());
            match attempts.refused(refusal, can_help.then_some(wait), left()) {
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(refusal) => return (Err(refusal), attempts),
            }
        }
    }

    fn within(&self, cx: &CallContext, within: Duration) -> CallContext {
        CallContext {
            deadline: Some(within),
            link: cx.link.clone().or_else(|| self.link.clone()),
            ..cx.clone()
        }
    }

    fn reached<T>(&self, answer: T) -> T {
        let before = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        if before.is_some() {
            tracing::info!("the bus is reached again");
        }
        answer
    }

    fn missed(&self, error: &anyhow::Error) -> Missed {
        let missed = Missed::from(error);
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_none() {
            tracing::warn!(code = missed.problem.code, "{}", missed.problem.message);
        }
        *trouble = Some(missed.problem.clone());
        missed
    }
}

/// One attempt, for generated bindings.
impl Invoke for Upstream {
    type Context = CallContext;

    async fn invoke<P>(
        &self,
        cx: CallContext,
        instance: &str,
        func: &str,
        params: Bytes,
        paths: impl AsRef<[P]> + Send,
    ) -> anyhow::Result<(Outgoing, Incoming)>
    where
        P: AsRef<[Option<usize>]> + Send + Sync,
    {
        let (remote, cx) = self.connection.remote_for(cx).await?;
        remote.invoke(cx, instance, func, params, paths).await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use fanout_wit::types::{Problem, RefusalForNow};

    use super::*;

    /// How often a bus is asked within a second that refuses by a quota for so long, and what the caller is answered.
    async fn asked(retry_after_ms: u64) -> (u32, PublishError) {
        let upstream = Upstream::new(
            "tcp://127.0.0.1:1".parse().unwrap(),
            ConnectOptions::default(),
            Duration::from_secs(1),
        );
        let upstream = upstream.waiting_for_quota(true);
        let calls = Cell::new(0);
        let refused = upstream.ask(CallContext::default(), |_| {
            calls.set(calls.get() + 1);
            let problem = Problem {
                code: "quota-exceeded".to_owned(),
                message: String::new(),
            };
            async move {
                Ok(Err::<(), _>(PublishError::QuotaExceeded(RefusalForNow {
                    problem,
                    retry_after_ms,
                })))
            }
        });
        let error = refused.await.unwrap_err();
        (calls.get(), error)
    }

    #[tokio::test(start_paused = true)]
    async fn a_quota_is_waited_out_only_where_an_attempt_has_time_after_it() {
        for (retry_after_ms, calls) in [(1_500, 1), (950, 1), (899, 2), (300, 4)] {
            let (called, error) = asked(retry_after_ms).await;
            assert_eq!(called, calls, "{retry_after_ms} ms");
            assert!(matches!(error, PublishError::QuotaExceeded(_)), "{error:?}");
        }
    }

    fn problem() -> Problem {
        Problem {
            code: "quota-exceeded".to_owned(),
            message: String::new(),
        }
    }

    fn used_up() -> PublishError {
        PublishError::QuotaExceeded(RefusalForNow {
            problem: problem(),
            retry_after_ms: 10,
        })
    }

    fn upstream() -> Upstream {
        let nowhere = "tcp://127.0.0.1:1".parse().unwrap();
        Upstream::new(nowhere, ConnectOptions::default(), Duration::from_secs(10))
    }

    /// What came of a call whose first attempt had no answer.
    async fn after_a_lost_answer(second: Result<(), PublishError>) -> Result<(), PublishError> {
        let calls = Cell::new(0);
        let asked = upstream();
        let asked = asked.ask(CallContext::default(), |_| {
            calls.set(calls.get() + 1);
            let answer = (calls.get() > 1).then(|| second.clone());
            async move { answer.ok_or_else(|| anyhow::anyhow!("the connection broke")) }
        });
        asked.await
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_nothing_of_an_attempt_before_it() {
        for refusal in [
            used_up(),
            PublishError::StoreFull(problem()),
            PublishError::NotPermitted(problem()),
            PublishError::InvalidEvent(problem()),
        ] {
            let answer = after_a_lost_answer(Err(refusal.clone())).await;
            assert!(
                matches!(answer, Err(PublishError::OutcomeUnknown(_))),
                "{refusal:?}: {answer:?}"
            );
        }
        assert!(after_a_lost_answer(Ok(())).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nor_of_one_of_many() {
        let calls = Cell::new(0);
        let asked = upstream();
        let answers = asked.ask_many(CallContext::default(), 2, |_| {
            calls.set(calls.get() + 1);
            let is_lost = calls.get() == 1;
            async move {
                anyhow::ensure!(!is_lost, "the connection broke");
                Ok(vec![Ok(()), Err(used_up())])
            }
        });
        let answers = answers.await;
        assert!(
            matches!(answers[..], [Ok(()), Err(PublishError::OutcomeUnknown(_))]),
            "{answers:?}"
        );
    }
}
