//! `subscriber` over HTTP. What is made here is fetched: a caller over HTTP can't be called.

use axum::Json;
use axum::extract::{FromRequest as _, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fanout_plan::link;
use fanout_transport::Caller;
use fanout_wit::SUBSCRIBER;
use fanout_wit::types::{
    self as wit, DeliveryOptions, End, Need, Reach, Start, SubscribeError, Subscription, SubscriptionOrigin,
    SubscriptionState,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::call::{Call, JsonBody};
use super::events::position;
use super::fetching;
use super::problem::Refused;
use crate::bus::Bus;
use crate::contract::convert;
use crate::contract::exports::known;
use crate::view::View;

/// What a subscription is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NeedWord {
    /// Fast, at most once.
    Queue,
    /// Everything published from now on, at least once.
    Durable,
    /// The retained log from `start` on, then live, or until `end`.
    Backfill,
}

/// Which events a subscription is given.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    /// The tenants, by their names; empty for every tenant that the caller may read.
    #[serde(default, deserialize_with = "super::lists::of_filter")]
    tenants: Vec<String>,
    /// Patterns of event types, such as `invoice.*`; empty for every type that the caller may read.
    #[serde(default, deserialize_with = "super::lists::of_filter")]
    event_types: Vec<String>,
    /// An event pattern, as a JSON object: what an event's attributes and its payload have to match besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<serde_json::Map<String, serde_json::Value>>")]
    pattern: Option<Box<RawValue>>,
}

/// The subscription that is wanted.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// What it is for.
    need: NeedWord,
    /// The events wanted.
    #[serde(default, deserialize_with = "super::objects::object")]
    filter: Filter,
    /// Of a backfill, where it begins: `first` (which is also meant without it), an RFC 3339 time, or a position such as `0/42`.
    #[serde(default)]
    start: Option<String>,
    /// Of a backfill, where it ends: an RFC 3339 time, or a position; without it, it goes on live.
    #[serde(default)]
    end: Option<String>,
    /// With `concurrency`, how many deliveries may be in flight at once: twice the product. Not of a queue subscription.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    batch_size: Option<u32>,
    /// See `batch_size`.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    concurrency: Option<u32>,
    /// On a bus that has places, whose events; without it, `everywhere`. Not of a queue subscription.
    #[serde(default)]
    scope: Option<ScopeWord>,
}

/// Whose events.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(rename = "Scope")]
#[serde(rename_all = "lowercase")]
enum ScopeWord {
    /// Those of all places.
    Everywhere,
    /// Those published at the place where it is made.
    Here,
}

/// Where to put a subscription back to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rewind {
    /// `first`, an RFC 3339 time, or a position such as `0/42`.
    to: String,
}

/// A subscription and how it is doing.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Subscription")]
pub(super) struct SubscriptionDocument {
    /// Its name.
    name: String,
    /// What it is for.
    need: NeedWord,
    /// Of a backfill, where it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<String>,
    /// The events it is given.
    filter: Filter,
    /// `link` where the operator declared it, `call` where its subscriber made it.
    made_by: &'static str,
    /// How it is doing.
    state: StateWord,
    /// For what it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<CodeAndMessage>,
    /// Events stored and not yet delivered.
    pending: u64,
    /// Events delivered and not yet settled.
    in_flight: u64,
    /// Of those, how many were delivered more than once.
    redelivered: u64,
    /// Refused events that wait for their next attempt, or are at it.
    waiting_for_retry: u64,
    /// When the oldest event that it has not handled expires, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// What it has lost, for each partition in which it lost something.
    lost: Vec<Lost>,
    /// The most deliveries in one invocation, for whoever fetches and hands them over.
    batch_size: u32,
    /// Which of the subscriptions that have had this name.
    incarnation: String,
    /// What the instance that answers has done for it since it began to; absent where it does nothing for it, and in the answer
    /// to a change.
    #[serde(skip_serializing_if = "Option::is_none")]
    this_instance: Option<Counts>,
}

/// What one instance has done for a subscription.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SubscriptionCounts")]
struct Counts {
    /// Events that were handled.
    handled: u64,
    /// Deliveries that were refused.
    refused: u64,
    /// Events that it read and that the event pattern left out.
    left_out: u64,
    /// Events that it dead-lettered.
    dead_lettered: u64,
    /// Events of a queue subscription that were not handled: it tries once, and what is fetched too late is not live.
    missed: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum StateWord {
    Active,
    CatchingUp,
    Finished,
    Paused,
    Waiting,
}

/// What is wrong, for a program and for a person.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct CodeAndMessage {
    /// Stable; each has a page in the documentation.
    code: String,
    /// What happened, and what to do.
    message: String,
}

