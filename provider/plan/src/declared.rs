//! Subscriptions that the policy itself declares, by name: the bus keeps their events from the moment at which the
//! policy is in force, whether or not a component is there yet.

use std::collections::BTreeMap;

use crate::authority;
use crate::link::{self, Word};
use crate::place::{Places, Scope, Whereabouts};
use crate::policy::{MAX_IN_FLIGHT, Shape};
use crate::setting::{self, Reader, Settings};
use crate::subscription::{Need, Reach, Subscription};
use crate::{Code, Filter, PlaceName, Policy, Problem, SubscriptionName};

/// A subscription as the policy writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// What it is for.
    pub need: Need,
    /// Which events.
    pub filter: Filter,
    /// Deliveries in an invocation.
    pub batch_size: Option<u32>,
    /// Invocations at once.
    pub concurrency: Option<u32>,
    /// Who may be given the events; anyone that an operator links, unless it is said.
    pub component: Option<String>,
    /// Whose events.
    pub scope: Scope,
    /// The place that it names.
    pub at: Option<PlaceName>,
    /// Whether this instance's place delivers it.
    pub is_here: bool,
    /// The settings as they were written, for a link that repeats one.
    pub settings: Settings,
}

impl Declared {
    /// The subscription before a link says how its subscriber is called.
    pub fn subscription(&self, name: &SubscriptionName, policy: &Policy) -> Subscription {
        Subscription {
            name: name.clone(),
            need: self.need,
            filter: self.filter.clone(),
            reach: match self.need {
                // Nobody can call it.
                _ if self.component.as_deref().is_some_and(authority::is_named_caller) => Reach::Inbox,
                Need::Queue => Reach::Handler,
                Need::Durable | Need::Backfill { .. } => Reach::BatchHandler,
            },
            batch_size: self.batch_size.unwrap_or(policy.delivery.batch_size),
            concurrency: self.concurrency.unwrap_or(policy.delivery.concurrency),
            tell_caught_up: false,
            scope: self.scope,
        }
    }
}

/// What a message lists as known.
const KNOWN: &[&str] = &[
    "subscriptions.NAME.need",
    "subscriptions.NAME.tenants",
    "subscriptions.NAME.event-types",
    "subscriptions.NAME.pattern",
    "subscriptions.NAME.batch-size",
    "subscriptions.NAME.concurrency",
    "subscriptions.NAME.start",
    "subscriptions.NAME.end",
    "subscriptions.NAME.component",
    "subscriptions.NAME.at",
    "subscriptions.NAME.scope",
];

/// Reads every `subscriptions.NAME.…`.
pub(crate) fn read(r: &mut Reader<'_>, shape: Shape, places: Option<&Places>) -> BTreeMap<SubscriptionName, Declared> {
    let mut all = BTreeMap::new();
    for (name, settings) in r.under("subscriptions.", KNOWN) {
        let owner = format!("subscriptions.{name}");
        if let Some((of, _)) = name
            .split_once(".pattern")
            .filter(|(_, rest)| rest.is_empty() || rest.starts_with('.'))
        {
            let setting = format!("subscriptions.{of}.pattern");
            r.refuse_under(&setting, &no_table());
            continue;
        }
        let asked_for = |name: SubscriptionName| link::asked_for(&name).map(|()| name);
        let parsed = match name.parse().and_then(asked_for) {
            Ok(parsed) => parsed,
            Err(p) => {
                r.refuse_under(&owner, &p);
                continue;
            }
        };
        let mut one = Reader::new(&owner, &settings);
        let declared = declared(&mut one, &settings);
        for p in one.finish() {
            let key = p.setting.as_ref().map(|s| format!("{owner}.{s}"));
            r.adopt(Problem { setting: key, ..p });
        }
        if let Some((mut declared, whereabouts)) = declared {
            match whereabouts.is_declared_here(&parsed, &declared.need, places) {
                Ok(is_here) => declared.is_here = is_here,
                Err(p) => r.refuse_under(&owner, &p),
            }
            if shape == Shape::WorkQueue && matches!(declared.need, Need::Backfill { .. }) {
                r.refuse_under(&format!("{owner}.need"), &no_backfill(&parsed));
            }
            all.insert(parsed, declared);
        }
    }
    if shape == Shape::WorkQueue {
        for p in crossing(all.iter().map(|(n, d)| (n, &d.need, &d.filter))) {
            r.refuse(p.code, p.message);
        }
    }
    all
}

