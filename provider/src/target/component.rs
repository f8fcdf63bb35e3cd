//! A component's exports, called by wRPC within a deadline.

use std::time::Duration;

use fanout_plan::retry::Rejection;
use fanout_plan::subscription::Reach;
use fanout_transport::Shape::{self, Bytes, Cases, Fields, List, Number};
use fanout_transport::{CallContext, Client, Error, Lattice, Outcome};
use fanout_wit::types as wit;
use fanout_wit::{BATCH_HANDLER, HANDLER, backfill_handler};
use futures::future::BoxFuture;

use super::convert;
use crate::delivery::{CallFailure, CaughtUp, Delivery, Target};

/// The shape of a rejection on the wire.
pub(crate) const REJECTION: Shape = Cases(&[
    Some(&Bytes),
    Some(&Bytes),
    Some(&Fields(&[Number, Bytes])),
    Some(&Bytes),
]);

/// What a handler answers of a delivery, and of many, of which it is given at most so many.
pub(crate) static ANSWER: Shape = Cases(&[None, Some(&REJECTION)]);
pub(crate) static ANSWERS: Shape = List {
    of: "answers",
    most: fanout_plan::policy::MAX_IN_FLIGHT as u32,
    item: &Cases(&[None, Some(&REJECTION)]),
};

/// A component whose exports take deliveries.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    client: Client,
    component: String,
    deadline: Duration,
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

    /// Hands over deliveries in the contract's own words, and returns as many answers as it gives.
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
                    .call_values_of(context, (BATCH_HANDLER, "handle-events"), (deliveries,), &ANSWERS)
                    .await
            }
            // It has no export to call; its deliveries are not pushed.
            Reach::Inbox => return Err(CallFailure::Unreachable),
            Reach::Handler => match deliveries.last() {
                Some(delivery) => {
                    let function = (HANDLER, "handle-event");
                    let answer = self.client.call_values_of(context, function, (delivery,), &ANSWER);
                    answer.await.map(|answer| vec![answer])
                }
                None => Ok(Vec::new()),
            },
        };
        answers.map_err(|e| self.failure(&e.into()))
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

impl Target for Subscriber {
    fn handle(
        &self,
        reach: Reach,
        deliveries: Vec<Delivery>,
    ) -> BoxFuture<'_, Result<Vec<Result<(), Rejection>>, CallFailure>> {
        Box::pin(async move {
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
        })
    }

    fn tell_caught_up(&self, caught_up: CaughtUp) -> BoxFuture<'_, Result<(), CallFailure>> {
        Box::pin(async move {
            let progress = wit::BackfillProgress {
                subscription: caught_up.subscription.plain().to_owned(),
                reached: caught_up.reached.map(convert::position),
                replayed: caught_up.replayed,
                at: caught_up.at.nanoseconds(),
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
        })
    }
}
