//! A bus, as a program uses it.

use std::iter;
use std::time::Duration;

use fanout_attempts::leaves_an_attempt;
use fanout_transport::CallContext;
use fanout_wit::types as wit;
use fanout_wit::{publisher, subscriber};
use tokio::time::Instant;

use crate::deliveries::Deliveries;
use crate::retry::Backoff;
use crate::upstream::Upstream;
use crate::{Error, ErrorKind, Event, Receipt, Scheduled, Subscription};

/// The most events that the bus takes in one call.
const MOST_EVENTS: usize = 1_000;
/// The most bytes of events in one call: below what a lattice takes in one message.
const MOST_BYTES: usize = 768 << 10;

/// A connection to a bus. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Bus {
    upstream: Upstream,
    /// For a whole request.
    deadline: Duration,
}

impl Bus {
    pub(crate) fn new(upstream: Upstream, deadline: Duration) -> Self {
        Self { upstream, deadline }
    }

    /// Publishes one event. A receipt means that it is stored. When an answer is lost, it is published again with the
    /// same id, which the bus recognises.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it is unavailable, or that the outcome is unknown.
    pub async fn publish(&self, event: &Event) -> Result<Receipt, Error> {
        let receipt = self.upstream.publish(&trace(Some(event)), &event.into()).await;
        Ok(receipt?.into())
    }

    /// Keeps an event at the bus and publishes it once, at a time (nanoseconds since 1970-01-01T00:00:00Z) or soon after
    /// it; at once if that has passed. The same tenant, source and id again is the same event.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish_at(&self, event: &Event, at: i64) -> Result<Scheduled, Error> {
        let (bus, cx, event) = (&self.upstream, trace(Some(event)), &event.into());
        let kept = bus.ask(cx, |cx| publisher::publish_tenant_event_at(bus, cx, event, at));
        let kept = kept.await?;
        Ok(Scheduled {
            due: kept.due,
            duplicate: kept.duplicate,
        })
    }

    /// Cancels an event that was to be published later: `true` when it will not be, `false` when there was nothing to
    /// cancel, because it is published or was never to be.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn cancel_scheduled(&self, tenant: &str, source: &str, id: &str) -> Result<bool, Error> {
        let bus = &self.upstream;
        let cancelled = bus.ask(trace(None), |cx| {
            publisher::cancel_scheduled(bus, cx, tenant, source, id)
        });
        Ok(cancelled.await? == wit::Cancellation::Cancelled)
    }

    /// Publishes many events, in the order given. One result for each, in order: some may be stored and others refused.
    /// What is tried again comes later than the others.
    pub async fn publish_many(&self, events: &[Event]) -> Vec<Result<Receipt, Error>> {
        let deadline = Instant::now() + self.deadline;
        let mut results: Vec<Option<Result<Receipt, Error>>> = events.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..events.len()).collect();
        let mut backoff = Backoff::default();
        while !left.is_empty() {
            let mut again = Vec::new();
            let mut quota_wait = Duration::ZERO;
            for part in parts(events, &left) {
                let answers = self.publish_part(events, &part, deadline).await;
                for (i, answer) in part.into_iter().zip(answers) {
                    let used_up = answer.as_ref().err().and_then(|e| self.upstream.quota_wait(e));
                    quota_wait = quota_wait.max(used_up.unwrap_or_default());
                    let unknown_before = matches!(&results[i], Some(Err(e)) if e.kind == ErrorKind::OutcomeUnknown);
                    let answer = answer.map(Receipt::from).map_err(Error::from);
                    if answer.as_ref().is_err_and(Error::is_transient) || used_up.is_some() {
                        again.push(i);
                    }
                    // A refusal says nothing of an attempt before it.
                    if answer.is_ok() || !unknown_before {
                        results[i] = Some(answer);
                    }
                }
            }
            left = again;
            let wait = backoff.next().max(quota_wait);
            if left.is_empty() || !leaves_an_attempt(wait, deadline.saturating_duration_since(Instant::now())) {
                break;
            }
            tokio::time::sleep(wait).await;
        }
        let untried = || {
            Err(Error::new(
                ErrorKind::Unavailable,
                "peer-unreachable",
                "it was not tried",
            ))
        };
        results.into_iter().map(|r| r.unwrap_or_else(untried)).collect()
    }

    /// Publishes events that belong together, in one call: a receipt for each, in order, or none is stored. What a failure
    /// of the store leaves half done is completed by trying again.
    ///
    /// # Errors
    /// That of one of them, if the link, the bus's limits or the tenants' quotas do not take all, or if they are too many
    /// or too large for one call; or, at the deadline, what kept them from being stored.
    pub async fn publish_together(&self, events: &[Event]) -> Result<Vec<Receipt>, Error> {
        let sent: &Vec<_> = &events.iter().map(wit::Event::from).collect();
        let (bus, cx) = (&self.upstream, trace(events.first()));
        let receipts = bus.ask(cx, |cx| publisher::publish_tenant_events_together(bus, cx, sent));
        Ok(receipts.await?.into_iter().map(Receipt::from).collect())
    }

    async fn publish_part(
        &self,
        events: &[Event],
        part: &[usize],
        deadline: Instant,
    ) -> Vec<Result<wit::Receipt, wit::PublishError>> {
        let sent: Vec<_> = part.iter().map(|i| wit::Event::from(&events[*i])).collect();
        let cx = CallContext {
            deadline: Some(deadline.saturating_duration_since(Instant::now())),
            // Events of one call are in one trace: see `parts`.
            ..trace(part.first().map(|i| &events[*i]))
        };
        let answers = self.upstream.publish_many(&cx, &sent).await.into_iter();
        let short = || {
            Err(wit::PublishError::OutcomeUnknown(wit::Problem {
                code: "outcome-unknown".to_owned(),
                message: "the bus gave fewer results than it got events".to_owned(),
            }))
        };
        answers.chain(iter::repeat_with(short)).take(part.len()).collect()
    }

    /// Makes a subscription, or finds the one of that name that this caller made before, and begins to fetch.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it can't be reached.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, Error> {
        subscription.check()?;
        if !subscription.is_declared {
            self.upstream.subscribe(&trace(None), &subscription).await?;
        }
        Ok(Deliveries::start(self.upstream.clone(), &subscription))
    }

    /// Ends a subscription: its pending events are no longer kept for it.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it can't be reached.
    pub async fn unsubscribe(&self, name: &str) -> Result<(), Error> {
        let bus = &self.upstream;
        Ok(bus
            .ask(trace(None), |cx| subscriber::unsubscribe(bus, cx, name))
            .await?)
    }
}