/// A pattern is written as JSON, not as a table of TOML, which has no null and no objects in lists of other values.
fn no_table() -> Problem {
    Problem::new(
        Code::InvalidSetting,
        "it is a table, and an event pattern is a JSON text: write it between three single quotes, '''{ … }'''",
    )
}

fn declared(one: &mut Reader<'_>, settings: &Settings) -> Option<(Declared, Whereabouts)> {
    let asked = Asked::read(one);
    let component = one.optional("component", |s| {
        if s.is_empty() || s.len() > 256 || s.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(Problem::new(
                Code::InvalidSetting,
                "name a component as the lattice does, such as `invoicing`",
            ));
        }
        Ok(s.to_owned())
    });
    let asked = asked?;
    let declared = Declared {
        need: asked.need,
        filter: asked.filter,
        batch_size: asked.batch_size,
        concurrency: asked.concurrency,
        component,
        scope: asked.whereabouts.scope,
        at: asked.whereabouts.at.clone(),
        is_here: true,
        settings: settings.clone(),
    };
    Some((declared, asked.whereabouts))
}

/// The settings that every subscription has, whether a link or the policy declares it.
pub(crate) struct Asked {
    pub(crate) need: Need,
    pub(crate) filter: Filter,
    pub(crate) batch_size: Option<u32>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) whereabouts: Whereabouts,
}

impl Asked {
    /// `None` where the need can't be read, which is a problem.
    pub(crate) fn read(r: &mut Reader<'_>) -> Option<Self> {
        let need = r.required("need", "say `queue`, `durable` or `backfill`", Word::read);
        let tenants = r.or("tenants", Vec::new(), link::tenants);
        let event_types = r.or("event-types", Vec::new(), setting::list);
        let asked_for = Filter::new(tenants, event_types);
        let with = |text: &str| asked_for.clone().with_pattern(Some(text.parse()?));
        let patterned = r.optional("pattern", with);
        let start = r.optional("start", link::start);
        let end = r.optional("end", link::end);
        let in_flight = setting::number(1, MAX_IN_FLIGHT);
        let batch_size = r.optional("batch-size", &in_flight).map(|n| n as u32);
        let concurrency = r.optional("concurrency", &in_flight).map(|n| n as u32);
        let whereabouts = Whereabouts::read(r);
        Some(Self {
            need: link::need(r, need, start, end)?,
            filter: patterned.unwrap_or(asked_for),
            batch_size,
            concurrency,
            whereabouts,
        })
    }
}

/// A work queue has no past to replay.
pub(crate) fn no_backfill(name: &SubscriptionName) -> Problem {
    Problem::new(
        Code::ConflictingSettings,
        format!(
            "subscription {name}: a backfill reads what is retained, and `topology` = `work-queue` retains nothing that is settled (the server refuses such a consumer, 10101): use `need` = `durable`, or `topology` = `shared`"
        ),
    )
}

/// The pairs of durable subscriptions that would both get an event: a work queue gives each event to one.
pub(crate) fn crossing<'a>(all: impl Iterator<Item = (&'a SubscriptionName, &'a Need, &'a Filter)>) -> Vec<Problem> {
    let durable: Vec<_> = all.filter(|(_, need, _)| **need == Need::Durable).collect();
    let mut problems = Vec::new();
    for (i, (name, _, filter)) in durable.iter().enumerate() {
        for (other, _, theirs) in &durable[..i] {
            if filter.may_meet(theirs) {
                problems.push(meets(name, other));
            }
        }
    }
    problems
}

/// The same for a caller, who is not told of others.
pub(crate) fn meets_another(name: &SubscriptionName) -> Problem {
    Problem::new(
        Code::ConflictingSettings,
        format!(
            "subscription {name}: another subscription can match the same event, and `topology` = `work-queue` gives each event to one durable subscription (the server refuses a second, 10100): ask for `tenants` or `event-types` that no other one asks for"
        ),
    )
}

/// Two subscriptions of a work queue that would both get an event.
pub(crate) fn meets(name: &SubscriptionName, other: &SubscriptionName) -> Problem {
    Problem::new(
        Code::ConflictingSettings,
        format!(
            "subscriptions {other} and {name} can match the same event, and `topology` = `work-queue` gives each event to one durable subscription (the server refuses a second, 10100): give them `tenants` or `event-types` that do not meet, or use `topology` = `shared`"
        ),
    )
}