impl From<wit::Problem> for CodeAndMessage {
    fn from(problem: wit::Problem) -> Self {
        Self {
            code: problem.code,
            message: problem.message,
        }
    }
}

/// Events of one partition that expired before they were handled.
#[derive(Debug, Serialize, JsonSchema)]
struct Lost {
    /// The first position that was lost.
    first: String,
    /// The last.
    last: String,
    /// How many of the subscription's events were seen to go.
    count: u64,
    /// Whether that is all of them.
    exact: bool,
    /// When that was found last, RFC 3339.
    at: String,
}

/// The caller's subscriptions.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Subscriptions {
    /// By name.
    subscriptions: Vec<SubscriptionDocument>,
}

impl From<Subscription> for SubscriptionDocument {
    fn from(s: Subscription) -> Self {
        let (need, start) = match s.need {
            Need::Queue => (NeedWord::Queue, None),
            Need::Durable => (NeedWord::Durable, None),
            Need::Backfill(start) => (NeedWord::Backfill, Some(convert::start(&start).to_string())),
        };
        let (state, problem) = match s.state {
            SubscriptionState::Active => (StateWord::Active, None),
            SubscriptionState::CatchingUp => (StateWord::CatchingUp, None),
            SubscriptionState::Finished => (StateWord::Finished, None),
            SubscriptionState::Paused => (StateWord::Paused, None),
            SubscriptionState::Waiting(problem) => (StateWord::Waiting, Some(problem.into())),
        };
        Self {
            name: s.name,
            need,
            start,
            filter: Filter {
                tenants: s.filter.tenants,
                event_types: s.filter.event_types,
                // A bus that answers with what is no JSON does not exist.
                pattern: s.filter.pattern.and_then(|text| RawValue::from_string(text).ok()),
            },
            made_by: match s.made_by {
                SubscriptionOrigin::Link => "link",
                SubscriptionOrigin::Call => "call",
            },
            state,
            problem,
            pending: s.pending,
            in_flight: s.in_flight,
            redelivered: s.redelivered,
            waiting_for_retry: s.waiting_for_retry,
            expires_at: s.expires_at.map(convert::rfc3339),
            lost: s
                .lost
                .into_iter()
                .map(|lost| Lost {
                    first: position(&lost.first),
                    last: position(&lost.last),
                    count: lost.count,
                    exact: lost.exact,
                    at: convert::rfc3339(lost.at),
                })
                .collect(),
            batch_size: s.batch_size,
            incarnation: s.incarnation,
            this_instance: None,
        }
    }
}

impl SubscriptionDocument {
    /// With what this instance has done for it, which the contract does not tell.
    fn here(mut self, view: &View, caller: &Caller) -> Self {
        let counts = view.subscription_of(&known(view, caller.clone()).component, &self.name);
        let counts = counts.and_then(|registered| view.health.get(&registered.subscription.name));
        self.this_instance = counts.map(|health| {
            let counts = health.counts();
            Counts {
                handled: counts.handled,
                refused: counts.refused,
                left_out: counts.left_out.unwrap_or_default(),
                dead_lettered: counts.dead_lettered.unwrap_or_default(),
                missed: counts.missed.unwrap_or_default(),
            }
        });
        self
    }
}

/// `GET /v1/subscriptions`
pub(super) async fn list(State(bus): State<Bus>, call: Call) -> Result<Json<Subscriptions>, Refused> {
    call.parameters(&[])?;
    let all = all(&call).await?;
    let view = bus.view();
    let here = |subscription| SubscriptionDocument::from(subscription).here(&view, call.caller());
    let subscriptions = all.into_iter().map(here).collect();
    Ok(Json(Subscriptions { subscriptions }))
}

/// `GET /v1/subscriptions/{name}`
pub(super) async fn one(State(bus): State<Bus>, call: Call) -> Result<Json<SubscriptionDocument>, Refused> {
    call.parameters(&[])?;
    let name = name(&call);
    let found = all(&call).await?.into_iter().find(|s| s.name == name);
    let found = found.ok_or_else(|| {
        SubscribeError::UnknownSubscription(wit::Problem {
            code: fanout_plan::Code::UnknownSubscription.to_string(),
            message: format!(
                "the caller has no subscription {name:?}: `GET /v1/subscriptions` lists those that it has"
            ),
        })
    })?;
    Ok(Json(SubscriptionDocument::from(found).here(&bus.view(), call.caller())))
}

