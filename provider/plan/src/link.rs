//! What a link says: which tenants a component may publish and subscribe for, or which subscription it declares.

use serde::{Deserialize, Serialize};

use crate::authority;
use crate::declared::{Asked, Declared};
use crate::place::Whereabouts;
use crate::setting::{self, Reader, Settings};
use crate::subscription::{End, Need, Reach, Start, Subscription};
use crate::{Code, Filter, Policy, Problem, Sources, SubscriptionName, TenantId, Timestamp, TypePattern};

/// Which end of a link the component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It calls the bus: `publisher`, `subscriber`, `status`.
    Caller,
    /// The bus calls it: `handler`, `batch-handler`, `backfill-handler`.
    Subscriber,
}

impl Role {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Subscriber => "subscriber",
        }
    }
}

/// What a component may do through its link to the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The tenants and event types it may publish and subscribe for.
    pub allows: Filter,
    /// The sources whose events it may publish.
    pub sources: Sources,
    /// It may publish.
    pub publish: bool,
    /// It may subscribe.
    pub subscribe: bool,
    /// It may fetch and settle.
    pub inbox: bool,
}

impl Grant {
    /// Reads the target settings of a link from a component to the bus.
    ///
    /// # Errors
    /// Every problem of every setting.
    pub fn from_settings(owner: &str, interfaces: &[String], settings: &Settings) -> Result<Self, Vec<Problem>> {
        let mut r = Reader::new(owner, settings);
        let tenants = r.required("tenants", "list the tenants it may act for, or `*` for all", tenants);
        let event_types = r.or("event-types", Vec::new(), setting::list);
        let sources = r.or("sources", Sources::all(), Sources::parse);
        let problems = r.finish();
        match tenants {
            Some(tenants) if problems.is_empty() => Ok(Self {
                allows: Filter::new(tenants, event_types),
                sources,
                publish: interfaces.iter().any(|i| i == "publisher"),
                subscribe: interfaces.iter().any(|i| i == "subscriber"),
                inbox: interfaces.iter().any(|i| i == "inbox"),
            }),
            _ => Err(problems),
        }
    }
}

impl Grant {
    /// What is left of a request's filter under this grant: where it asks for everything, everything that is allowed. Whose
    /// grant it is, is for messages: the caller's id, and the link.
    ///
    /// # Errors
    /// Names the first tenant or pattern that is not allowed; or when no event that is allowed can match the event pattern.
    pub fn narrow(&self, asked: Filter, caller: &str, link: &str) -> Result<Filter, Problem> {
        let pattern = asked.pattern().cloned();
        let Filter {
            tenants, event_types, ..
        } = asked;
        if let Some(tenant) = tenants.iter().find(|t| !self.allows.allows_tenant(t)) {
            return Err(Problem::new(
                Code::TenantNotPermitted,
                format!(
                    "{} does not allow tenant {tenant}: add it to {}",
                    authority::describe(caller, link),
                    authority::setting(caller, "subscribe.tenants")
                ),
            ));
        }
        let tenants = if tenants.is_empty() {
            self.allows.tenants.clone()
        } else {
            tenants
        };
        let event_types = if event_types == [TypePattern::any()] {
            self.allows.event_types.clone()
        } else {
            event_types
        };
        let narrowed = Filter::new(tenants, event_types);
        if let Some(pattern) = self.allows.first_not_covered(&narrowed.event_types) {
            return Err(Problem::new(
                Code::EventTypeNotPermitted,
                format!(
                    "{} does not allow event types {pattern}: add them to {}",
                    authority::describe(caller, link),
                    authority::setting(caller, "subscribe.event-types")
                ),
            ));
        }
        narrowed.with_pattern(pattern).map_err(|p| {
            let whose = authority::describe(caller, link);
            Problem::new(p.code, format!("{whose}: {}", p.message))
        })
    }
}

/// Reads the source settings of a link from the bus to a component: the subscription that it declares.
///
/// # Errors
/// Every problem of every setting.
pub fn declared_subscription(
    owner: &str,
    component: &str,
    interfaces: &[String],
    settings: &Settings,
    policy: &Policy,
) -> Result<Subscription, Vec<Problem>> {
    let (subscription, whereabouts) = read_declared(owner, component, interfaces, settings, policy)?;
    let here = whereabouts.check(&subscription.name, &subscription.need, policy.places.as_ref());
    here.map_err(|p| vec![of(owner, p)])?;
    Ok(subscription)
}

