//! From what is wanted and what is observed to the steps between: the one path for start-up, a new, changed or deleted
//! link, a component's call and a reconnect.

use std::collections::{BTreeMap, BTreeSet};

use crate::by_partition::ByPartition;
use crate::partition::{Layout, Partition};
use crate::policy::Shape;
use crate::step::{self, Step};
use crate::subscription::{MadeBy, Need, Progress, Registered, Subscription};
use crate::topology::{self, Topology};
use crate::{Code, Policy, Problem, SubscriptionName, TenantId, declared, layout, loss, places};

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

/// What a stream holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last offset; 0 when nothing was ever stored.
    pub head: u64,
    /// Events that it holds.
    pub messages: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// When the oldest was stored, nanoseconds since the Unix epoch.
    pub oldest_at: i64,
}

/// What the store holds for a bus now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Streams, buckets and those consumers that Fanout made.
    pub topology: Topology,
    /// The remembered subscriptions.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// Each partition of the log.
    pub logs: BTreeMap<u32, LogState>,
    /// The dead letters.
    pub dead_letters: LogState,
}

impl Observed {
    /// Each partition's last offset.
    pub fn heads(&self) -> ByPartition {
        self.logs
            .iter()
            .map(|(partition, log)| (*partition, log.head))
            .collect()
    }
}

/// What to do, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are to be taken.
    pub steps: Vec<Step>,
    /// The subscriptions as they will be remembered.
    pub registry: BTreeMap<SubscriptionName, Registered>,
    /// The partitions as they will be.
    pub layout: Layout,
    /// What was wanted and can't be had, by its place among the wanted.
    pub refused: BTreeMap<usize, Problem>,
}

/// What is asked of a bus besides its policy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The subscriptions that links and components ask for.
    pub wanted: &'a [Wanted],
    /// A tenant that must have a place in the log now.
    pub tenant: Option<&'a TenantId>,
    /// The partitions stay as they are, although the policy asks for others.
    pub keep_partitions: bool,
}

/// Plans. `now` is in nanoseconds since the Unix epoch.
///
/// # Errors
/// Every reason for which the bus as a whole can't be brought to its policy. Refused subscriptions are no such reason:
/// they are part of the plan.
pub fn plan(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
    let have = observed.topology.layout();
    let tenants = asked.tenant.into_iter().cloned().collect();
    let mut layout = if asked.keep_partitions {
        have.clone()
    } else {
        layout::next(policy, &have, &tenants, now).map_err(|p| vec![p])?
    };
    // The last one stays, so that no number is given twice.
    let last = layout.partitions.keys().max().copied();
    layout
        .partitions
        .retain(|number, _| Some(*number) == last || !is_over(have.partitions.get(number), observed, now));

    let mut registry = observed.registry.clone();
    for registered in registry.values_mut() {
        // A partition that is not there any more, or was made again after someone had deleted it, begins anew.
        registered
            .head
            .0
            .retain(|number, _| have.partitions.contains_key(number));
    }
    let mut forget = Vec::new();
    registry.retain(|name, r| {
        let over = r.made_by == MadeBy::Policy
            && !policy.subscriptions.contains_key(name)
            && policy.allows_loss(&format!("subscriptions.{name}"));
        if over {
            forget.push(Step::Forget(name.clone()));
        }
        !over
    });
    let mut refused = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let declared = declared(policy, asked.wanted);
    for (i, want) in asked.wanted.iter().chain(&declared).enumerate() {
        let name = &want.subscription.name;
        let judged = if seen.insert(name.clone()) {
            judge(policy, &registry, &layout, observed, want, now)
        } else {
            Err(Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {name} is declared by two links: give one of them another name"),
            ))
        };
        match judged {
            Ok(next) => drop(registry.insert(name.clone(), next)),
            Err(problem) => drop(refused.insert(i, problem)),
        }
    }
    for registered in registry.values_mut() {
        // What goes with this plan is forgotten with it.
        registered
            .head
            .0
            .retain(|number, _| layout.partitions.contains_key(number));
    }
    let mut problems = Vec::new();
    if policy.shape == Shape::WorkQueue {
        problems = no_work_queue(&registry);
    }
    let remember = registry
        .iter()
        .filter(|(name, r)| observed.registry.get(*name) != Some(*r))
        .map(|(_, r)| Step::Remember(Box::new(r.clone())));
    let mut desired = reached(policy, &layout, &registry, observed);
    if asked.keep_partitions {
        // Their limits are those of the policy that they were made for.
        desired.streams.extend(observed.topology.streams.clone());
    }
    problems.extend(loss::check(policy, observed, &desired, now));
    let diff = match step::diff(&observed.topology, &desired) {
        Ok(diff) => diff,
        Err(more) => {
            problems.splice(0..0, more);
            step::Diff::default()
        }
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    // A subscription is remembered before its consumer is made: after a crash in between, the consumer is made again;
    // the other way round it would be an orphan that another instance deletes.
    let steps = diff
        .stores
        .into_iter()
        .chain(forget)
        .chain(remember)
        .chain(diff.consumers)
        .chain(diff.turn)
        .collect();
    Ok(Plan {
        steps,
        registry,
        layout,
        refused,
    })
}