async fn all(call: &Call) -> Result<Vec<Subscription>, Refused> {
    let listed: Result<Vec<Subscription>, SubscribeError> = call.invoke(SUBSCRIBER, "list-subscriptions", ()).await?;
    Ok(listed?)
}

/// `PUT /v1/subscriptions/{name}`: the same twice is one.
pub(super) async fn make(
    call: Call,
    JsonBody(wanted): JsonBody<Wanted>,
) -> Result<Json<SubscriptionDocument>, Refused> {
    call.parameters(&[])?;
    let name = name(&call);
    let is_backfill = wanted.need == NeedWord::Backfill;
    for (member, is_there, is_taken) in [
        ("start", wanted.start.is_some(), is_backfill),
        ("end", wanted.end.is_some(), is_backfill),
        (
            "batch_size",
            wanted.batch_size.is_some(),
            wanted.need != NeedWord::Queue,
        ),
        (
            "concurrency",
            wanted.concurrency.is_some(),
            wanted.need != NeedWord::Queue,
        ),
        ("scope", wanted.scope.is_some(), wanted.need != NeedWord::Queue),
    ] {
        if is_there && !is_taken {
            return Err(Refused::invalid_request(format!(
                "a subscription of this `need` takes no `{member}`: leave it out"
            )));
        }
    }
    let filter = wit::Filter {
        tenants: wanted.filter.tenants,
        event_types: wanted.filter.event_types,
        pattern: wanted.filter.pattern.map(|pattern| pattern.get().to_owned()),
    };
    let options = |filter| DeliveryOptions {
        filter,
        reach: Reach::Inbox,
        batch_size: wanted.batch_size,
        concurrency: wanted.concurrency,
        scope: match wanted.scope {
            None | Some(ScopeWord::Everywhere) => wit::Scope::Everywhere,
            Some(ScopeWord::Here) => wit::Scope::Here,
        },
    };
    let made: Result<Subscription, SubscribeError> = match wanted.need {
        NeedWord::Queue => {
            call.invoke(SUBSCRIBER, "subscribe-queue", (name, filter, Reach::Inbox))
                .await?
        }
        NeedWord::Durable => {
            call.invoke(SUBSCRIBER, "subscribe-durable", (name, options(filter)))
                .await?
        }
        NeedWord::Backfill => {
            let start = start_of("start", wanted.start.as_deref().unwrap_or("first"))?;
            let end = wanted.end.as_deref().map(end_of).transpose()?;
            call.invoke(SUBSCRIBER, "subscribe-backfill", (name, start, end, options(filter)))
                .await?
        }
    };
    Ok(Json(made?.into()))
}

/// `DELETE /v1/subscriptions/{name}`
pub(super) async fn end(call: Call) -> Result<StatusCode, Refused> {
    call.parameters(&[])?;
    let ended: Result<(), SubscribeError> = call.invoke(SUBSCRIBER, "unsubscribe", (name(&call),)).await?;
    ended?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/subscriptions/{name}:{action}`
pub(super) async fn act(call: Call, request: Request) -> Result<Response, Refused> {
    call.parameters(&[])?;
    let Some((name, action)) = name(&call).rsplit_once(':') else {
        return Err(Refused::not_found(
            "a subscription is made with PUT; POST takes an action behind its name, such as `:pause`",
        ));
    };
    let changed: Result<Subscription, SubscribeError> = match action {
        "pause" | "resume" => call.invoke(SUBSCRIBER, action, (name,)).await?,
        "rewind" => {
            let JsonBody(Rewind { to }) = JsonBody::from_request(request, &()).await?;
            call.invoke(SUBSCRIBER, "rewind", (name, start_of("to", &to)?)).await?
        }
        "fetch" => {
            let JsonBody(fetch) = JsonBody::from_request(request, &()).await?;
            return Ok(fetching::fetch(&call, name, &fetch).await?.into_response());
        }
        _ => {
            return Err(Refused::not_found(
                "there is no such action: there are `:fetch`, `:pause`, `:resume` and `:rewind`",
            ));
        }
    };
    Ok(Json(SubscriptionDocument::from(changed?)).into_response())
}

/// The last part of the path.
fn name(call: &Call) -> &str {
    call.path("name").unwrap_or_default()
}

fn start_of(member: &str, text: &str) -> Result<Start, Refused> {
    let start = link::start(text).map_err(|p| Refused::invalid_request(format!("`{member}`: {}", p.message)))?;
    Ok(convert::from_start(start))
}

fn end_of(text: &str) -> Result<End, Refused> {
    let end = link::end(text).map_err(|p| Refused::invalid_request(format!("`end`: {}", p.message)))?;
    Ok(convert::from_end(end))
}
