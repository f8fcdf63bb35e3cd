//! A bus, as a program uses it.

use std::sync::Arc;
use std::time::Duration;

use fanout_transport::CallContext;
use fanout_wit::types as wit;
use fanout_wit::{PUBLISHER, publisher, subscriber};
use tokio::time::Instant;

use crate::connect::Wire;
use crate::deliveries::Deliveries;
use crate::retry::{self, Backoff};
use crate::subscription::Request;
use crate::{Error, ErrorKind, Event, Options, Receipt, Scheduled, Subscription};

/// The most events that the bus takes in one call.
const MOST_EVENTS: usize = 1_000;
/// The most bytes of events in one call: below what a lattice takes in one message.
const MOST_BYTES: usize = 768 << 10;

/// A connection to a bus. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Bus {
    wire: Wire,
    options: Arc<Options>,
}

impl Bus {
    pub(crate) fn new(wire: Wire, options: Options) -> Self {
        Self {
            wire,
            options: Arc::new(options),
        }
    }

    /// Publishes one event. A receipt means that it is stored. When an answer is lost, it is published again with the
    /// same id, which the bus recognises.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it is unavailable, or that the outcome is unknown.
    pub async fn publish(&self, event: &Event) -> Result<Receipt, Error> {
        let (wire, trace) = (&self.wire, event.traceparent.as_deref());
        let event = &wit::Event::from(event);
        retry::until(self.deadline(), |left| async move {
            let cx = self.call_in(left, trace);
            let answer = wire.call_values(cx, PUBLISHER, "publish-tenant-event", (event,)).await;
            let answer: Result<wit::Receipt, wit::PublishError> = answer.map_err(|e| Error::transport(e.into()))?;
            Ok(answer?.into())
        })
        .await
    }