/// Why remembered subscriptions can't live on a work queue.
fn no_work_queue(registry: &BTreeMap<SubscriptionName, Registered>) -> Vec<Problem> {
    let going_on = || {
        registry
            .values()
            .filter(|r| r.progress != Progress::Finished)
            .map(|r| &r.subscription)
    };
    let backfills = going_on()
        .filter(|s| matches!(s.need, Need::Backfill { .. }))
        .map(|s| declared::no_backfill(&s.name));
    let crossing = declared::crossing(going_on().map(|s| (&s.name, &s.need, &s.filter)));
    backfills.chain(crossing).collect()
}

/// What the store would hold for a policy once its plan is applied, and nothing else is asked of it.
///
/// # Errors
/// As [`plan`].
pub fn desired(policy: &Policy, observed: &Observed) -> Result<Topology, Vec<Problem>> {
    let plan = plan(policy, Asked::default(), observed, 0)?;
    Ok(reached(policy, &plan.layout, &plan.registry, observed))
}

/// What the store must hold in the end.
fn reached(
    policy: &Policy,
    layout: &Layout,
    registry: &BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
) -> Topology {
    let mut desired = topology::topology(policy, layout, registry.values());
    for spec in desired.streams.values_mut() {
        let retired = spec.partition.as_ref().is_some_and(Partition::is_retired);
        if let Some(have) = observed.topology.streams.get(&spec.name).filter(|_| retired) {
            // What a retired stream holds was stored under the earlier policy: it keeps that one's limits.
            spec.max_age = spec.max_age.max(have.max_age);
            spec.max_bytes = have.max_bytes;
            spec.storage = have.storage;
        }
    }
    // Where a partition that was found retired has nothing for a subscription, it never will, and needs no consumer.
    let found = observed.topology.layout();
    desired.consumers.retain(|(number, _), c| {
        let retired = found.partitions.get(number).is_some_and(Partition::is_retired);
        let head = observed.logs.get(number).map_or(0, |log| log.head);
        !(retired && matches!(c.start, topology::ConsumerStart::Offset(o) if o > head))
    });
    desired
}

/// Whether a partition has nothing more to give: it was found retired, so that nothing can come any more, and empty, and
/// it need not know repeats any more of what it held.
fn is_over(found: Option<&Partition>, observed: &Observed, now: i64) -> bool {
    let Some((partition, at)) = found.and_then(|p| Some((p, p.retired_at()?))) else {
        return false;
    };
    let stream = observed
        .topology
        .streams
        .values()
        .find(|s| s.partition.as_ref().is_some_and(|p| p.number == partition.number));
    let remembers = stream.map_or(0, |s| i64::try_from(s.dedupe_window.as_nanos()).unwrap_or(i64::MAX));
    let log = observed.logs.get(&partition.number);
    log.is_some_and(|log| log.messages == 0 && (log.head == 0 || now.saturating_sub(at) > remembers))
}

