//! What the parameters of the contract's functions look like on the wire, and how many of anything there may be: bounds
//! on what is decoded. What a caller is told of a rule within them is said where the rule is.

use fanout_transport::Shape::{self, Bytes, Cases, Fields, List, Number, Option};

use super::{inbox, publisher, status, subscriber};
use crate::target::REJECTION;

/// The most events, and the most settlements, in one call.
pub(super) const MAX_ITEMS: usize = fanout_plan::http_binding::MAX_EVENTS;
/// Extensions of one event that are decoded, so that an event with a few too many is refused by itself.
const MAX_EXTENSIONS: u32 = 64;
/// Tenants, and patterns of event types, in one filter. What a subscription may have is less.
pub(super) const MAX_IN_FILTER: u32 = 10_000;

const EVENTS: u32 = MAX_ITEMS as u32;

pub(super) const EVENT: Shape = Fields(&[
    // Tenant, type, id, source.
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    // Subject, time, data content type, data schema.
    Option(&Bytes),
    Option(&Number),
    Option(&Bytes),
    Option(&Bytes),
    List {
        of: "extensions",
        most: MAX_EXTENSIONS,
        item: &Fields(&[Bytes, Bytes]),
    },
    // Ordering key, data.
    Option(&Bytes),
    Bytes,
]);

pub(super) const SOME_EVENTS: Shape = Fields(&[List {
    of: "events",
    most: EVENTS,
    item: &EVENT,
}]);

pub(super) const FILTER: Shape = Fields(&[
    List {
        of: "tenants",
        most: MAX_IN_FILTER,
        item: &Bytes,
    },
    List {
        of: "event types",
        most: MAX_IN_FILTER,
        item: &Bytes,
    },
    // Pattern.
    Option(&Bytes),
]);

/// Filter, reach, batch size, concurrency, scope.
pub(super) const OPTIONS: Shape = Fields(&[FILTER, Number, Option(&Number), Option(&Number), Number]);
const POSITION: Shape = Fields(&[Number, Number]);
pub(super) const START: Shape = Cases(&[None, Some(&Number), Some(&POSITION)]);
pub(super) const END: Shape = Cases(&[Some(&Number), Some(&POSITION)]);
const VERDICT: Shape = Cases(&[None, Some(&REJECTION), None, None]);

pub(super) const SETTLEMENTS: Shape = Fields(&[List {
    of: "settlements",
    most: EVENTS,
    item: &Fields(&[Bytes, VERDICT]),
}]);

/// A name alone.
pub(super) const NAME: Shape = Fields(&[Bytes]);

/// The parameters of a function of the contract, by its interface and its name.
pub(super) fn of(interface: &str, func: &str) -> std::option::Option<&'static Shape> {
    match interface {
        "publisher" => publisher::shape(func),
        "subscriber" => subscriber::shape(func),
        "inbox" => inbox::shape(func),
        "status" => status::shape(func),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use fanout_transport::{encode, testing::decoders::is_shape};
    use fanout_wit::types as wit;

    use super::*;
    use crate::target::{ANSWER, ANSWERS};
    use fanout_wit::types::{DeliveryOptions, End, Filter, Reach, Scope, Settlement, Start, Verdict};

    fn text() -> String {
        "a text".repeat(40)
    }

    fn event(full: bool) -> wit::Event {
        let some = || full.then(text);
        wit::Event {
            tenant: text(),
            event_type: text(),
            id: text(),
            source: text(),
            subject: some(),
            time: full.then_some(i64::MIN),
            data_content_type: some(),
            data_schema: some(),
            extensions: (0..if full { 3 } else { 0 })
                .map(|_| wit::Attribute {
                    name: text(),
                    value: text(),
                })
                .collect(),
            ordering_key: some(),
            data: vec![0xff; 300].into(),
        }
    }

    fn filter(pattern: bool) -> Filter {
        Filter {
            tenants: vec![text(); 2],
            event_types: vec![text(); 3],
            pattern: pattern.then(text),
        }
    }

    fn options(size: Option_<u32>) -> DeliveryOptions {
        DeliveryOptions {
            filter: filter(size.is_some()),
            reach: Reach::Inbox,
            batch_size: size,
            concurrency: size,
            scope: Scope::Here,
        }
    }

    use std::option::Option as Option_;

    fn check(interface: &str, func: &str, encoded: Result<bytes::Bytes, fanout_transport::Error>) {
        let shape = of(interface, func).expect("a function of the contract");
        let bytes = encoded.expect("encodable");
        is_shape(shape, &bytes).unwrap_or_else(|e| panic!("{interface}.{func}: {e}"));
    }

    #[test]
    fn the_shapes_are_those_of_the_contract() {
        let position = || wit::Position {
            partition: u32::MAX,
            offset: u64::MAX,
        };
        for full in [false, true] {
            check("publisher", "publish-tenant-event", encode((event(full),)));
            check("publisher", "publish-tenant-event-at", encode((event(full), i64::MAX)));
        }
        let events = || (vec![event(true), event(false), event(true)],);
        check("publisher", "publish-tenant-events", encode(events()));
        check("publisher", "publish-tenant-events-together", encode(events()));
        check("publisher", "cancel-scheduled", encode((text(), text(), text())));
        for reach in [Reach::Handler, Reach::BatchHandler, Reach::Inbox] {
            for pattern in [false, true] {
                check(
                    "subscriber",
                    "subscribe-queue",
                    encode((text(), filter(pattern), reach)),
                );
            }
        }
        for size in [None, Some(u32::MAX)] {
            check("subscriber", "subscribe-durable", encode((text(), options(size))));
        }
        for start in [Start::First, Start::Time(i64::MIN), Start::Position(position())] {
            for end in [None, Some(End::Time(-1)), Some(End::Position(position()))] {
                let parameters = (text(), start, end, options(Some(1)));
                check("subscriber", "subscribe-backfill", encode(parameters));
            }
            check("subscriber", "rewind", encode((text(), start)));
        }
        for func in ["unsubscribe", "pause", "resume"] {
            check("subscriber", func, encode((text(),)));
        }
        check("subscriber", "list-subscriptions", encode(()));
        check("status", "links", encode(()));
        for bytes in [None, Some(u64::MAX)] {
            check("inbox", "fetch", encode((text(), u32::MAX, bytes, 0_u32)));
        }
        let delay = wit::RetryDelay {
            delay_ms: u64::MAX,
            reason: text(),
        };
        let verdicts = [
            Verdict::Handled,
            Verdict::Rejected(wit::Rejection::Retry(text())),
            Verdict::Rejected(wit::Rejection::RetryNow(text())),
            Verdict::Rejected(wit::Rejection::RetryAfter(delay)),
            Verdict::Rejected(wit::Rejection::DeadLetter(text())),
            Verdict::StillWorking,
            Verdict::Released,
        ];
        let settlements: Vec<_> = verdicts
            .into_iter()
            .map(|verdict| Settlement {
                token: vec![0x80; 200].into(),
                verdict,
            })
            .collect();
        check("inbox", "settle", encode((settlements,)));

        let answers: [Result<(), wit::Rejection>; 2] = [Ok(()), Err(wit::Rejection::Retry(text()))];
        for answer in &answers {
            is_shape(&ANSWER, &encode(answer.clone()).expect("encodable")).expect("an answer");
        }
        is_shape(&ANSWERS, &encode(answers.to_vec()).expect("encodable")).expect("answers");
    }
}