/// The same of a link to a bus elsewhere, which alone knows its places.
///
/// # Errors
/// Every problem of every setting; also for a link that says at which place.
pub fn declared_at_a_bus_elsewhere(
    owner: &str,
    component: &str,
    interfaces: &[String],
    settings: &Settings,
    defaults: &Policy,
) -> Result<Subscription, Vec<Problem>> {
    let (subscription, whereabouts) = read_declared(owner, component, interfaces, settings, defaults)?;
    match whereabouts.at {
        Some(_) => Err(vec![Problem::new(
            Code::ConflictingSettings,
            format!(
                "{owner}: subscription {} is at the place whose bus this link leads to: leave `at` out, or say it in the policy",
                subscription.name
            ),
        )]),
        None => Ok(subscription),
    }
}

fn of(owner: &str, p: Problem) -> Problem {
    Problem::new(p.code, format!("{owner}: {}", p.message))
}

fn read_declared(
    owner: &str,
    component: &str,
    interfaces: &[String],
    settings: &Settings,
    policy: &Policy,
) -> Result<(Subscription, Whereabouts), Vec<Problem>> {
    let declared = settings
        .get("subscription")
        .and_then(|name| name.trim().parse().ok())
        .and_then(|name| policy.subscriptions.get(&name));
    let together = match declared {
        Some(declared) => with_the_policy(owner, component, settings, declared)?,
        None => settings.clone(),
    };
    let mut r = Reader::new(owner, &together);
    let name = r.required("subscription", "name it, such as `invoicing`", setting::parsed);
    let asked = Asked::read(&mut r);
    let has = |name: &str| interfaces.iter().any(|i| i == name);
    let reach = match (has("handler"), has("batch-handler"), has("inbox")) {
        (true, false, false) => Reach::Handler,
        (false, true, false) => Reach::BatchHandler,
        (false, false, true) => Reach::Inbox,
        _ => {
            r.conflict(
"the link's interfaces must name one of `handler`, `batch-handler` and `inbox`, so that it is known which to call, or that it fetches",
            );
            Reach::Handler
        }
    };
    let problems = r.finish();
    let (Some(name), Some(asked), true) = (name, asked, problems.is_empty()) else {
        return Err(problems);
    };
    let whereabouts = asked.whereabouts;
    let asked = Subscription {
        name,
        need: asked.need,
        filter: asked.filter,
        reach,
        batch_size: asked.batch_size.unwrap_or(policy.delivery.batch_size),
        concurrency: asked.concurrency.unwrap_or(policy.delivery.concurrency),
        tell_caught_up: has("backfill-handler"),
        scope: whereabouts.scope,
    };
    let checked = check(asked).map_err(|p| vec![of(owner, p)])?;
    Ok((checked, whereabouts))
}

/// The word of a need, before its other settings are known.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Word {
    Queue,
    Durable,
    Backfill,
}

impl Word {
    pub(crate) fn read(s: &str) -> Result<Self, Problem> {
        setting::word(&[
            ("queue", Self::Queue),
            ("durable", Self::Durable),
            ("backfill", Self::Backfill),
        ])(s)
    }
}

/// A need with where it begins and ends, which only a backfill says.
pub(crate) fn need(r: &mut Reader<'_>, word: Option<Word>, start: Option<Start>, end: Option<End>) -> Option<Need> {
    if word.is_some() && word != Some(Word::Backfill) && (start.is_some() || end.is_some()) {
        r.conflict("`start` and `end` are for `need=backfill` only");
    }
    Some(match word? {
        Word::Queue => Need::Queue,
        Word::Durable => Need::Durable,
        Word::Backfill => Need::Backfill {
            start: start.unwrap_or(Start::First),
            end,
        },
    })
}

/// A link's settings with those that the policy declares under the subscription's name.
fn with_the_policy(
    owner: &str,
    component: &str,
    link: &Settings,
    declared: &Declared,
) -> Result<Settings, Vec<Problem>> {
    let name = link.get("subscription").map_or("", |n| n.trim());
    let mut problems = Vec::new();
    if let Some(theirs) = declared.component.as_deref().filter(|c| *c != component) {
        problems.push(Problem::new(
            Code::ConflictingSettings,
            format!(
                "{owner}: the policy gives subscription {name} to component {theirs} (`subscriptions.{name}.component`), and this link goes to {component}: change one of them"
            ),
        ));
    }
    let mut together = link.clone();
    for (key, theirs) in declared.settings.iter().filter(|(key, _)| *key != "component") {
        let mine = together.entry(key.clone()).or_insert_with(|| theirs.clone());
        if mine.trim() != theirs {
            problems.push(Problem::new(
                Code::ConflictingSettings,
                format!(
                    "{owner}: `{key}` is {} here and {} in the policy (`subscriptions.{name}.{key}`): say it in one place",
                    crate::name::shown(mine),
                    crate::name::shown(theirs)
                ),
            ));
        }
    }
    if problems.is_empty() {
        Ok(together)
    } else {
        Err(problems)
    }
}

