//! Calls a subscriber's exports, within a deadline.

use std::time::Duration;

use fanout_plan::retry::Rejection;
use fanout_plan::subscription::Reach;
use fanout_plan::{Position, SubscriptionName};
use fanout_transport::{CallContext, Client, Error, Lattice, Outcome};
use fanout_wit::types as wit;
use fanout_wit::{BATCH_HANDLER, HANDLER, backfill_handler};

use super::{convert, shapes};
use crate::delivery::Delivery;

/// A component that is given events.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    client: Client,
    component: String,
    deadline: Duration,
}

/// Why a subscriber did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallFailure {
    /// It never saw the delivery: this counts as no attempt.
    #[error("it can't be reached")]
    Unreachable,
    /// It had the delivery, and did not answer in time.
    #[error("component {component} did not answer within {deadline_ms} ms")]
    Deadline { component: String, deadline_ms: u128 },
    /// It had the delivery, and trapped or broke off.
    #[error("component {component} failed without an answer: {reason}")]
    Failed { component: String, reason: String },
}

impl CallFailure {
    /// As if the handler had refused: a trap or a missed deadline is an attempt.
    pub(crate) fn as_rejection(&self) -> Rejection {
        Rejection::Retry(self.to_string())
    }
}

/// What a backfill's subscriber is told once.
#[derive(Clone, Debug)]
pub(crate) struct CaughtUp {
    pub(crate) subscription: SubscriptionName,
    pub(crate) reached: Option<Position>,
    pub(crate) replayed: u64,
    pub(crate) at: i64,
    pub(crate) finished: bool,
}

impl Subscriber {
    pub(crate) fn new(
        lattice: &Lattice,
        lattice_name: &str,
        component: &str,
        provider: &str,
        deadline: Duration,
    ) -> Self {
        Self {
            client: Client::new(lattice, &format!("{lattice_name}.{component}"), provider),
            component: component.to_owned(),
            deadline,
        }
    }

    /// Its id.
    pub(crate) fn component(&self) -> &str {
        &self.component
    }

    /// Hands over deliveries. One answer for each, in order; `handler` takes one delivery at a time.
    pub(crate) async fn handle(
        &self,
        reach: Reach,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Result<(), Rejection>>, CallFailure> {
        let count = deliveries.len();
        let traceparent = deliveries.first().and_then(|d| d.traceparent.clone());
        let deliveries: Vec<_> = deliveries.into_iter().map(convert::delivery).collect();
        let answers = self.hand_over(reach, &deliveries, traceparent).await?;
        let mut answers: Vec<_> = answers
            .into_iter()
            .take(count)
            .map(|answer| answer.map_err(convert::rejection))
            .collect();
        while answers.len() < count {
            answers.push(Err(Rejection::Retry(format!(
                "component {} gave {} results for {count} deliveries",
                self.component,
                answers.len()
            ))));
        }
        Ok(answers)
    }

    /// The same in the contract's own words, with as many answers as it gives.
    pub(crate) async fn hand_over(
        &self,
        reach: Reach,
        deliveries: &[wit::Delivery],
        traceparent: Option<String>,
    ) -> Result<Vec<Result<(), wit::Rejection>>, CallFailure> {
        let context = self.context(traceparent);
        let answers = match reach {
            Reach::BatchHandler => {
                self.client
                    .call_values_of(
                        context,
                        (BATCH_HANDLER, "handle-events"),
                        (deliveries,),
                        &shapes::ANSWERS,
                    )
                    .await
            }
            // It has no export to call; its deliveries are not pushed.
            Reach::Inbox => return Err(CallFailure::Unreachable),
            Reach::Handler => match deliveries.last() {
                Some(delivery) => {
                    let function = (HANDLER, "handle-event");
                    let answer = self
                        .client
                        .call_values_of(context, function, (delivery,), &shapes::ANSWER);
                    answer.await.map(|answer| vec![answer])
                }
                None => Ok(Vec::new()),
            },
        };
        answers.map_err(|e| self.failure(&e.into()))
    }

    /// Tells it that a backfill has caught up.
    pub(crate) async fn tell_caught_up(&self, caught_up: CaughtUp) -> Result<(), CallFailure> {
        let progress = wit::BackfillProgress {
            subscription: caught_up.subscription.plain().to_owned(),
            reached: caught_up.reached.map(convert::position),
            replayed: caught_up.replayed,
            at: caught_up.at,
            finished: caught_up.finished,
        };
        match backfill_handler::handle_caught_up(&self.client, self.context(None), &progress).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(rejection)) => Err(CallFailure::Failed {
                component: self.component.clone(),
                reason: convert::rejection(rejection).reason().to_owned(),
            }),
            Err(e) => Err(self.failure(&e)),
        }
    }

    fn context(&self, traceparent: Option<String>) -> CallContext {
        CallContext {
            deadline: Some(self.deadline),
            traceparent,
            ..CallContext::default()
        }
    }

    fn failure(&self, error: &anyhow::Error) -> CallFailure {
        let component = self.component.clone();
        match Error::find(error) {
            Some(e) if e.outcome() == Outcome::NotStarted => CallFailure::Unreachable,
            Some(Error::Deadline { .. }) => CallFailure::Deadline {
                component,
                deadline_ms: self.deadline.as_millis(),
            },
            _ => CallFailure::Failed {
                component,
                reason: format!("{error:#}"),
            },
        }
    }
}
