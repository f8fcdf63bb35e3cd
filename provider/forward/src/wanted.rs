//! A subscription as it is asked for upstream, where it is always one that is fetched.

use fanout_plan::link::declared_subscription;
use fanout_plan::subscription::{self as plan, Subscription};
use fanout_plan::{Policy, Problem, Settings};

use fanout_wit::types::{DeliveryOptions, End, Filter, Position, Reach, Start};

use crate::deliver::Plan;

/// What a subscription is for.
#[derive(Clone, Debug)]
pub enum Need {
    /// Fast, at most once.
    Queue,
    /// At least once.
    Durable,
    /// The retained log from a point on, then live or until an end.
    Backfill {
        /// Where it begins.
        start: Start,
        /// Where it ends.
        end: Option<End>,
    },
}

/// A named need.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name on the bus.
    pub name: String,
    /// What it is for.
    pub need: Need,
    /// The tenants; empty for all.
    pub tenants: Vec<String>,
    /// Patterns of event types; empty for all.
    pub event_types: Vec<String>,
}

impl Wanted {
    pub(crate) fn filter(&self) -> Filter {
        Filter {
            tenants: self.tenants.clone(),
            event_types: self.event_types.clone(),
        }
    }

    /// How many are handled at a time is settled here, not upstream.
    pub(crate) fn options(&self) -> DeliveryOptions {
        DeliveryOptions {
            filter: self.filter(),
            reach: Reach::Inbox,
            batch_size: None,
            concurrency: None,
        }
    }
}

/// What a link declares, with what it leaves unsaid filled in.
///
/// # Errors
/// Every problem of every setting.
pub fn declared(
    owner: &str,
    component: &str,
    interfaces: &[String],
    settings: &Settings,
) -> Result<Subscription, Vec<Problem>> {
    // Of a policy only the sizes of deliveries count here: the rest is the bus's.
    let bus = [("bus", "elsewhere"), ("subject", "elsewhere.{tenant}.{event-type}")];
    let policy = bus.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let policy = Policy::from_settings(owner, &policy)?;
    declared_subscription(owner, component, interfaces, settings, &policy)
}

impl From<&Subscription> for Wanted {
    fn from(subscription: &Subscription) -> Self {
        Self {
            name: subscription.name.to_string(),
            need: match subscription.need {
                plan::Need::Queue => Need::Queue,
                plan::Need::Durable => Need::Durable,
                plan::Need::Backfill { start, end } => Need::Backfill {
                    start: match start {
                        plan::Start::First => Start::First,
                        plan::Start::Time(time) => Start::Time(time),
                        plan::Start::Position(p) => Start::Position(position(p)),
                    },
                    end: end.map(|end| match end {
                        plan::End::Time(time) => End::Time(time),
                        plan::End::Position(p) => End::Position(position(p)),
                    }),
                },
            },
            tenants: subscription.filter.tenants.iter().map(ToString::to_string).collect(),
            event_types: subscription
                .filter
                .event_types
                .iter()
                .map(ToString::to_string)
                .collect(),
        }
    }
}

impl From<&Subscription> for Plan {
    fn from(subscription: &Subscription) -> Self {
        Self {
            wanted: subscription.into(),
            batch: subscription.batch_size as usize,
            concurrency: subscription.concurrency as usize,
            tell_caught_up: subscription.tell_caught_up,
        }
    }
}

fn position(p: fanout_plan::Position) -> Position {
    Position {
        partition: p.partition,
        offset: p.offset,
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
            ("batch-size", "50"),
            ("concurrency", "4"),
        ]);
        let declared =
            declared("link invoicing", "invoicing", &["batch-handler".to_owned()], &link).expect("a legal link");
        let plan = Plan::from(&declared);
        assert_eq!((plan.batch, plan.concurrency, plan.tell_caught_up), (50, 4, false));
        assert_eq!(plan.wanted.name, "invoicing");
        assert_eq!(plan.wanted.event_types, ["invoice.*"]);
        assert!(matches!(plan.wanted.need, Need::Durable));
        assert!(matches!(plan.wanted.options().reach, Reach::Inbox));
    }

    #[test]
    fn what_is_wrong_with_it_is_named() {
        let problems =
            declared("link x", "x", &[], &settings(&[("need", "durable")])).expect_err("no name, no interface");
        let text = format!("{problems:?}");
        assert!(text.contains("link x") && text.contains("subscription"), "{text}");
    }
}
