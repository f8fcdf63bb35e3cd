use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::by_partition::ByPartition;
use crate::floor::Floor;
use crate::partition::Layout;
use crate::step::{Failures, Part};
use crate::subscription::{Reach, Start};
use crate::unregistered::Tombstone;
use crate::{ConsumerName, Filter, Settings};

mod failures;
mod journal;
mod losses;
mod patterns;
mod registry_share;
mod subscriptions;
mod undone;
mod work_queue;

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
            scope: crate::place::Scope::Everywhere,
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
    let asked = Asked {
        wanted,
        ..Asked::default()
    };
    plan_asked(policy, asked, observed, now)
}

fn plan_asked(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Result<Plan, Vec<Problem>> {
    super::plan(policy, asked, observed, Timestamp::from_nanoseconds(now))
}

fn plan_around(policy: &Policy, asked: Asked<'_>, observed: &Observed, now: i64) -> Plan {
    super::plan_around(policy, asked, observed, Timestamp::from_nanoseconds(now))
}

/// The same with a log of so many events.
fn at(mut observed: Observed, head: u64) -> Observed {
    let log = LogState {
        head,
        messages: head,
        bytes: head << 20,
        oldest: 1,
        oldest_at: Timestamp::from_nanoseconds(1),
        head_at: Timestamp::from_nanoseconds(1),
        made_at: Timestamp::from_nanoseconds(1),
        mirror: None,
    };
    observed.logs.insert(0, log);
    for stream in observed.topology.streams.values_mut() {
        stream.made_at = Timestamp::from_nanoseconds(i64::from(stream.partition.is_some()));
    }
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
            create bucket fanout_payments_leases
            create bucket fanout_payments_registry
            create stream fanout_payments_dead on fanout.dead.payments.> for 30d
            create stream fanout_payments_log on payments.*.webhook.> for 7d
            create stream fanout_payments_marks on fanout.mark.payments.> for 1d
            create stream fanout_payments_retries on fanout.retry.payments.> for ever
            create stream fanout_payments_scheduled on fanout.scheduled.payments.> for ever
            remember backfill subscription analytics of component analytics
            remember queue subscription entitlements of component entitlements
            remember durable subscription invoicing of component invoicing
            create consumer analytics on payments.*.webhook.invoice.* from the first event
            create consumer invoicing on payments.*.webhook.invoice.* from offset 1
            refused: subscription invoicing is declared by two links: give one of them another name [subscription-conflict]
        "#]]
    .assert_eq(&shown(&plan));
}

fn call(name: &str, need: Need, component: &str) -> Wanted {
    Wanted {
        made_by: MadeBy::Call,
        ..want(name, need, component)
    }
}

/// A bus with what was wanted, and so many events.
fn bus(policy: &Policy, wanted: &[Wanted], head: u64) -> Observed {
    let nothing = Observed::default();
    at(applied(&plan(policy, wanted, &nothing, 1).unwrap(), &nothing), head)
}

#[test]
fn nobody_remembers_more_than_the_limits_let_it() {
    let few = policy(&[("limits.subscriptions-per-caller", "1")]);
    let observed = bus(&few, &[call("a", Need::Durable, "c")], 1);
    let wanted = [
        call("a", Need::Durable, "c"),
        call("b", Need::Durable, "c"),
        call("b", Need::Durable, "another"),
    ];
    let steps = plan(&few, &wanted, &observed, 2).unwrap();
    assert_eq!(steps.refused.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(steps.refused[&1].code, Code::LimitExceeded);
    // What the operator declares is none of a caller's.
    let declared = [want("d", Need::Durable, "c"), want("e", Need::Durable, "c")];
    assert_eq!(plan(&few, &declared, &observed, 2).unwrap().refused, BTreeMap::new());
    // But it is as wide as any may be; one that is there stays, whatever the limits become.
    let narrow = policy(&[("limits.patterns-per-subscription", "1")]);
    let mut wide = want("wide", Need::Durable, "c");
    wide.subscription.filter = Filter::new(vec![], vec!["a.*".parse().unwrap(), "b.*".parse().unwrap()]);
    let wide = [wide];
    let refused = plan(&narrow, &wide, &observed, 2).unwrap().refused;
    assert_eq!(refused[&0].code, Code::LimitExceeded);
    let there = bus(&policy(&[]), &wide, 1);
    assert_eq!(plan(&narrow, &wide, &there, 2).unwrap().refused, BTreeMap::new());
}

#[test]
fn the_text_of_a_step_is_short() {
    let mut wide = want("wide", Need::Durable, "c");
    let types = (0..200).map(|i| format!("type-{i}.*").parse().unwrap());
    wide.subscription.filter = Filter::new(vec![], types.collect());
    let steps = plan(&policy(&[]), &[wide], &Observed::default(), 1).unwrap();
    let longest = steps.steps.iter().map(|s| s.to_string().len()).max().unwrap();
    assert!(longest < 300, "{longest}");
    assert!(shown(&steps).contains("and 196 more"));
}

fn wanted() -> impl Strategy<Value = Vec<Wanted>> {
    let need = prop_oneof![Just(Need::Queue), Just(Need::Durable), Just(BACKFILL)];
    proptest::collection::vec(
        ("[a-c]", need, "[x-z]").prop_map(|(name, need, component)| want(&name, need, &component)),
        0..6,
    )
}
