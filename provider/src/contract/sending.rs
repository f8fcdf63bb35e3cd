//! How calls of `publisher` and `inbox` are seen: how long they take, what came of each event, and, where traces are
//! exported, a span of each.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use fanout_transport::Caller;
use fanout_wit::types::{Event, FetchedDeliveries, InboxError, PublishError, Receipt, Scheduled, SettleError};

use super::backend::{Authority, Rights as _};
use super::errors::{inbox_error, publish_error, settle_error};
use crate::telemetry::spans::{self, Operation, Span};
use crate::telemetry::{INSTRUMENTS, instruments};

/// A call that publishes.
pub(super) struct Sending {
    began: Instant,
    span: Option<Span>,
}

impl Sending {
    /// Begins it. Its events bring the span's trace context, of which the caller's is the parent.
    pub(super) fn begin(authority: &impl Authority, caller: &mut Caller, events: &[Event]) -> Self {
        let span = spans::is_on()
            .then(|| publish_span(authority, caller, events))
            .flatten();
        if let Some(span) = &span {
            caller.traceparent = Some(span.traceparent());
        }
        Self {
            began: Instant::now(),
            span,
        }
    }

    /// What came of each event of the call.
    pub(super) fn sent(mut self, results: &[Result<Receipt, PublishError>]) {
        for result in results {
            match result {
                Ok(receipt) => instruments::accepted(receipt.duplicate),
                Err(e) => INSTRUMENTS.refused.count(&publish_error(e).code),
            }
        }
        if let Some(span) = &mut self.span {
            if let Some(e) = results.iter().find_map(|result| result.as_ref().err()) {
                fail(span, e);
            }
            if let [Ok(receipt)] = results {
                let at = &receipt.position;
                span.set(spans::POSITION, format!("{}/{}", at.partition, at.offset));
                span.set("fanout.repeat", receipt.duplicate);
            }
        }
        self.end();
    }

    /// What came of all of them.
    pub(super) fn sent_together(mut self, events: usize, result: &Result<Vec<Receipt>, PublishError>) {
        match result {
            Ok(receipts) => receipts.iter().for_each(|r| instruments::accepted(r.duplicate)),
            Err(e) => {
                (0..events).for_each(|_| INSTRUMENTS.refused.count(&publish_error(e).code));
                self.fails(e);
            }
        }
        self.end();
    }

    /// What came of an event that is to be published later.
    pub(super) fn scheduled(mut self, result: &Result<Scheduled, PublishError>) {
        match result {
            Ok(_) => drop(INSTRUMENTS.scheduled.fetch_add(1, Relaxed)),
            Err(e) => {
                INSTRUMENTS.refused.count(&publish_error(e).code);
                self.fails(e);
            }
        }
        self.end();
    }

    fn fails(&mut self, e: &PublishError) {
        if let Some(span) = &mut self.span {
            fail(span, e);
        }
    }

    fn end(self) {
        INSTRUMENTS.publish.since(self.began);
    }
}

fn fail(span: &mut Span, e: &PublishError) {
    let problem = publish_error(e);
    span.fail(&problem.code, &problem.message);
}

fn publish_span(authority: &impl Authority, caller: &Caller, events: &[Event]) -> Option<Span> {
    let view = authority.view();
    let policy = view.policy();
    let mut span = Span::begin(Operation::Publish, policy, caller.traceparent.as_deref(), [])?;
    match events {
        [event] => {
            span.say("messaging.message.id", &event.id);
            span.say("cloudevents.event_id", &event.id);
            span.say("cloudevents.event_source", &event.source);
            span.say("cloudevents.event_type", &event.event_type);
            span.set("messaging.message.body.size", count(event.data.len()));
            if let (Some(policy), Ok(tenant)) = (policy, event.tenant.parse()) {
                span.tenant(policy, &tenant);
            }
        }
        _ => span.set(spans::COUNT, count(events.len())),
    }
    Some(span)
}

/// A call of `inbox`.
pub(super) struct Receiving(Option<Span>);

impl Receiving {
    pub(super) fn fetch(authority: &impl Authority, caller: &Caller, subscription: &str) -> Self {
        let mut receiving = Self::begin(authority, Operation::Fetch, caller);
        if let Some(span) = &mut receiving.0 {
            span.say("messaging.consumer.group.name", subscription);
        }
        receiving
    }

    pub(super) fn settle(authority: &impl Authority, caller: &Caller, settlements: usize) -> Self {
        let mut receiving = Self::begin(authority, Operation::Settle, caller);
        if let Some(span) = &mut receiving.0 {
            span.set(spans::COUNT, count(settlements));
        }
        receiving
    }

    fn begin(authority: &impl Authority, operation: Operation, caller: &Caller) -> Self {
        let span = || Span::begin(operation, authority.view().policy(), caller.traceparent.as_deref(), []);
        Self(spans::is_on().then(span).flatten())
    }

    /// What was fetched is linked to its publishes.
    pub(super) fn fetched(self, fetched: &Result<FetchedDeliveries, InboxError>) {
        let Some(mut span) = self.0 else { return };
        match fetched {
            Ok(fetched) => {
                span.set(spans::COUNT, count(fetched.deliveries.len()));
                let published = fetched.deliveries.iter();
                span.link(published.filter_map(|delivery| delivery.traceparent.as_deref()));
            }
            Err(e) => {
                let problem = inbox_error(e);
                span.fail(&problem.code, &problem.message);
            }
        }
    }

    pub(super) fn settled<T>(self, outcomes: &[Result<T, SettleError>]) {
        let (Some(mut span), Some(e)) = (self.0, outcomes.iter().find_map(|o| o.as_ref().err())) else {
            return;
        };
        let problem = settle_error(e);
        span.fail(&problem.code, &problem.message);
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
