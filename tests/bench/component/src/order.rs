//! An order: how to publish, under which id the first event goes, and how many there are.

use crate::fanout::bus::publisher::{self, Event};
use crate::wasmcloud::messaging::consumer;
use crate::wasmcloud::messaging::types::BrokerMessage;

const PAYLOAD: usize = 1 << 10;
/// The most events in one call.
const BATCH: usize = 250;
/// Where messages go that nobody stores.
const PLAIN: &str = "bench.published";
/// Where messages go that a stream stores: it answers with its acknowledgement.
const STORED: &str = "bench.stored";
/// The host's own messaging does not look at it, and waits for ten seconds.
const TIMEOUT_MS: u32 = 10_000;

/// Carries out `WAY RUN FROM COUNT`.
pub(crate) fn carry_out(order: &str) -> Result<(), String> {
    let words: Vec<&str> = order.split(' ').collect();
    let &[way, run, from, count] = words.as_slice() else {
        return Err(format!("not an order: {order}"));
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| format!("not a number: {text}"));
    let (from, count) = (number(from)?, number(count)?);
    let mut ids = (from..from.saturating_add(count)).map(|i| format!("{run}-{i}"));
    match way {
        "event" => ids.try_for_each(|id| one(&event(id))),
        "events" => {
            let events: Vec<Event> = ids.map(event).collect();
            events.chunks(BATCH).try_for_each(many)
        }
        "message" => ids.try_for_each(|_| message()),
        "request" => ids.try_for_each(|_| request()),
        other => Err(format!("no way to publish: {other}")),
    }
}

fn one(event: &Event) -> Result<(), String> {
    publisher::publish_tenant_event(event)
        .map(drop)
        .map_err(|e| format!("{e:?}"))
}

fn many(events: &[Event]) -> Result<(), String> {
    let results = publisher::publish_tenant_events(events);
    if results.len() != events.len() {
        return Err(format!("{} results for {} events", results.len(), events.len()));
    }
    results
        .into_iter()
        .try_for_each(|result| result.map(drop).map_err(|e| format!("{e:?}")))
}

fn message() -> Result<(), String> {
    consumer::publish(&BrokerMessage {
        subject: PLAIN.to_owned(),
        body: vec![b'x'; PAYLOAD],
        reply_to: None,
    })
}

/// What answers is the stream; that it stored the message stands in its answer.
fn request() -> Result<(), String> {
    let answer = consumer::request(STORED, &vec![b'x'; PAYLOAD], TIMEOUT_MS)?;
    let answer = String::from_utf8_lossy(&answer.body);
    if answer.contains("\"error\"") {
        return Err(answer.into_owned());
    }
    Ok(())
}

fn event(id: String) -> Event {
    Event {
        tenant: "acme".to_owned(),
        event_type: "invoice.paid".to_owned(),
        id,
        source: "/bench".to_owned(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        ordering_key: None,
        data: vec![b'x'; PAYLOAD],
    }
}
