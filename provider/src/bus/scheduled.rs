//! Publishes scheduled events once they are due.
//!
//! Every instance takes part; the store gives each event to one at a time. An event that is due is first marked as one
//! that is published, then published, then removed: cut short anywhere, another instance goes on from the mark. Publishing
//! it twice stores it once, because the log recognises its id, and where the log would have forgotten the id it is
//! looked for. While an event waits, the log is asked now and then whether the same one was published at once.

use std::time::Duration;

use fanout_plan::{Attributes, Code, Timestamp};
use futures::TryStreamExt as _;
use tracing::{debug, info, warn};

use super::Bus;
use crate::jetstream::{Acknowledgement, Mark, Message, Scheduled, Store, acknowledge};
use crate::telemetry::spans::{self, Operation, Span};

/// The longest and the shortest that an event is handed back for at once, where more is left.
const LONGEST: Duration = Duration::from_secs(3_600);
const SHORTEST: Duration = Duration::from_secs(5);

/// After how long an event that could not be published is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the server says that it is there while nothing is due: a consumer that is gone says nothing.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How often the store is checked for events that its consumer does not deliver any more.
const LOST_EVERY: Duration = Duration::from_secs(30);

/// Events that are settled at once.
const AT_ONCE: usize = 64;

/// Publishes what is due until it is dropped, the store fails, or the consumer has to be made again.
pub(crate) async fn publish_due(bus: &Bus, store: &Store) -> Result<(), async_nats::Error> {
    let due = store.due().await?;
    let messages = due.stream().max_messages_per_batch(256).heartbeat(HEARTBEAT);
    let messages = messages.messages().await?;
    let publish = messages
        .map_err(async_nats::Error::from)
        .try_for_each_concurrent(AT_ONCE, |message| async {
            settle(bus, store, message).await;
            Ok(())
        });
    let lost_one = async {
        let mut from = 1;
        loop {
            tokio::time::sleep(LOST_EVERY).await;
            match store.end_forgetful(&mut from).await {
                Ok(false) => {}
                Ok(true) => return Ok(()),
                Err(error) => {
                    debug!(%error, "the check for scheduled events that are not delivered failed; it is repeated")
                }
            }
        }
    };
    tokio::select! {
        ended = publish => ended,
        ended = lost_one => ended,
    }
}

/// Publishes one event if it is due, and settles its message.
async fn settle(bus: &Bus, store: &Store, message: Message) {
    let then = match attempt(bus, store, &message).await {
        Ok(then) => then,
        Err(error) => {
            warn!(subject = %message.subject, error = %error, "a scheduled event that is due was not published; publishing is tried again");
            Acknowledgement::Nak(AGAIN)
        }
    };
    acknowledge(&message, then).await;
}

async fn attempt(bus: &Bus, store: &Store, message: &Message) -> Result<Acknowledgement, async_nats::Error> {
    let about = message.info()?;
    let stored = (
        about.stream_sequence,
        Timestamp::saturating(about.published.unix_timestamp_nanos()),
    );
    let headers = message.headers.clone().unwrap_or_default();
    let Some(scheduled) = Scheduled::read(&message.subject, stored, headers, message.payload.clone()) else {
        warn!(subject = %message.subject, "a message among the scheduled events was not written by Fanout, and is skipped");
        return Ok(Acknowledgement::Ack);
    };
    let attributes = scheduled.attributes().ok_or("its attributes are not readable")?;
    let left = scheduled.due.since(store.now());
    if !left.is_zero() {
        // The log was asked when the event was scheduled.
        if about.delivered > 1 {
            // `store` is as old as its policy is in force, and the tenant may have got its place in the log since.
            let now = match bus.store_for(attributes.tenant()).await {
                Ok(now) => now,
                Err(problem) => {
                    debug!(tenant = %attributes.tenant(), id = attributes.id(), %problem, "whether a scheduled event was published at once is asked again");
                    return Ok(Acknowledgement::Nak(left.min(SHORTEST)));
                }
            };
            // The same event may be published at once meanwhile: then this one is that one.
            if now.let_go_if_published(&scheduled, &attributes).await? {
                return Ok(Acknowledgement::Ack);
            }
        }
        return Ok(Acknowledgement::Nak(left.min(checks_every(store))));
    }
    let marked = store.mark(&scheduled, Mark::Fires).await?;
    if marked.mark == Mark::Fires {
        // Who marked it first may have published it.
        let began = (!marked.is_new).then_some(marked.at);
        fire(bus, &scheduled, &attributes, began).await?;
    }
    // Only now that its mark has come true: a crash before this repeats it.
    store.remove_scheduled(&scheduled).await?;
    Ok(Acknowledgement::Ack)
}

/// How often an event that waits is checked: while the log recognises what was published since the last check, and no
/// more often than is worth it.
fn checks_every(store: &Store) -> Duration {
    (store.policy().ids_remembered() / 2).clamp(SHORTEST, LONGEST)
}

/// The publish of an event that is due: a part of the trace of the call that scheduled it, and what its deliveries are linked to.
fn span(store: &Store, scheduled: &Scheduled, attributes: &Attributes) -> Option<Span> {
    let policy = store.policy();
    let mut span = Span::begin(Operation::Publish, Some(policy), scheduled.traceparent(), [])?;
    span.say("messaging.message.id", attributes.id());
    span.say("cloudevents.event_id", attributes.id());
    span.say("cloudevents.event_source", attributes.source());
    span.say("cloudevents.event_type", attributes.event_type().as_str());
    span.set("fanout.scheduled", true);
    span.tenant(policy, attributes.tenant());
    Some(span)
}

/// Publishes an event. `began` is when that may have been begun before.
async fn fire(
    bus: &Bus,
    scheduled: &Scheduled,
    attributes: &Attributes,
    began: Option<Timestamp>,
) -> Result<(), async_nats::Error> {
    let tenant = attributes.tenant();
    let store = bus.store_for(tenant).await?;
    if let Some(began) = began {
        let age = store.now().since(began);
        if age >= store.policy().ids_remembered() / 2 && store.is_stored_since(attributes, began).await? {
            return Ok(());
        }
    }
    let mut span = spans::is_on().then(|| span(&store, scheduled, attributes)).flatten();
    let traceparent = span.as_ref().map(Span::traceparent);
    let traceparent = traceparent.as_deref().or_else(|| scheduled.traceparent());
    let event = scheduled.event(attributes, traceparent);
    let mut counting = bus.gate().count(&store, tenant, event.size).await;
    let sent = store.send(attributes, event).await;
    let stored = match sent {
        Ok(sent) => {
            let again = || Ok(scheduled.event(attributes, traceparent));
            store.stored(attributes, sent, again).await
        }
        Err(error) => Err(error),
    };
    if let Some(span) = &mut span {
        match &stored {
            Ok(stored) => {
                span.set(spans::POSITION, stored.position.to_string());
                span.set("fanout.repeat", stored.duplicate);
            }
            Err(error) => span.fail(Code::StoreUnavailable.as_str(), &error.to_string()),
        }
    }
    drop(span);
    if let Some(counting) = &mut counting {
        counting.is_not_stored = stored.as_ref().map_or(true, |s| s.duplicate);
    }
    let stored = stored?;
    info!(
        %tenant,
        id = attributes.id(),
        position = %stored.position,
        duplicate = stored.duplicate,
        "a scheduled event is published"
    );
    Ok(())
}