    /// Keeps an event at the bus and publishes it once, at a time (nanoseconds since 1970-01-01T00:00:00Z) or soon after
    /// it; at once if that has passed. The same tenant, source and id again is the same event.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn publish_at(&self, event: &Event, at: i64) -> Result<Scheduled, Error> {
        let (wire, trace) = (&self.wire, event.traceparent.as_deref());
        let event = &wit::Event::from(event);
        retry::until(self.deadline(), |left| async move {
            let answer = publisher::publish_tenant_event_at(wire, self.call_in(left, trace), event, at).await;
            let kept = answer.map_err(Error::transport)??;
            Ok(Scheduled {
                due: kept.due,
                duplicate: kept.duplicate,
            })
        })
        .await
    }

    /// Cancels an event that was to be published later: `true` when it will not be, `false` when there was nothing to
    /// cancel, because it is published or was never to be.
    ///
    /// # Errors
    /// As [`Bus::publish`].
    pub async fn cancel_scheduled(&self, tenant: &str, source: &str, id: &str) -> Result<bool, Error> {
        let wire = &self.wire;
        retry::until(self.deadline(), |left| async move {
            let answer = publisher::cancel_scheduled(wire, self.call(left), tenant, source, id).await;
            Ok(answer.map_err(Error::transport)?? == wit::Cancellation::Cancelled)
        })
        .await
    }

    /// Publishes many events, in the order given. One result for each, in order: some may be stored and others refused.
    /// What is tried again comes later than the others.
    pub async fn publish_many(&self, events: &[Event]) -> Vec<Result<Receipt, Error>> {
        let deadline = self.deadline();
        let mut results: Vec<Option<Result<Receipt, Error>>> = events.iter().map(|_| None).collect();
        let mut left: Vec<usize> = (0..events.len()).collect();
        let mut backoff = Backoff::default();
        while !left.is_empty() {
            let mut again = Vec::new();
            for part in parts(events, &left) {
                let answers = self.publish_part(events, &part, deadline).await;
                for (i, answer) in part.into_iter().zip(answers) {
                    let unknown_before = matches!(&results[i], Some(Err(e)) if e.kind == ErrorKind::OutcomeUnknown);
                    match answer {
                        Err(e) if e.is_transient() => {
                            again.push(i);
                            if !unknown_before {
                                results[i] = Some(Err(e));
                            }
                        }
                        settled => results[i] = Some(settled),
                    }
                }
            }
            left = again;
            let wait = backoff.next();
            if left.is_empty() || Instant::now() + wait >= deadline {
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
        let sent: Vec<_> = events.iter().map(wit::Event::from).collect();
        let (wire, sent) = (&self.wire, &sent);
        let trace = events.first().and_then(|e| e.traceparent.as_deref());
        retry::until(self.deadline(), |left| async move {
            let answer = publisher::publish_tenant_events_together(wire, self.call_in(left, trace), sent).await;
            let receipts = answer.map_err(Error::transport)??;
            Ok(receipts.into_iter().map(Receipt::from).collect())
        })
        .await
    }

    async fn publish_part(&self, events: &[Event], part: &[usize], deadline: Instant) -> Vec<Result<Receipt, Error>> {
        let sent: Vec<_> = part.iter().map(|i| wit::Event::from(&events[*i])).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        // Events of one call are in one trace: see `parts`.
        let trace = part.first().and_then(|i| events[*i].traceparent.as_deref());
        let cx = self.call_in(left, trace);
        let answers = self
            .wire
            .call_values(cx, PUBLISHER, "publish-tenant-events", (sent,))
            .await;
        match answers.map_err(|e| Error::transport(e.into())) {
            Ok(answers) => {
                let answers: Vec<Result<wit::Receipt, wit::PublishError>> = answers;
                let mut answers = answers.into_iter();
                let short = || {
                    let message = "the bus gave fewer results than it got events";
                    Error::new(ErrorKind::OutcomeUnknown, "outcome-unknown", message)
                };
                let one = |_| match answers.next() {
                    Some(Ok(receipt)) => Ok(receipt.into()),
                    Some(Err(e)) => Err(e.into()),
                    None => Err(short()),
                };
                part.iter().map(one).collect()
            }
            Err(e) => part
                .iter()
                .map(|_| Err(Error::new(e.kind, e.code.clone(), e.message.clone())))
                .collect(),
        }
    }

    /// Makes a subscription, or finds the one of that name that this caller made before, and begins to fetch.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it can't be reached.
    pub async fn subscribe(&self, subscription: Subscription) -> Result<Deliveries, Error> {
        if subscription.request().is_some() {
            let (wire, asked) = (&self.wire, &subscription);
            retry::until(self.deadline(), |left| async move {
                let cx = self.call(left);
                let answer = match asked.request() {
                    None => return Ok(()),
                    Some(Request::Queue(filter)) => {
                        subscriber::subscribe_queue(wire, cx, &asked.name, &filter, wit::Reach::Inbox).await
                    }
                    Some(Request::Durable(options)) => {
                        subscriber::subscribe_durable(wire, cx, &asked.name, &options).await
                    }
                    Some(Request::Backfill(start, end, options)) => {
                        subscriber::subscribe_backfill(wire, cx, &asked.name, &start, end, &options).await
                    }
                };
                answer.map_err(Error::transport)??;
                Ok(())
            })
            .await?;
        }
        Ok(Deliveries::start(
            self.wire.clone(),
            Arc::clone(&self.options),
            &subscription,
        ))
    }

    /// Ends a subscription: its pending events are no longer kept for it.
    ///
    /// # Errors
    /// The bus's refusal; or, at the deadline, that it can't be reached.
    pub async fn unsubscribe(&self, name: &str) -> Result<(), Error> {
        let wire = &self.wire;
        retry::until(self.deadline(), |left| async move {
            let answer = subscriber::unsubscribe(wire, self.call(left), name).await;
            Ok(answer.map_err(Error::transport)??)
        })
        .await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.options.deadline
    }

    fn call(&self, left: Duration) -> CallContext {
        self.call_in(left, None)
    }

    fn call_in(&self, left: Duration, traceparent: Option<&str>) -> CallContext {
        let within = self.options.try_deadline.min(left).max(Duration::from_millis(1));
        self.options.call_in(within, traceparent)
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
