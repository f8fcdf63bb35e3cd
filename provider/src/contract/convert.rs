//! WIT types to and from the planner's.

use fanout_plan::place::Scope;
use fanout_plan::status::{LostEvents, ReportedProblem};
use fanout_plan::subscription::{End, MadeBy, Need, Reach, Start, Subscription};
use fanout_plan::{Filter, Position, Problem, RawEvent, Timestamp, link};
use fanout_wit::types as wit;

use super::subscriber::Terms;
pub(super) use crate::target::convert::{delivery, event, event_of, position, rejection};

fn from_position(p: &wit::Position) -> Position {
    Position {
        partition: p.partition,
        offset: p.offset,
    }
}

pub(super) fn problem(p: Problem) -> wit::Problem {
    wit::Problem {
        code: p.code.to_string(),
        message: p.message,
    }
}

/// The attributes of an event from outside; its payload stays where it is. Without a source it is its publisher's own.
pub(super) fn raw_event(e: &mut wit::Event, own_source: impl FnOnce() -> String) -> RawEvent {
    use std::mem::take;
    if e.source.is_empty() {
        e.source = own_source();
    }
    RawEvent {
        tenant: take(&mut e.tenant),
        event_type: take(&mut e.event_type),
        id: take(&mut e.id),
        source: take(&mut e.source),
        subject: take(&mut e.subject),
        time: e.time.map(Timestamp::from_nanoseconds),
        data_content_type: take(&mut e.data_content_type),
        data_schema: take(&mut e.data_schema),
        extensions: take(&mut e.extensions).into_iter().map(|a| (a.name, a.value)).collect(),
        ordering_key: take(&mut e.ordering_key),
    }
}

fn filter(f: &wit::Filter) -> Result<Filter, Problem> {
    let filter = Filter::new(
        f.tenants.iter().map(|t| t.parse()).collect::<Result<_, _>>()?,
        f.event_types.iter().map(|p| p.parse()).collect::<Result<_, _>>()?,
    );
    filter.with_pattern(f.pattern.as_deref().map(str::parse).transpose()?)
}

pub(super) fn from_filter(f: &Filter) -> wit::Filter {
    wit::Filter {
        tenants: f.tenants.iter().map(ToString::to_string).collect(),
        event_types: f.event_types.iter().map(ToString::to_string).collect(),
        pattern: f.pattern().map(|p| p.as_str().to_owned()),
    }
}

fn reach(r: wit::Reach) -> Reach {
    match r {
        wit::Reach::Handler => Reach::Handler,
        wit::Reach::BatchHandler => Reach::BatchHandler,
        wit::Reach::Inbox => Reach::Inbox,
    }
}

fn scope(s: wit::Scope) -> Scope {
    match s {
        wit::Scope::Everywhere => Scope::Everywhere,
        wit::Scope::Here => Scope::Here,
    }
}

/// What is asked of a bus on these terms.
pub(super) fn subscription(
    name: &str,
    need: Need,
    options: wit::DeliveryOptions,
    terms: &Terms,
) -> Result<Subscription, Problem> {
    let size = |what: &str, asked: Option<u32>, default: u32| match asked {
        None => Ok(default),
        Some(n) if (1..=fanout_plan::policy::MAX_IN_FLIGHT).contains(&n.into()) => Ok(n),
        Some(n) => Err(Problem::new(
            fanout_plan::Code::InvalidSetting,
            format!(
                "subscription {name}: a {what} of {n} is not from 1 to {}",
                fanout_plan::policy::MAX_IN_FLIGHT
            ),
        )),
    };
    let of_it = |p: Problem| Problem::new(p.code, format!("subscription {name}: {}", p.message));
    link::check(Subscription {
        name: name.parse()?,
        need,
        filter: filter(&options.filter).map_err(of_it)?,
        reach: reach(options.reach),
        batch_size: size("batch-size", options.batch_size, terms.batch_size)?,
        concurrency: size("concurrency", options.concurrency, terms.concurrency)?,
        // The contract asks this of every component that subscribes to a backfill by a call.
        tell_caught_up: need != Need::Queue,
        scope: scope(options.scope),
    })
}

pub(super) fn start(s: &wit::Start) -> Start {
    match s {
        wit::Start::First => Start::First,
        wit::Start::Time(t) => Start::Time(Timestamp::from_nanoseconds(*t)),
        wit::Start::Position(p) => Start::Position(from_position(p)),
    }
}

pub(super) fn end(e: &wit::End) -> End {
    match e {
        wit::End::Time(t) => End::Time(Timestamp::from_nanoseconds(*t)),
        wit::End::Position(p) => End::Position(from_position(p)),
    }
}

pub(super) fn from_start(s: Start) -> wit::Start {
    match s {
        Start::First => wit::Start::First,
        Start::Time(t) => wit::Start::Time(t.nanoseconds()),
        Start::Position(p) => wit::Start::Position(position(p)),
    }
}

pub(super) fn from_end(e: End) -> wit::End {
    match e {
        End::Time(t) => wit::End::Time(t.nanoseconds()),
        End::Position(p) => wit::End::Position(position(p)),
    }
}

pub(super) fn need(n: &Need) -> wit::Need {
    match n {
        Need::Queue => wit::Need::Queue,
        Need::Durable => wit::Need::Durable,
        Need::Backfill { start, .. } => wit::Need::Backfill(from_start(*start)),
    }
}

pub(super) fn lost(lost: LostEvents) -> wit::LostEvents {
    wit::LostEvents {
        first: position(lost.first),
        last: position(lost.last),
        count: lost.count,
        exact: lost.exact,
        at: lost.at.nanoseconds(),
    }
}

pub(super) fn reported(p: ReportedProblem) -> wit::Problem {
    wit::Problem {
        code: p.code,
        message: p.message,
    }
}

pub(super) fn made_by(m: MadeBy) -> wit::SubscriptionOrigin {
    match m {
        MadeBy::Link | MadeBy::Policy => wit::SubscriptionOrigin::Link,
        MadeBy::Call => wit::SubscriptionOrigin::Call,
    }
}

/// A time of the contract, in RFC 3339.
pub(super) fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanoseconds(nanoseconds).to_string()
}