/// The rules that hold for a subscription however it was made; brings it to its normal form.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(mut asked: Subscription) -> Result<Subscription, Problem> {
    asked_for(&asked.name)?;
    if asked.reach == Reach::Handler {
        asked.batch_size = 1;
    }
    match asked.need {
        Need::Queue if asked.reach == Reach::BatchHandler => {
            return Err(Problem::new(
                Code::ConflictingSettings,
                format!(
                    "subscription {}: a queue subscription is called through `handler`, one event at a time, or fetched through `inbox`",
                    asked.name
                ),
            ));
        }
        Need::Backfill {
            start: Start::Time(start),
            end: Some(End::Time(end)),
        } if end <= start => return Err(empty_backfill(&asked)),
        Need::Backfill {
            start: Start::Position(start),
            end: Some(End::Position(end)),
        } if end < start => return Err(empty_backfill(&asked)),
        Need::Backfill { start, end } => {
            let positions = [
                match start {
                    Start::Position(p) => Some(p),
                    _ => None,
                },
                match end {
                    Some(End::Position(p)) => Some(p),
                    _ => None,
                },
            ];
            if let Some(p) = positions.into_iter().flatten().find(|p| p.offset == 0) {
                return Err(Problem::new(
                    Code::UnknownPosition,
                    format!(
                        "subscription {}: position {p} does not exist: offsets count from 1",
                        asked.name
                    ),
                ));
            }
        }
        _ => {}
    }
    asked.tell_caught_up &= matches!(asked.need, Need::Backfill { .. }) && asked.reach != Reach::Inbox;
    Ok(asked)
}

/// Whether a subscription may be asked for under a name.
pub(crate) fn asked_for(name: &SubscriptionName) -> Result<(), Problem> {
    if name.may_be_asked_for() {
        return Ok(());
    }
    Err(Problem::new(
        Code::InvalidSubscription,
        format!(
            "subscription {} is not a legal name: use at most {} characters, and not two underscores and twelve hexadecimal digits at the end, which the bus adds itself",
            crate::name::shown(name.as_str()),
            SubscriptionName::MAX_CHARS
        ),
    ))
}

fn empty_backfill(asked: &Subscription) -> Problem {
    Problem::new(
        Code::EmptyBackfill,
        format!("subscription {}: the backfill ends before it starts", asked.name),
    )
}

pub(crate) fn tenants(s: &str) -> Result<Vec<TenantId>, Problem> {
    if s == "*" {
        return Ok(Vec::new());
    }
    let items = setting::items(s)?;
    if items.iter().any(|item| item.text == "*" && !item.quoted) {
        return Err(Problem::new(
            Code::InvalidSetting,
            "`*` stands for all tenants, beside others: write `*` alone, or in double quotes if it is a tenant's name",
        ));
    }
    items.iter().map(|item| item.text.parse()).collect()
}

/// Where to begin: `first`, a time such as `2026-11-22T10:00:00Z`, or a position such as `0/42`; `time:` or `position:` may
/// stand before them.
///
/// # Errors
/// Says how it is written.
pub fn start(s: &str) -> Result<Start, Problem> {
    Ok(match moment(s, "`first`, a time")? {
        None => Start::First,
        Some(End::Time(t)) => Start::Time(t),
        Some(End::Position(p)) => Start::Position(p),
    })
}

/// Where to end, written in the same way.
///
/// # Errors
/// Says how it is written.
pub fn end(s: &str) -> Result<End, Problem> {
    let what = "a time";
    moment(s, what)?.ok_or_else(|| not_a_place(s, what))
}

/// `None` for the first event. `what` says what may be written besides a position.
fn moment(s: &str, what: &str) -> Result<Option<End>, Problem> {
    Ok(Some(match s.split_once(':') {
        _ if s == "first" => return Ok(None),
        Some(("time", t)) => End::Time(time(t)?),
        Some(("position", p)) => End::Position(p.parse()?),
        _ if s.contains('/') => End::Position(s.parse()?),
        _ => End::Time(s.parse().map_err(|_| not_a_place(s, what))?),
    }))
}

fn not_a_place(s: &str, what: &str) -> Problem {
    Problem::new(
        Code::InvalidSetting,
        format!(
            "{} is no place in the log: write {what} such as 2026-11-22T10:00:00Z, or a position such as 0/42",
            crate::name::shown(s)
        ),
    )
}

fn time(s: &str) -> Result<Timestamp, Problem> {
    s.parse().map_err(|_| {
        Problem::new(
            Code::InvalidSetting,
            format!(
                "{} is not an RFC 3339 time, such as 2026-11-22T10:00:00Z",
                crate::name::shown(s)
            ),
        )
    })
}

#[cfg(test)]
mod tests;
