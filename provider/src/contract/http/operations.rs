//! Every operation, a row each: what a request is, and what it may be answered with. `/openapi.json` is made of it, and tests
//! hold the routes, `docs/http.md` and the contract to it.

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::answer::Results;
use super::cloud_event::CloudEvent;
use super::events::{Cancelled, ReceiptDocument, Receipts, ScheduledDocument};
use super::fetching::{Fetch, Fetched};
use super::life::Lives;
use super::operators::{Alive, Readiness};
use super::settlements::{Settled, Settlements};
use super::status::Links;
use super::subscriptions::{Rewind, SubscriptionDocument, Subscriptions, Wanted};
use super::tail::TailEvent;
use crate::telemetry::Format;

/// A schema, by the generator that gathers them.
type OfType = fn(&mut SchemaGenerator) -> Schema;

/// What may be asked.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The functions of the contract that it calls, `interface.function`.
    pub(super) functions: &'static [&'static str],
    pub(super) summary: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) request: Request,
    pub(super) answer: Answer,
    /// Statuses of problems, besides those of every operation.
    pub(super) problems: &'static [u16],
    /// Whether anybody may ask.
    pub(super) is_open: bool,
}

/// A parameter of the query, or a header.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) is_header: bool,
    pub(super) is_required: bool,
    /// It may come more than once.
    pub(super) is_list: bool,
    pub(super) description: &'static str,
}

/// What a request's body is.
pub(super) enum Request {
    None,
    Json(OfType),
    /// One CloudEvent, in binary or structured mode.
    Event,
    /// The same, or a batch.
    Events,
}