/// A call in the trace of an event.
fn trace(event: Option<&Event>) -> CallContext {
    CallContext {
        traceparent: event.and_then(|e| e.traceparent.clone()),
        ..CallContext::default()
    }
}

/// Splits events into calls that the bus takes, and where another trace begins: a call is in one.
fn parts(events: &[Event], left: &[usize]) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &i in left {
        let size = events[i].size();
        match parts.last_mut() {
            Some(part)
                if part.len() < MOST_EVENTS
                    && bytes + size <= MOST_BYTES
                    && events[part[0]].traceparent == events[i].traceparent =>
            {
                part.push(i);
                bytes += size;
            }
            _ => {
                parts.push(vec![i]);
                bytes = size;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_split_by_count_and_by_bytes() {
        let small: Vec<_> = (0..2_500).map(|i| Event::new("a", "b", i.to_string())).collect();
        let all: Vec<_> = (0..small.len()).collect();
        let lengths: Vec<_> = parts(&small, &all).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1_000, 1_000, 500]);
        let large: Vec<_> = (0..3)
            .map(|i| Event::new("a", "b", i.to_string()).data(vec![0; 500 << 10]))
            .collect();
        assert_eq!(parts(&large, &[0, 1, 2]), [[0], [1], [2]]);
        assert!(parts(&large, &[]).is_empty());
    }

    #[test]
    fn events_of_one_call_are_in_one_trace() {
        let traced = |trace: &str| Event::new("a", "b", "c").traceparent(trace);
        let events = [
            Event::new("a", "b", "c"),
            traced("t1"),
            traced("t1"),
            traced("t2"),
            Event::new("a", "b", "c"),
        ];
        assert_eq!(
            parts(&events, &[0, 1, 2, 3, 4]),
            [vec![0], vec![1, 2], vec![3], vec![4]]
        );
    }
}