/// What the policy itself declares and no link asks for.
fn declared(policy: &Policy, wanted: &[Wanted]) -> Vec<Wanted> {
    policy
        .subscriptions
        .iter()
        .filter(|(name, _)| wanted.iter().all(|w| w.subscription.name != **name))
        .map(|(name, declared)| Wanted {
            subscription: declared.subscription(name, policy),
            component: declared.component.clone().unwrap_or_default(),
            link: String::new(),
            made_by: MadeBy::Policy,
        })
        .collect()
}

/// The subscription as it will be remembered.
fn judge(
    policy: &Policy,
    registry: &BTreeMap<SubscriptionName, Registered>,
    layout: &Layout,
    observed: &Observed,
    want: &Wanted,
    now: i64,
) -> Result<Registered, Problem> {
    let name = &want.subscription.name;
    let next = match registry.get(name) {
        None => {
            places::check(&want.subscription, layout, observed)?;
            Registered {
                subscription: want.subscription.clone(),
                component: want.component.clone(),
                link: want.link.clone(),
                made_by: want.made_by,
                made_at: now,
                head: observed.heads(),
                replayed: ByPartition::default(),
                progress: Progress::Replaying,
                paused: false,
                rewound: None,
                apart: BTreeMap::new(),
                joined: None,
            }
        }
        Some(have) => {
            have.can_become(&want.subscription, &want.component, want.made_by)?;
            have.with_what_is_asked(want)
        }
    };
    if policy.shape == Shape::WorkQueue {
        if matches!(want.subscription.need, Need::Backfill { .. }) {
            return Err(declared::no_backfill(name));
        }
        let others = registry
            .values()
            .map(|r| &r.subscription)
            .filter(|s| s.name != *name && s.need == Need::Durable);
        for other in others {
            if want.subscription.need == Need::Durable && other.filter.may_meet(&want.subscription.filter) {
                return Err(declared::meets(name, &other.name));
            }
        }
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;
    use crate::subscription::{Reach, Start};
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
                Step::RetireStream(s) | Step::BindStream(s) => drop(topology.streams.insert(s.name.clone(), s)),
                Step::DeleteStream(name) => drop(topology.streams.remove(&name)),
                Step::Forget(name) => drop(next.registry.remove(&name)),
                Step::CreateConsumer(c) | Step::UpdateConsumer(c) => {
                    drop(topology.consumers.insert((c.partition, c.name.clone()), c));
                }
                Step::DeleteConsumer { partition, name } => drop(topology.consumers.remove(&(partition, name))),
            }
        }
        next
    }

    fn plan(policy: &Policy, wanted: &[Wanted], observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
        super::plan(
            policy,
            Asked {
                wanted,
                ..Asked::default()
            },
            observed,
            now,
        )
    }

    /// The same with a log of so many events.
    fn at(mut observed: Observed, head: u64) -> Observed {
        let log = LogState {
            head,
            messages: head,
            bytes: head << 20,
            oldest_at: 1,
        };
        observed.logs.insert(0, log);
        observed
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
            create stream fanout_payments_later on fanout.later.payments.> for ever
            create stream fanout_payments_log on payments.*.webhook.> for 7d
            remember backfill subscription analytics of component analytics
            remember queue subscription entitlements of component entitlements
            remember durable subscription invoicing of component invoicing
            create consumer analytics on payments.*.webhook.invoice.* from the first event
            create consumer invoicing on payments.*.webhook.invoice.* from offset 1
            refused: subscription invoicing is declared by two links: give one of them another name [subscription-conflict]
        "#]]
        .assert_eq(&shown(&plan));
    }

    #[test]
    fn a_durable_subscription_begins_after_what_was_there_and_keeps_its_place() {
        let policy = policy(&[]);
        let nothing = Observed::default();
        let observed = at(
            applied(&super::plan(&policy, Asked::default(), &nothing, 1).unwrap(), &nothing),
            41,
        );
        let wanted = [want("invoicing", Need::Durable, "invoicing")];
        let first = plan(&policy, &wanted, &observed, 1).unwrap();
        let mut later = applied(&first, &observed);
        assert_eq!(
            later.topology.consumers[&(0, "invoicing".to_owned())].start,
            crate::topology::ConsumerStart::Offset(42)
        );
        later = at(later, 900);
        // Its consumer is lost: it is made again where it began, not at the new head.
        later.topology.consumers.clear();
        let again = plan(&policy, &wanted, &later, 2).unwrap();
        expect![[r#"
            create consumer invoicing on payments.*.webhook.invoice.* from offset 42
        "#]]
        .assert_eq(&shown(&again));
    }

    const DAY: i64 = 86_400_000_000_000;

    #[test]
    fn what_would_lose_events_is_refused_with_every_reason_unless_told_so() {
        let nothing = Observed::default();
        let empty = applied(&plan(&policy(&[]), &[], &nothing, 1).unwrap(), &nothing);
        let full = at(empty.clone(), 10);
        let change = [("retention.max-age", "1d"), ("retention.max-bytes", "1MiB")];
        let text = |problems: Vec<Problem>| problems.iter().map(|p| format!("{p}\n")).collect::<String>();
        expect![[r#"
            shortening the age from 7d to 1d on fanout_payments_log would drop events that it holds: keep `retention.max-age`, or wait until they have expired; if they may go, name `retention.max-age` in `change.allow-loss`, or once in `fanout apply --accept-loss retention.max-age` [would-lose-events]
            lowering the bytes from 1073741824 to 1048576 on fanout_payments_log would drop events that it holds: keep `retention.max-bytes`, or wait until they have expired; if they may go, name `retention.max-bytes` in `change.allow-loss`, or once in `fanout apply --accept-loss retention.max-bytes` [would-lose-events]
        "#]].assert_eq(&text(plan(&policy(&change), &[], &full, 2 * DAY).unwrap_err()));
        let shorter = "update bucket fanout_payments_attempts\nupdate stream fanout_payments_log\n";
        assert_eq!(
            shown(&plan(&policy(&change), &[], &empty, 2 * DAY).unwrap()),
            shorter,
            "an empty log loses nothing"
        );
        let young = policy(&change[..1]);
        assert_eq!(
            shown(&plan(&young, &[], &full, DAY / 2).unwrap()),
            shorter,
            "nor do events that are young enough"
        );
        let told = policy(&[
            change[0],
            change[1],
            ("change.allow-loss", "retention.max-age, retention.max-bytes"),
        ]);
        assert_eq!(shown(&plan(&told, &[], &full, 2 * DAY).unwrap()), shorter);
        let longer = policy(&[("retention.max-age", "14d")]);
        assert_eq!(shown(&plan(&longer, &[], &full, 2 * DAY).unwrap()), shorter);
        let elsewhere = policy(&[("retention.storage", "memory")]);
        expect![[r#"
            `retention.storage` of fanout_payments_attempts can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_registry can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_dead can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_later can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_log can't change once it exists: keep it, or use another bus name [immutable-setting]
        "#]].assert_eq(&text(plan(&elsewhere, &[], &full, 1).unwrap_err()));
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
    fn a_rewound_subscription_gets_a_consumer_of_its_own_and_loses_the_last() {
        let policy = policy(&[]);
        let mine = [want("invoicing", Need::Durable, "invoicing")];
        let mut observed = applied(
            &plan(&policy, &mine, &Observed::default(), 1).unwrap(),
            &Observed::default(),
        );
        let name = mine[0].subscription.name.clone();
        let back = observed.registry[&name]
            .rewind(Start::Time(0), &[(0, 9)].into_iter().collect())
            .unwrap();
        observed.registry.insert(name, back);
        let steps = plan(&policy, &mine, &observed, 2).unwrap();
        expect![[r#"
            delete consumer invoicing
            create consumer invoicing=1 on payments.*.webhook.invoice.* from 1970-01-01T00:00:00Z
        "#]]
        .assert_eq(&shown(&steps));
        // A crash between the two steps is finished by the next plan.
        observed.topology.consumers.clear();
        assert_eq!(plan(&policy, &mine, &observed, 3).unwrap().steps, steps.steps[1..]);
        let done = applied(&steps, &observed);
        assert!(plan(&policy, &mine, &done, 4).unwrap().steps.is_empty());
    }

    #[test]
    fn a_tenant_apart_has_a_consumer_until_all_are_together_again() {
        let policy = policy(&[]);
        let mine = [want("invoicing", Need::Durable, "invoicing")];
        let first = plan(&policy, &mine, &Observed::default(), 1).unwrap();
        let mut observed = applied(&first, &Observed::default());
        let name = mine[0].subscription.name.clone();
        let loud: TenantId = "loud".parse().unwrap();
        let apart = observed.registry[&name].with_apart(&[loud], 0, 42);
        observed.registry.insert(name.clone(), apart.clone());
        let steps = plan(&policy, &mine, &observed, 2).unwrap();
        expect![[r#"
            create consumer invoicing=0=0=loud on payments.loud.webhook.invoice.* from offset 42
        "#]]
        .assert_eq(&shown(&steps));
        let mut observed = applied(&steps, &observed);
        assert!(plan(&policy, &mine, &observed, 3).unwrap().steps.is_empty());

        let joined = apart.join([(0, 99)].into_iter().collect());
        observed.registry.insert(name.clone(), joined.clone());
        let steps = plan(&policy, &mine, &observed, 4).unwrap();
        expect![[r#"
            delete consumer invoicing
            delete consumer invoicing=0=0=loud
            create consumer invoicing=0=1 on payments.*.webhook.invoice.* from offset 100
        "#]]
        .assert_eq(&shown(&steps));

        // A rewind gives everything from its place on, whoever was apart.
        let back = apart.rewind(Start::First, &ByPartition::default()).unwrap();
        assert!(back.apart.is_empty() && back.consumer_name() == "invoicing=1");
        let back = joined.rewind(Start::First, &ByPartition::default()).unwrap();
        assert!(back.joined.is_none() && back.consumer_name() == "invoicing=1");
    }

    #[test]
    fn a_queue_that_is_served_at_least_once_has_a_consumer_of_what_comes() {
        let wanted = [want("entitlements", Need::Queue, "entitlements")];
        let kept = policy(&[("queue.delivery", "at-least-once")]);
        let steps = plan(&kept, &wanted, &Observed::default(), 1).unwrap();
        assert!(
            shown(&steps).contains("create consumer entitlements on payments.*.webhook.invoice.* from what is new")
        );
        let observed = applied(&steps, &Observed::default());
        assert_eq!(
            shown(&plan(&policy(&[]), &wanted, &observed, 2).unwrap()),
            "delete consumer entitlements\n"
        );
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
            let mut observed = Observed::default();
            for wanted in [&first, &second] {
                let steps = plan(&policy, wanted, &observed, 1).unwrap();
                prop_assert_eq!(&steps, &plan(&policy, wanted, &observed, 1).unwrap(), "the same in, the same out");
                observed = at(applied(&steps, &observed), head);
                let again = plan(&policy, wanted, &observed, 2).unwrap();
                prop_assert_eq!(again.steps, Vec::<Step>::new());
                prop_assert_eq!(again.registry, steps.registry);
            }
        }
    }
}