/// What is answered where nothing is wrong.
pub(super) enum Answer {
    Empty,
    Json(OfType),
    Text(&'static str),
    Stream(OfType),
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const fn query(name: &'static str, is_required: bool, description: &'static str) -> Parameter {
    Parameter {
        name,
        is_header: false,
        is_required,
        is_list: false,
        description,
    }
}

const fn list(name: &'static str, description: &'static str) -> Parameter {
    Parameter {
        is_list: true,
        ..query(name, false, description)
    }
}

/// One that is asked for by name, of a body of JSON or none.
const fn operation(method: &'static str, path: &'static str, summary: &'static str, answer: Answer) -> Operation {
    Operation {
        method,
        path,
        functions: &[],
        summary,
        parameters: &[],
        request: Request::None,
        answer,
        problems: &[],
        is_open: false,
    }
}

/// Of what reads events out of a request.
const EVENTS_IN: &[u16] = &[413, 415, 422];
/// Of what names a subscription.
const OF_ONE: &[u16] = &[404, 409, 422];
/// The same with a body.
const OF_ONE_WITH_BODY: &[u16] = &[404, 409, 413, 415, 422];

const AT: Parameter = query("at", true, "When, RFC 3339; at once if that has passed");

/// Publishing in three ways, each with the tenant in the event and in the path.
const fn publish(path: &'static str) -> Operation {
    Operation {
        functions: &["publisher.publish-tenant-event", "publisher.publish-tenant-events"],
        request: Request::Events,
        problems: EVENTS_IN,
        ..operation(
            "POST",
            path,
            "Store an event, or a batch of which each stands for itself",
            Answer::Json(of::<Published>),
        )
    }
}

const fn publish_together(path: &'static str) -> Operation {
    Operation {
        functions: &["publisher.publish-tenant-events-together"],
        request: Request::Events,
        problems: EVENTS_IN,
        ..operation(
            "POST",
            path,
            "Store all events of a batch, or none",
            Answer::Json(of::<Receipts>),
        )
    }
}

const fn publish_at(path: &'static str) -> Operation {
    Operation {
        functions: &["publisher.publish-tenant-event-at"],
        parameters: &[AT],
        request: Request::Event,
        problems: EVENTS_IN,
        ..operation(
            "POST",
            path,
            "Keep an event, and publish it later",
            Answer::Json(of::<ScheduledDocument>),
        )
    }
}

/// A receipt, or one result for each event of a batch.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "it is a schema alone")]
enum Published {
    One(ReceiptDocument),
    Batch(Results<ReceiptDocument>),
}

/// Every operation.
pub(super) const OPERATIONS: &[Operation] = &[
    publish("/v1/events"),
    publish("/v1/tenants/{tenant}/events"),
    publish_together("/v1/events:together"),
    publish_together("/v1/tenants/{tenant}/events:together"),
    publish_at("/v1/events:at"),
    publish_at("/v1/tenants/{tenant}/events:at"),
    Operation {
        functions: &["publisher.cancel-scheduled"],
        parameters: &[
            query("tenant", true, "Whose event it is"),
            query("source", false, "Its source; without it, the caller's own"),
            query("id", true, "Its id"),
        ],
        problems: &[422],
        ..operation(
            "DELETE",
            "/v1/scheduled",
            "Cancel an event that was to be published later",
            Answer::Json(of::<Cancelled>),
        )
    },
    Operation {
        functions: &["subscriber.list-subscriptions"],
        problems: &[422],
        ..operation(
            "GET",
            "/v1/subscriptions",
            "The caller's subscriptions, and how they are doing",
            Answer::Json(of::<Subscriptions>),
        )
    },
    Operation {
        functions: &["subscriber.list-subscriptions"],
        problems: &[404, 422],
        ..operation(
            "GET",
            "/v1/subscriptions/{name}",
            "One of them",
            Answer::Json(of::<SubscriptionDocument>),
        )
    },
    Operation {
        functions: &[
            "subscriber.subscribe-queue",
            "subscriber.subscribe-durable",
            "subscriber.subscribe-backfill",
        ],
        request: Request::Json(of::<Wanted>),
        problems: OF_ONE_WITH_BODY,
        ..operation(
            "PUT",
            "/v1/subscriptions/{name}",
            "Make a subscription; the same twice is one",
            Answer::Json(of::<SubscriptionDocument>),
        )
    },
    Operation {
        functions: &["subscriber.unsubscribe"],
        problems: OF_ONE,
        ..operation("DELETE", "/v1/subscriptions/{name}", "End it", Answer::Empty)
    },
    Operation {
        functions: &["inbox.fetch"],
        request: Request::Json(of::<Fetch>),
        problems: OF_ONE_WITH_BODY,
        ..operation(
            "POST",
            "/v1/subscriptions/{name}:fetch",
            "Lease deliveries, waiting for the first",
            Answer::Json(of::<Fetched>),
        )
    },
    Operation {
        functions: &["subscriber.pause"],
        problems: OF_ONE,
        ..operation(
            "POST",
            "/v1/subscriptions/{name}:pause",
            "Stop deliveries for as long as it takes",
            Answer::Json(of::<SubscriptionDocument>),
        )
    },
    Operation {
        functions: &["subscriber.resume"],
        problems: OF_ONE,
        ..operation(
            "POST",
            "/v1/subscriptions/{name}:resume",
            "Let deliveries go on",
            Answer::Json(of::<SubscriptionDocument>),
        )
    },
    Operation {
        functions: &["subscriber.rewind"],
        request: Request::Json(of::<Rewind>),
        problems: OF_ONE_WITH_BODY,
        ..operation(
            "POST",
            "/v1/subscriptions/{name}:rewind",
            "Put it back to an earlier position of the log",
            Answer::Json(of::<SubscriptionDocument>),
        )
    },
    Operation {
        functions: &["inbox.settle"],
        request: Request::Json(of::<Settlements>),
        problems: &[409, 413, 415, 422],
        ..operation(
            "POST",
            "/v1/settlements",
            "Settle deliveries",
            Answer::Json(of::<Results<Settled>>),
        )
    },
    Operation {
        functions: &["status.links"],
        ..operation(
            "GET",
            "/v1/status",
            "How the caller's own links are doing",
            Answer::Json(of::<Links>),
        )
    },
    Operation {
        parameters: &[
            query("position", false, "Where it stands, such as `0/42`"),
            query("tenant", false, "Or its tenant"),
            query("id", false, "And its id"),
            query("source", false, "And its source, where an id stands for several events"),
        ],
        problems: &[404, 422],
        ..operation(
            "GET",
            "/v1/life",
            "What became of an event at each subscription",
            Answer::Json(of::<Lives>),
        )
    },
    Operation {
        parameters: &[
            list("tenant", "Events of these tenants only"),
            list("type", "Events of these types only, such as `invoice.*`"),
            query(
                "pattern",
                false,
                "Events that match this event pattern, a JSON object, too: what their attributes and their payload have to be",
            ),
            query(
                "from",
                false,
                "Begin here: `first`, an RFC 3339 time, or a position such as `0/42`; without it, with the next event",
            ),
            Parameter {
                name: "last-event-id",
                is_header: true,
                is_required: false,
                is_list: false,
                description: "Go on behind this `id`, whatever `from` says",
            },
        ],
        problems: &[409, 422],
        ..operation(
            "GET",
            "/v1/events",
            "A live tail: the log as server-sent events",
            Answer::Stream(of::<TailEvent>),
        )
    },
    Operation {
        is_open: true,
        ..operation("GET", "/livez", "Whether the process lives", Answer::Json(of::<Alive>))
    },
    Operation {
        is_open: true,
        ..operation(
            "GET",
            "/readyz",
            "Whether a policy is in force and the store answers; 503 says what is missing",
            Answer::Json(of::<Readiness>),
        )
    },
    operation(
        "GET",
        "/metrics",
        "The status as numbers, for Prometheus",
        Answer::Text(Format::Prometheus.content_type()),
    ),
    Operation {
        is_open: true,
        ..operation(
            "GET",
            "/openapi.json",
            "This document",
            Answer::Text("application/json"),
        )
    },
    Operation {
        is_open: true,
        problems: &[404],
        ..operation(
            "GET",
            "/docs/errors/{code}",
            "The page of an error's code, to which a problem's `type` leads",
            Answer::Text("text/markdown; charset=utf-8"),
        )
    },
];

/// A batch, as it is sent.
pub(super) fn batch(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<Vec<CloudEvent>>()
}

/// Whether a request needs no caller.
pub(super) fn is_open(path: &str) -> bool {
    let mut open = OPERATIONS.iter().filter(|operation| operation.is_open);
    open.any(|operation| match operation.path.split_once('{') {
        Some((before, _)) => path.starts_with(before),
        None => operation.path == path,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// `interface.function` of everything that the contract's files say a bus exports.
    fn of_the_contract() -> BTreeSet<String> {
        let wit = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut functions = BTreeSet::new();
        for interface in ["publisher", "subscriber", "inbox", "status"] {
            let text = std::fs::read_to_string(wit.join(format!("{interface}.wit"))).unwrap();
            let names = text.lines().filter_map(|line| line.trim().split_once(": func("));
            functions.extend(names.map(|(name, _)| format!("{interface}.{name}")));
        }
        functions
    }

    #[test]
    fn each_function_of_the_contract_has_its_place() {
        let called = OPERATIONS.iter().flat_map(|operation| operation.functions);
        let called: BTreeSet<_> = called.map(|function| (*function).to_owned()).collect();
        assert_eq!(called, of_the_contract());
        assert!(called.len() > 14, "{called:?}");
    }

    #[test]
    fn the_page_has_each_operation_and_what_it_calls() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
        let page = std::fs::read_to_string(page).unwrap();
        for operation in OPERATIONS {
            let row = format!("| `{} {}` |", operation.method, operation.path);
            let row = page.lines().find(|line| line.starts_with(&row));
            let row =
                row.unwrap_or_else(|| panic!("docs/http.md has no row of {} {}", operation.method, operation.path));
            for function in operation.functions {
                assert!(row.contains(&format!("`{function}`")), "{row}: {function}");
            }
        }
    }

    #[test]
    fn what_anybody_may_ask_is_named() {
        for open in ["/livez", "/readyz", "/openapi.json", "/docs/errors/store-full"] {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "/",
            "/livez/",
            "/metrics",
            "/v1/events",
            "/docs",
            "/v1/tenants/livez/events",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }
}
