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
fn a_retired_work_queue_goes_on_with_the_consumers_that_it_had() {
    let queue = policy(&[("topology", "work-queue")]);
    let filtered = |name: &str, pattern: &str| {
        let mut wanted = want(name, Need::Durable, name);
        wanted.subscription.filter = Filter::new(vec![], vec![pattern.parse().unwrap()]);
        wanted
    };
    let first = [filtered("invoicing", "invoice.*"), filtered("charging", "charge.*")];
    let plan_1 = plan(&queue, &first, &Observed::default(), 1).unwrap();
    let observed = at(applied(&plan_1, &Observed::default()), 9);
    // Legal in a log: a new subscription and a changed one that meet others.
    let then = [
        filtered("invoicing", "invoice.*"),
        filtered("charging", "**"),
        filtered("auditing", "invoice.*"),
    ];
    let plan_2 = plan(&policy(&[]), &then, &observed, 2).unwrap();
    let made = shown(&plan_2);
    assert!(made.contains("create consumer auditing of partition 1"), "{made}");
    assert!(!made.contains("create consumer auditing on"), "{made}");
    assert!(!made.contains("update consumer charging to"), "{made}");
    let observed = applied(&plan_2, &observed);
    let again = plan(&policy(&[]), &then, &observed, 3).unwrap();
    assert_eq!(again.steps, Vec::<Step>::new());
}

#[test]
fn a_queue_that_is_served_at_least_once_has_a_consumer_of_what_comes() {
    let wanted = [want("entitlements", Need::Queue, "entitlements")];
    let kept = policy(&[("queue.delivery", "at-least-once")]);
    let steps = plan(&kept, &wanted, &Observed::default(), 1).unwrap();
    assert!(shown(&steps).contains("create consumer entitlements on payments.*.webhook.invoice.* from what is new"));
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
