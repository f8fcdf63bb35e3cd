//! From what is wanted and what is observed to the steps between: the one path for start-up, a new, changed or deleted
//! link, a component's call and a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use crate::step::{self, Step};
use crate::subscription::{MadeBy, Need, Progress, Registered, Start, Subscription};
use crate::topology::{self, Topology};
use crate::{Code, Policy, Problem, SubscriptionName};

/// A subscription that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What.
    pub subscription: Subscription,
    /// For whom.
    pub component: String,
    /// Through which link.
    pub link: String,
    /// How it is asked for.
    pub made_by: MadeBy,
}

/// What the store holds for a bus now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Streams, buckets and those consumers that Fanout made.
    pub topology: Topology,
    /// The remembered subscriptions.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// The log's last offset; 0 when it is empty or absent.
    pub head: u64,
}

/// What to do, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// The subscriptions as they will be remembered.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// What was wanted and can't be had, by its place among the wanted.
    pub refused: BTreeMap<usize, Problem>,
}

/// Plans. `now` is in nanoseconds since the Unix epoch.
///
/// # Errors
/// Every reason for which the bus as a whole can't be brought to its policy. Refused subscriptions are no such reason:
/// they are part of the plan.
pub fn plan(policy: &Policy, wanted: &[Wanted], observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
    let mut registry = observed.registry.clone();
    let mut refused = BTreeMap::new();
    let mut remember = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, want) in wanted.iter().enumerate() {
        let name = &want.subscription.name;
        if !seen.insert(name.clone()) {
            refused.insert(
                i,
                Problem::new(
                    Code::SubscriptionConflict,
                    format!("subscription {name} is declared by two links: give one of them another name"),
                ),
            );
            continue;
        }
        let next = match registry.get(name) {
            None if is_beyond(&want.subscription, observed.head) => {
                refused.insert(
                    i,
                    Problem::new(
                        Code::UnknownPosition,
                        format!(
                            "subscription {name}: its start lies beyond the log's last offset, {}: begin at or before that, or at a time",
                            observed.head
                        ),
                    ),
                );
                continue;
            }
            None => Registered {
                subscription: want.subscription.clone(),
                component: want.component.clone(),
                link: want.link.clone(),
                made_by: want.made_by,
                made_at: now,
                head: observed.head,
                replayed: None,
                progress: Progress::Replaying,
            },
            Some(have) => match have.can_become(&want.subscription, &want.component, want.made_by) {
                Ok(()) => Registered {
                    subscription: want.subscription.clone(),
                    link: want.link.clone(),
                    ..have.clone()
                },
                Err(p) => {
                    refused.insert(i, p);
                    continue;
                }
            },
        };
        if registry.get(name) != Some(&next) {
            remember.push(Step::Remember(Box::new(next.clone())));
            registry.insert(name.clone(), next);
        }
    }
    let desired = topology::topology(policy, registry.values());
    let (mut steps, consumers): (Vec<_>, Vec<_>) = step::diff(&observed.topology, &desired)?
        .into_iter()
        .partition(|s| !s.is_about_a_consumer());
    // A subscription is remembered before its consumer is made: after a crash in between, the consumer is made again;
    // the other way round it would be an orphan that another instance deletes.
    steps.extend(remember);
    steps.extend(consumers);
    Ok(Plan {
        steps,
        registry,
        refused,
    })
}

