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

mod journal;
mod patterns;
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
        oldest: 1,
        oldest_at: 1,
        head_at: 1,
        made_at: 1,
    };
    observed.logs.insert(0, log);
    for stream in observed.topology.streams.values_mut() {
        stream.made_at = i64::from(stream.partition.is_some());
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
        later.topology.consumers[&(0, "invoicing=i1".into())].start,
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
    // Where it is remembered how far it had come, it goes on there.
    let (key, _) = first_consumer(&again);
    let log = later.topology.layout().partitions[&0].log;
    let floor = Floor::of(log, &later.logs[&0], 800, 800);
    later.floors.insert(key, floor);
    let again = plan(&policy, &wanted, &later, 2).unwrap();
    expect![[r#"
            create consumer invoicing on payments.*.webhook.invoice.* from offset 801
        "#]]
    .assert_eq(&shown(&again));
    // But not in another log.
    later = at(later, 700);
    let again = plan(&policy, &wanted, &later, 2).unwrap();
    assert_eq!(first_consumer(&again).1, crate::topology::ConsumerStart::Offset(1));
}

/// The key and the start of the first consumer that a plan makes.
fn first_consumer(plan: &Plan) -> ((u32, ConsumerName), crate::topology::ConsumerStart) {
    let made = plan.steps.iter().find_map(|step| match step {
        Step::CreateConsumer(c) => Some(((c.partition, c.name.clone()), c.start)),
        _ => None,
    });
    made.unwrap()
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
    // Which policy it is, the dead letters' stream says.
    let aged = "update bucket fanout_payments_attempts\nupdate stream fanout_payments_dead\nupdate stream fanout_payments_log\n";
    let shorter = format!("{aged}update stream fanout_payments_retries\n");
    assert_eq!(
        shown(&plan(&policy(&change), &[], &empty, 2 * DAY).unwrap()),
        shorter,
        "an empty log loses nothing"
    );
    let young = policy(&change[..1]);
    assert_eq!(
        shown(&plan(&young, &[], &full, DAY / 2).unwrap()),
        aged,
        "nor do events that are young enough"
    );
    let told = policy(&[
        change[0],
        change[1],
        ("change.allow-loss", "retention.max-age, retention.max-bytes"),
    ]);
    assert_eq!(shown(&plan(&told, &[], &full, 2 * DAY).unwrap()), shorter);
    let longer = policy(&[("retention.max-age", "14d")]);
    assert_eq!(shown(&plan(&longer, &[], &full, 2 * DAY).unwrap()), aged);
    let elsewhere = policy(&[("retention.storage", "memory")]);
    expect![[r#"
            `retention.storage` of fanout_payments_attempts can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_registry can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_dead can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_log can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_marks can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_retries can't change once it exists: keep it, or use another bus name [immutable-setting]
            `retention.storage` of fanout_payments_scheduled can't change once it exists: keep it, or use another bus name [immutable-setting]
        "#]].assert_eq(&text(plan(&elsewhere, &[], &full, 1).unwrap_err()));
}

#[test]
fn a_bound_given_by_hand_stays_unless_the_policy_names_it() {
    let nothing = Observed::default();
    let mut observed = applied(&plan(&policy(&[]), &[], &nothing, 1).unwrap(), &nothing);
    let dead = observed.topology.streams.get_mut("fanout_payments_dead").unwrap();
    (dead.max_bytes, dead.max_messages, dead.by_hand) = (1 << 20, 7, true);
    let planned = |settings: &[(&str, &str)]| plan(&policy(settings), &[], &observed, 2).unwrap();
    assert_eq!(shown(&planned(&[])), "", "it is left alone");
    let bounds = |settings: &[(&str, &str)]| {
        let after = applied(&planned(settings), &observed);
        let dead = &after.topology.streams["fanout_payments_dead"];
        (dead.max_bytes, dead.max_messages, dead.by_hand)
    };
    assert_eq!(bounds(&[("dead-letters.max-age", "40d")]), (1 << 20, 7, true));
    assert_eq!(bounds(&[("dead-letters.max-events", "9")]), (1 << 20, 9, true));
    let both = [("dead-letters.max-events", "9"), ("dead-letters.max-bytes", "2MiB")];
    assert_eq!(bounds(&both), (2 << 20, 9, false));
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
        .rewind(Start::Time(0), &[(0, 9)].into_iter().collect(), &Layout::default())
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
fn an_isolated_tenant_has_a_consumer_until_all_are_together_again() {
    let policy = policy(&[]);
    let mine = [want("invoicing", Need::Durable, "invoicing")];
    let first = plan(&policy, &mine, &Observed::default(), 1).unwrap();
    let mut observed = applied(&first, &Observed::default());
    let name = mine[0].subscription.name.clone();
    let loud: TenantId = "loud".parse().unwrap();
    let isolated = observed.registry[&name].isolate(&[loud], 0, 42);
    observed.registry.insert(name.clone(), isolated.clone());
    let steps = plan(&policy, &mine, &observed, 2).unwrap();
    expect![[r#"
            update consumer invoicing to payments.*.webhook.invoice.*
            create consumer invoicing=0=0=loud on payments.loud.webhook.invoice.* from offset 42
        "#]]
    .assert_eq(&shown(&steps));
    let mut observed = applied(&steps, &observed);
    assert!(plan(&policy, &mine, &observed, 3).unwrap().steps.is_empty());

    let joined = isolated.rejoin([(0, 99)].into_iter().collect());
    observed.registry.insert(name.clone(), joined.clone());
    let steps = plan(&policy, &mine, &observed, 4).unwrap();
    expect![[r#"
            delete consumer invoicing
            delete consumer invoicing=0=0=loud
            create consumer invoicing=0=1 on payments.*.webhook.invoice.* from offset 100
        "#]]
    .assert_eq(&shown(&steps));

    // A rewind gives everything from its place on, whoever was isolated.
    let back = isolated
        .rewind(Start::First, &ByPartition::default(), &Layout::default())
        .unwrap();
    assert!(back.isolated.is_empty() && back.consumer_name() == "invoicing=i1=1");
    let back = joined
        .rewind(Start::First, &ByPartition::default(), &Layout::default())
        .unwrap();
    assert!(back.rejoined.is_none() && back.consumer_name() == "invoicing=i1=1");
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
        "update stream fanout_payments_dead\ndelete consumer entitlements\n"
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
    assert_eq!(shown(&plan(&policy, &[], &observed, 2).unwrap()), "", "nobody ended it");
    observed
        .ended
        .insert(mine[0].subscription.name.clone(), Tombstone::default());
    assert_eq!(
        shown(&plan(&policy, &[], &observed, 2).unwrap()),
        "delete consumer invoicing\n"
    );
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
fn a_conflict_tells_a_caller_nothing_of_others() {
    let policy = policy(&[]);
    let observed = bus(&policy, &[call("x", Need::Durable, "caller:rich")], 1);
    let refused = plan(&policy, &[call("x", BACKFILL, "caller:curious")], &observed, 2).unwrap();
    let problem = &refused.refused[&0];
    assert_eq!(problem.code, Code::SubscriptionConflict);
    assert_eq!(problem.message, "subscription x: the name is taken: use another");
    // Its own it is told of.
    let refused = plan(&policy, &[call("x", BACKFILL, "caller:rich")], &observed, 2).unwrap();
    assert!(refused.refused[&0].message.contains("already a durable subscription"));
}

#[test]
fn a_declaration_has_its_name_and_whoever_had_it_goes_on() {
    let open = policy(&[]);
    let mut observed = bus(&open, &[call("work", Need::Durable, "squatter")], 9);
    observed.settled.insert((0, "work=i1".into()), 4);
    for declared in [
        (open.clone(), vec![want("work", Need::Durable, "worker")]),
        (policy(&[("subscriptions.work.need", "durable")]), vec![]),
    ] {
        let (policy, wanted) = declared;
        let steps = plan(&policy, &wanted, &observed, 2).unwrap();
        assert_eq!(steps.refused, BTreeMap::new());
        let mine: SubscriptionName = "work".parse().unwrap();
        let aside = mine.of_caller("squatter");
        assert_eq!(steps.registry[&mine].head, [(0, 9)].into_iter().collect());
        assert_eq!(steps.registry[&aside].component, "squatter");
        let mut after = applied(&steps, &observed);
        let starts: BTreeMap<_, _> = after
            .topology
            .consumers
            .iter()
            .map(|((_, n), c)| (n.clone(), c.start))
            .collect();
        assert_eq!(
            starts,
            [
                ("work=i2".into(), crate::topology::ConsumerStart::Offset(10)),
                (
                    format!("{aside}=i1=0=1").into(),
                    crate::topology::ConsumerStart::Offset(5)
                ),
            ]
            .into(),
            "each begins where it is to, under a consumer of its own"
        );
        after.settled.clear();
        let again = plan(&policy, &wanted, &after, 3).unwrap();
        assert_eq!(again.steps, Vec::<Step>::new());
        // The caller goes on calling it what it called it.
        let again = [wanted.as_slice(), &[call("work", Need::Durable, "squatter")]].concat();
        let kept = plan(&policy, &again, &after, 3).unwrap();
        assert_eq!((kept.steps, kept.refused), (Vec::new(), BTreeMap::new()));
        assert_eq!(kept.names[&(again.len() - 1)], aside);
        // A third one's call for it is a conflict.
        let third = [wanted.as_slice(), &[call("work", Need::Durable, "third")]].concat();
        let refused = plan(&policy, &third, &after, 3).unwrap().refused;
        assert_eq!(refused[&(third.len() - 1)].code, Code::SubscriptionConflict);
    }
    // In one plan too.
    let both = [
        call("work", Need::Durable, "squatter"),
        want("work", Need::Queue, "worker"),
    ];
    let steps = plan(&open, &both, &Observed::default(), 1).unwrap();
    assert_eq!(steps.refused.keys().collect::<Vec<_>>(), [&0]);
}

#[test]
fn what_is_not_there_was_not_ended() {
    let policy = policy(&[("retention.storage", "memory")]);
    let wanted = [
        call("mine", Need::Durable, "c"),
        call(
            "from",
            Need::Backfill {
                start: Start::Position(crate::Position::undivided(7)),
                end: None,
            },
            "c",
        ),
    ];
    let first = bus(&policy, &wanted[..1], 9);
    let steps = plan(&policy, &wanted, &first, 1).unwrap();
    let before = applied(&steps, &first);
    // The server was restarted, and remembers nothing.
    let lost = Observed {
        lost: before.registry.clone(),
        ..Observed::default()
    };
    let again = plan(&policy, &[], &lost, 2).unwrap();
    let shown = shown(&again);
    assert!(
        shown.contains("remember durable subscription mine of component c"),
        "{shown}"
    );
    assert!(
        shown.contains("create consumer mine on payments.*.webhook.invoice.* from offset 1"),
        "{shown}"
    );
    assert!(
        shown.contains("create consumer from=1 on payments.*.webhook.invoice.* from the first event"),
        "{shown}"
    );
    let after = applied(&again, &Observed::default());
    assert_eq!(plan(&policy, &[], &after, 3).unwrap().steps, Vec::<Step>::new());
}

#[test]
fn what_cannot_be_read_or_is_anothers_is_left_alone() {
    let policy = policy(&[]);
    let (bad, alien): (SubscriptionName, SubscriptionName) = ("bad".parse().unwrap(), "alien".parse().unwrap());
    let mut observed = bus(&policy, &[call("bad", Need::Durable, "c")], 1);
    observed.registry.clear();
    let problem = Problem::new(Code::UnreadableSubscription, "x");
    observed.unreadable.insert(bad.clone(), problem);
    observed.foreign_consumers.insert((0, "alien=i2".into()));
    let wanted = [
        call("bad", Need::Durable, "c"),
        call("alien", Need::Durable, "c"),
        call("good", Need::Durable, "c"),
    ];
    let steps = plan(&policy, &wanted, &observed, 2).unwrap();
    assert_eq!(steps.refused[&0].code, Code::UnreadableSubscription);
    assert_eq!(steps.stuck[&alien].code, Code::ForeignTopology);
    let shown = shown(&steps);
    assert!(
        !shown.contains("consumer bad") && !shown.contains("consumer alien"),
        "{shown}"
    );
    assert!(shown.contains("create consumer good"), "{shown}");
    // A partition whose consumers are not known keeps them.
    observed.topology.consumers.clear();
    observed.unread.insert(0, Problem::new(Code::StoreUnavailable, "x"));
    assert!(plan(&policy, &wanted, &observed, 2).is_err(), "it is no whole plan");
    let around = plan_around(
        &policy,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &observed,
        2,
    );
    assert!(
        around.steps.iter().all(|s| matches!(s, Step::Remember(_))),
        "{:?}",
        around.steps
    );
    assert!(around.problems.is_empty());
}

#[test]
fn a_policy_that_cannot_be_had_leaves_streams_alone_and_subscriptions_go_on() {
    let observed = bus(&policy(&[]), &[call("mine", Need::Durable, "c")], 10);
    let fixed = policy(&[("retention.storage", "memory")]);
    let wanted = [call("new", Need::Durable, "c")];
    assert!(plan(&fixed, &wanted, &observed, 2).is_err());
    let around = plan_around(
        &fixed,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &observed,
        2,
    );
    assert_eq!(around.problems[0].code, Code::ImmutableSetting);
    expect![[r#"
        remember durable subscription new of component c
        create consumer new on payments.*.webhook.invoice.* from offset 11
    "#]]
    .assert_eq(&shown(&around));
    // Nothing can be made at all: nothing is.
    let mut foreign = Observed::default();
    foreign.in_the_way.push(Problem::new(Code::ForeignTopology, "x"));
    let around = plan_around(
        &fixed,
        Asked {
            wanted: &wanted,
            ..Asked::default()
        },
        &foreign,
        2,
    );
    assert_eq!(around.steps, Vec::<Step>::new());
    assert_eq!(around.refused[&0].code, Code::BusNotReady);
}

#[test]
fn a_failed_step_takes_along_what_needs_it_and_nothing_else() {
    let policy = policy(&[("topology", "sharded(2)")]);
    let wanted = [call("a", Need::Durable, "c"), call("b", Need::Durable, "c")];
    let steps = plan(&policy, &wanted, &Observed::default(), 1).unwrap().steps;
    let refused = || Problem::new(Code::StoreRefused, "x");
    let allowed = |failing: &dyn Fn(&Step) -> bool| {
        let mut failures = Failures::default();
        let mut taken = Vec::new();
        for step in &steps {
            if !failures.allow(step) {
                continue;
            }
            if failing(step) {
                failures.add(step, refused());
            } else {
                taken.push(step.to_string());
            }
        }
        (taken.join("\n"), failures.into_parts())
    };
    let (taken, failed) = allowed(&|s| matches!(s, Step::CreateConsumer(c) if c.name == "a=i1" && c.partition == 0));
    assert_eq!(
        failed.keys().cloned().collect::<Vec<_>>(),
        [Part::Subscription("a".parse().unwrap())]
    );
    assert!(
        taken.contains("create consumer a of partition 1") && taken.contains("create consumer b on"),
        "{taken}"
    );
    let (taken, _) = allowed(&|s| matches!(s, Step::Remember(r) if r.subscription.name.as_str() == "a"));
    assert!(
        !taken.contains("consumer a") && taken.contains("create consumer b on"),
        "{taken}"
    );
    let (taken, failed) = allowed(&|s| matches!(s, Step::CreateStream(s) if s.name == "fanout_payments_log"));
    assert_eq!(failed.keys().cloned().collect::<Vec<_>>(), [Part::Partition(0)]);
    assert!(!taken.contains("create consumer a on"), "{taken}");
    assert!(taken.contains("create consumer a of partition 1"), "{taken}");
    let (taken, _) = allowed(&|s| matches!(s, Step::CreateBucket(b) if b.name.ends_with("attempts")));
    assert!(
        taken.contains("create consumer a on") && taken.contains("create stream fanout_payments_log"),
        "{taken}"
    );
}

#[test]
fn what_was_done_for_a_call_is_taken_back_to_what_was_there() {
    let policy = policy(&[]);
    let observed = bus(&policy, &[call("a", Need::Durable, "c")], 3);
    let other = Filter::new(vec![], vec!["charge.*".parse().unwrap()]);
    let changed = Wanted {
        subscription: Subscription {
            filter: other,
            ..call("a", Need::Durable, "c").subscription
        },
        ..call("a", Need::Durable, "c")
    };
    for wanted in [changed, call("b", BACKFILL, "c")] {
        let steps = plan(&policy, &[wanted], &observed, 2).unwrap();
        let after = applied(&steps, &observed);
        assert_ne!(after, observed);
        let back: Vec<_> = steps.steps.iter().rev().filter_map(|s| s.undo(&observed)).collect();
        let undone = applied(
            &Plan {
                steps: back,
                ..Plan::default()
            },
            &after,
        );
        assert_eq!(undone, observed);
    }
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

#[test]
fn a_log_that_was_made_again_or_put_back_is_another_and_begins_anew() {
    let policy = policy(&[]);
    let wanted = [want("invoicing", Need::Durable, "invoicing")];
    let nothing = Observed::default();
    let empty = at(applied(&plan(&policy, &[], &nothing, 1).unwrap(), &nothing), 20);
    let mut observed = at(applied(&plan(&policy, &wanted, &empty, 2).unwrap(), &empty), 30);
    let (number, consumer) = observed.topology.consumers.keys().next().unwrap().clone();
    let log = observed.topology.layout().partitions[&0].log;
    let floor = Floor::of(log, &observed.logs[&0], 28, 28);
    observed.floors.insert((number, consumer), floor);
    assert!(plan(&policy, &wanted, &observed, 3).unwrap().steps.is_empty());

    let again = |made_at, head, with_consumers: bool| {
        let mut again = at(observed.clone(), head);
        again.logs.get_mut(&0).unwrap().made_at = made_at;
        if !with_consumers {
            again.topology.consumers.clear();
        }
        again
    };
    // Deleted and made again, or restored from a backup without its consumers.
    for (made_at, head) in [(2, 25), (2, 40), (1, 25)] {
        let steps = plan(&policy, &wanted, &again(made_at, head, false), 9).unwrap();
        expect![[r#"
            update stream fanout_payments_log
            remember durable subscription invoicing of component invoicing
            create consumer invoicing on payments.*.webhook.invoice.* from offset 1
        "#]]
        .assert_eq(&shown(&steps));
        assert!(steps.layout.partitions[&0].log > log, "{made_at} {head}");
        let done = applied(&steps, &again(made_at, head, false));
        assert!(
            plan(&policy, &wanted, &done, 10).unwrap().steps.is_empty(),
            "{made_at} {head}"
        );
    }
    // Restored with its consumers, which know where they are.
    let steps = plan(&policy, &wanted, &again(1, 25, true), 9).unwrap();
    assert_eq!(shown(&steps), "update stream fanout_payments_log\n");
    // One that has gone on is the same.
    assert!(plan(&policy, &wanted, &again(1, 40, true), 9).unwrap().steps.is_empty());
    assert!(shown(&plan(&policy, &wanted, &again(1, 40, false), 9).unwrap()).contains("from offset 29"));
}

#[test]
fn the_greater_revision_wins_and_the_other_goes_on_with_what_is_there() {
    let of = |revision: &str, age: &str| policy(&[("revision", revision), ("retention.max-age", age)]);
    let nothing = Observed::default();
    let observed = at(applied(&plan(&of("2", "9d"), &[], &nothing, 1).unwrap(), &nothing), 9);
    let wanted = [want("invoicing", Need::Durable, "invoicing")];
    let asked = Asked {
        wanted: &wanted,
        ..Asked::default()
    };
    for (other, code) in [
        (of("1", "11d"), Code::OlderPolicy),
        (policy(&[("retention.max-age", "11d")]), Code::OlderPolicy),
        (of("2", "11d"), Code::PolicyConflict),
    ] {
        let kept = super::plan_around(&other, asked, &observed, 2);
        assert_eq!(kept.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [code]);
        expect![[r#"
            remember durable subscription invoicing of component invoicing
            create consumer invoicing on payments.*.webhook.invoice.* from offset 10
        "#]]
        .assert_eq(&shown(&kept));
        assert_eq!(super::plan(&other, asked, &observed, 2).unwrap_err()[0].code, code);
    }
    // What comes to the same is no conflict, and the one in force goes on being said.
    let same = super::plan_around(&policy(&[("retention.max-age", "9d")]), Asked::default(), &observed, 2);
    assert!(same.problems.is_empty() && same.steps.is_empty(), "{same:?}");
    let newer = shown(&plan(&of("3", "11d"), &[], &observed, 2).unwrap());
    assert!(newer.contains("update stream fanout_payments_log"), "{newer}");

    // Without numbers, who was told last; who was in force before says so.
    let unnumbered = policy(&[("retention.max-age", "9d")]);
    let observed = at(applied(&plan(&unnumbered, &[], &nothing, 1).unwrap(), &nothing), 9);
    let other = policy(&[("retention.max-age", "11d")]);
    let told = super::plan_around(&other, Asked::default(), &observed, 2);
    assert!(told.problems.is_empty() && !told.steps.is_empty());
    let before = Asked {
        was_in_force: true,
        ..Asked::default()
    };
    let kept = super::plan_around(&other, before, &observed, 2);
    assert!(kept.steps.is_empty() && kept.problems[0].code == Code::TopologyChanged);
}

#[test]
fn a_setting_that_would_lose_events_is_left_out_and_the_rest_is_applied() {
    let nothing = Observed::default();
    let full = at(applied(&plan(&policy(&[]), &[], &nothing, 1).unwrap(), &nothing), 10);
    let shorter = policy(&[("retention.max-age", "1d"), ("retention.compression", "s2")]);
    let plan = super::plan_around(&shorter, Asked::default(), &full, 2 * DAY);
    assert_eq!(
        plan.problems.iter().map(|p| p.code).collect::<Vec<_>>(),
        [Code::WouldLoseEvents]
    );
    let log = plan.steps.iter().find_map(|step| match step {
        Step::UpdateStream(s) if s.partition.is_some() => Some(s),
        _ => None,
    });
    let log = log.unwrap();
    assert!(log.compressed && log.max_age == std::time::Duration::from_secs(7 * 86_400));
    let done = applied(&plan, &full);
    let again = super::plan_around(&shorter, Asked::default(), &done, 2 * DAY);
    assert!(again.steps.is_empty() && again.problems == plan.problems);
}
