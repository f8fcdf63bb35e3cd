//! A subscription as a link declares it, in the words of this crate.

use fanout_plan::link::declared_at_a_bus_elsewhere;
use fanout_plan::place::Scope;
use fanout_plan::subscription::{self as plan, Subscription as Declared};
use fanout_plan::{Policy, Problem, Settings};

use super::Plan;
use crate::{End, Position, Start, Subscription};

/// What a link declares, with what it leaves unsaid filled in.
///
/// # Errors
/// Every problem of every setting.
pub fn declared(
    owner: &str,
    component: &str,
    interfaces: &[String],
    settings: &Settings,
) -> Result<Declared, Vec<Problem>> {
    // Of a policy only the sizes of deliveries count here: the rest is the bus's.
    let bus = [("bus", "elsewhere"), ("subject", "elsewhere.{tenant}.{event-type}")];
    let policy = bus.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let policy = Policy::from_settings(owner, &policy)?;
    declared_at_a_bus_elsewhere(owner, component, interfaces, settings, &policy)
}

/// How many are handled at a time is settled here, not at the bus.
impl From<&Declared> for Subscription {
    fn from(declared: &Declared) -> Self {
        let name = declared.name.as_str();
        let subscription = match declared.need {
            plan::Need::Queue => Self::queue(name),
            plan::Need::Durable => Self::durable(name),
            plan::Need::Backfill { start, end: None } => Self::backfill(name, start.into()),
            plan::Need::Backfill { start, end: Some(end) } => Self::backfill(name, start.into()).until(end.into()),
        };
        let subscription = subscription
            .tenants(declared.filter.tenants.iter().map(ToString::to_string))
            .event_types(declared.filter.event_types.iter().map(ToString::to_string));
        let subscription = match declared.filter.pattern() {
            Some(pattern) => subscription.pattern(pattern.as_str()),
            None => subscription,
        };
        match declared.scope {
            Scope::Everywhere => subscription,
            Scope::Here => subscription.of_this_place(),
        }
    }
}

impl From<&Declared> for Plan {
    fn from(declared: &Declared) -> Self {
        Self {
            wanted: declared.into(),
            batch: declared.batch_size as usize,
            concurrency: declared.concurrency as usize,
            tell_caught_up: declared.tell_caught_up,
        }
    }
}

impl From<plan::Start> for Start {
    fn from(start: plan::Start) -> Self {
        match start {
            plan::Start::First => Self::First,
            plan::Start::Time(time) => Self::Time(time.nanoseconds()),
            plan::Start::Position(p) => Self::Position(p.into()),
        }
    }
}

impl From<plan::End> for End {
    fn from(end: plan::End) -> Self {
        match end {
            plan::End::Time(time) => Self::Time(time.nanoseconds()),
            plan::End::Position(p) => Self::Position(p.into()),
        }
    }
}

impl From<fanout_plan::Position> for Position {
    fn from(p: fanout_plan::Position) -> Self {
        Self {
            partition: p.partition,
            offset: p.offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_link_means_here_what_it_means_on_the_bus() {
        let link = settings(&[
            ("subscription", "invoicing"),
            ("need", "durable"),
            ("event-types", "invoice.*"),
            ("pattern", r#"{ "data": { "amount": [5] } }"#),
            ("batch-size", "50"),
            ("concurrency", "4"),
        ]);
        let declared =
            declared("link invoicing", "invoicing", &["batch-handler".to_owned()], &link).expect("a legal link");
        let plan = Plan::from(&declared);
        assert_eq!((plan.batch, plan.concurrency, plan.tell_caught_up), (50, 4, false));
        assert_eq!(
            plan.wanted,
            Subscription::durable("invoicing")
                .event_types(["invoice.*"])
                .pattern(r#"{"data":{"amount":[5]}}"#)
        );
    }

    #[test]
    fn what_is_wrong_with_it_is_named() {
        let problems =
            declared("link x", "x", &[], &settings(&[("need", "durable")])).expect_err("no name, no interface");
        let text = format!("{problems:?}");
        assert!(text.contains("link x") && text.contains("subscription"), "{text}");
    }
}