fn is_beyond(asked: &Subscription, head: u64) -> bool {
    matches!(asked.need, Need::Backfill { start: Start::Position(p), .. } if p.offset > head + 1)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::subscription::Reach;
    use crate::{Filter, Settings};

    fn policy(extra: &[(&str, &str)]) -> Policy {
        let mut settings: Settings = [
            ("bus", "payments"),
            ("subject", "payments.{tenant}.webhook.{event-type}"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        settings.extend(extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Policy::from_settings("policy", &settings).unwrap()
    }

    fn want(name: &str, need: Need, component: &str) -> Wanted {
        Wanted {
            subscription: Subscription {
                name: name.parse().unwrap(),
                need,
                filter: Filter::new(vec![], vec!["invoice.*".parse().unwrap()]),
                reach: Reach::Handler,
                batch_size: 1,
                concurrency: 4,
                tell_caught_up: false,
            },
            component: component.into(),
            link: "default".into(),
            made_by: MadeBy::Link,
        }
    }

    const BACKFILL: Need = Need::Backfill {
        start: Start::First,
        end: None,
    };

    /// What the store would hold once the steps are taken.
    fn applied(plan: &Plan, observed: &Observed) -> Observed {
        let mut next = observed.clone();
        for step in &plan.steps {
            let topology = &mut next.topology;
            match step.clone() {
                Step::CreateStream(s) | Step::UpdateStream(s) => drop(topology.streams.insert(s.name.clone(), s)),
                Step::CreateBucket(b) | Step::UpdateBucket(b) => drop(topology.buckets.insert(b.name.clone(), b)),
                Step::Remember(r) => drop(next.registry.insert(r.subscription.name.clone(), *r)),
                Step::CreateConsumer(c) | Step::UpdateConsumer(c) => drop(topology.consumers.insert(c.name.clone(), c)),
                Step::DeleteConsumer(name) => drop(topology.consumers.remove(&name)),
            }
        }
        next
    }

    fn shown(plan: &Plan) -> String {
        let steps = plan.steps.iter().map(|s| format!("{s}\n"));
        let refused = plan.refused.values().map(|p| format!("refused: {p}\n"));
        steps.chain(refused).collect()
    }

    #[test]
    fn a_new_bus() {
        let wanted = [
            want("entitlements", Need::Queue, "entitlements"),
            want("invoicing", Need::Durable, "invoicing"),
            want("invoicing", Need::Durable, "another"),
            want("analytics", BACKFILL, "analytics"),
        ];
        let plan = plan(&policy(&[]), &wanted, &Observed::default(), 1).unwrap();
        expect![[r#"
            create bucket fanout_payments_attempts
            create bucket fanout_payments_registry
            create stream fanout_payments_dead on fanout.dead.payments.> for 30d
            create stream fanout_payments_log on payments.*.webhook.> for 7d
            remember queue subscription entitlements of component entitlements
            remember durable subscription invoicing of component invoicing
            remember backfill subscription analytics of component analytics
            create consumer analytics on payments.*.webhook.invoice.* from the first event
            create consumer invoicing on payments.*.webhook.invoice.* from offset 1
            refused: subscription invoicing is declared by two links: give one of them another name [subscription-conflict]
        "#]]
        .assert_eq(&shown(&plan));
    }

    #[test]
    fn a_durable_subscription_begins_after_what_was_there_and_keeps_its_place() {
        let observed = Observed {
            head: 41,
            ..Observed::default()
        };
        let wanted = [want("invoicing", Need::Durable, "invoicing")];
        let policy = policy(&[]);
        let first = plan(&policy, &wanted, &observed, 1).unwrap();
        let mut later = applied(&first, &observed);
        assert_eq!(
            later.topology.consumers["invoicing"].start,
            crate::topology::ConsumerStart::Offset(42)
        );
        later.head = 900;
        // Its consumer is lost: it is made again where it began, not at the new head.
        later.topology.consumers.clear();
        let again = plan(&policy, &wanted, &later, 2).unwrap();
        expect![[r#"
            create consumer invoicing on payments.*.webhook.invoice.* from offset 42
        "#]]
        .assert_eq(&shown(&again));
    }

    #[test]
    fn what_would_lose_events_is_refused_with_every_reason() {
        let observed = applied(
            &plan(&policy(&[]), &[], &Observed::default(), 1).unwrap(),
            &Observed::default(),
        );
        let narrower = policy(&[
            ("retention.max-age", "1d"),
            ("retention.max-bytes", "1MiB"),
            ("retention.storage", "memory"),
            ("subject", "billing.{tenant}.{event-type}"),
        ]);
        let problems = plan(&narrower, &[], &observed, 1).unwrap_err();
        let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
        expect![[r#"
            `retention.storage` of fanout_payments_attempts can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_registry can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_dead can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_log can't change once it exists: keep it, or use another bus name [immutable-setting]
            shortening the age from 7d to 1d on fanout_payments_log would drop events it holds: keep it, or use another bus name [would-lose-events]
            lowering the bytes from 1073741824 to 1048576 on fanout_payments_log would drop events it holds: keep it, or use another bus name [would-lose-events]
            moving the subjects from payments.*.webhook.> to billing.*.> on fanout_payments_log would drop events it holds: keep it, or use another bus name [would-lose-events]
        "#]]
        .assert_eq(&text);
        let wider = policy(&[("retention.max-age", "14d")]);
        assert_eq!(
            shown(&plan(&wider, &[], &observed, 1).unwrap()),
            "update bucket fanout_payments_attempts\nupdate stream fanout_payments_log\n"
        );
    }

    #[test]
    fn a_name_keeps_its_owner_and_meaning() {
        let policy = policy(&[]);
        let mine = [want("invoicing", Need::Durable, "invoicing")];
        let observed = applied(
            &plan(&policy, &mine, &Observed::default(), 1).unwrap(),
            &Observed::default(),
        );
        for other in [
            want("invoicing", Need::Durable, "thief"),
            want("invoicing", BACKFILL, "invoicing"),
            Wanted {
                made_by: MadeBy::Call,
                ..mine[0].clone()
            },
        ] {
            let plan = plan(&policy, &[other], &observed, 2).unwrap();
            assert!(plan.steps.is_empty());
            assert_eq!(plan.refused[&0].code, Code::SubscriptionConflict);
        }
        let mut wider = mine[0].clone();
        wider.subscription.filter = Filter::all();
        expect![[r#"
            remember durable subscription invoicing of component invoicing
            update consumer invoicing to payments.*.webhook.>
        "#]]
        .assert_eq(&shown(&plan(&policy, &[wider], &observed, 2).unwrap()));
    }

    #[test]
    fn an_ended_subscription_loses_its_consumer() {
        let policy = policy(&[]);
        let mine = [want("invoicing", Need::Durable, "invoicing")];
        let mut observed = applied(
            &plan(&policy, &mine, &Observed::default(), 1).unwrap(),
            &Observed::default(),
        );
        observed.registry.clear();
        assert_eq!(
            shown(&plan(&policy, &[], &observed, 2).unwrap()),
            "delete consumer invoicing\n"
        );
    }

    fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
        let need = prop_oneof![Just(Need::Queue), Just(Need::Durable), Just(BACKFILL)];
        proptest::collection::vec(
            ("[a-c]", need, "[x-z]").prop_map(|(name, need, component)| want(&name, need, &component)),
            0..6,
        )
    }

    proptest! {
        #[test]
        fn once_applied_nothing_is_left_to_do(first in wanted(), second in wanted(), head in 0u64..100) {
            let policy = policy(&[]);
            let mut observed = Observed { head, ..Observed::default() };
            for wanted in [&first, &second] {
                let steps = plan(&policy, wanted, &observed, 1).unwrap();
                prop_assert_eq!(&steps, &plan(&policy, wanted, &observed, 1).unwrap(), "the same in, the same out");
                observed = applied(&steps, &observed);
                let again = plan(&policy, wanted, &observed, 2).unwrap();
                prop_assert_eq!(again.steps, Vec::<Step>::new());
                prop_assert_eq!(again.registry, steps.registry);
            }
        }
    }
}
