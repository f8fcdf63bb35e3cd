//! Plans of subscriptions: durable, rewound, isolated, ended, and whose name one is.

use expect_test::expect;

use super::*;

#[test]
fn a_durable_subscription_begins_after_what_was_there_and_keeps_its_place() {
    let policy = policy(&[]);
    let nothing = Observed::default();
    let observed = at(
        applied(&plan_asked(&policy, Asked::default(), &nothing, 1).unwrap(), &nothing),
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
        .rewind(
            Start::Time(Timestamp::EPOCH),
            &[(0, 9)].into_iter().collect(),
            &Layout::default(),
        )
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
