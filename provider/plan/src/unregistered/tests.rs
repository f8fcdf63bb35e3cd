use super::*;
use crate::entry;
use crate::planner::{Asked, plan_around};
use crate::step::Step;
use crate::topology::{ConsumerSpec, ConsumerStart};
use crate::{Policy, Settings, Timestamp};

/// A durable subscription, as it is remembered.
fn registered(name: &str, incarnation: i64) -> Registered {
    let written = format!(
        r#"{{"name":"{name}","need":"durable","filter":{{"tenants":[],"event_types":["**"]}},"reach":"handler",
        "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"call",
        "made_at":{incarnation},"incarnation":"{incarnation:x}","head":{{"0":7}},"replayed":{{}},"progress":"replaying"}}"#
    );
    entry::read(written.as_bytes()).unwrap()
}

/// A log with a consumer, which says of what it is, and nothing in the registry.
fn orphaned(registered: &Registered, says: bool, made_at: i64) -> Observed {
    let key = (0, registered.consumer_name());
    let entry = says.then(|| Box::new(registered.clone()));
    let mut observed = Observed::default();
    let spec = ConsumerSpec {
        partition: 0,
        name: key.1.clone(),
        filter_subjects: vec!["payments.*.>".into()],
        start: ConsumerStart::Offset(8),
        ack_wait: std::time::Duration::from_secs(30),
        max_ack_pending: 8,
        entry: entry.clone(),
    };
    observed.topology.consumers.insert(key.clone(), spec);
    observed.made.insert(
        key,
        Made {
            at: Timestamp::from_nanoseconds(made_at),
            entry,
        },
    );
    observed
}

fn ended(incarnation: Option<i64>, at: i64) -> Tombstone {
    Tombstone {
        incarnation: incarnation.map(|at| Incarnation::new(Timestamp::from_nanoseconds(at))),
        at: Timestamp::from_nanoseconds(at),
        caller: None,
    }
}

/// What becomes of it: the names that are lost, and those that are left alone.
fn found(mut observed: Observed) -> (Vec<SubscriptionName>, Vec<SubscriptionName>) {
    observed.find_unregistered();
    (
        observed.lost.into_keys().collect(),
        observed.unreadable.into_keys().collect(),
    )
}

#[test]
fn only_a_tombstone_that_is_newer_ends_a_subscription() {
    let mine = registered("work", 20);
    let name = || vec![mine.subscription.name.clone()];
    for (tombstone, is_ended) in [
        (None, false),
        (Some(ended(Some(19), 99)), false),
        (Some(ended(Some(20), 1)), true),
        (Some(ended(Some(21), 1)), true),
        // An older version's, or a person's, says when.
        (Some(ended(None, 24)), false),
        (Some(ended(None, 25)), true),
    ] {
        for says in [true, false] {
            let mut observed = orphaned(&mine, says, 25);
            observed
                .ended
                .extend(tombstone.clone().map(|t| (mine.subscription.name.clone(), t)));
            let wanted = match (is_ended, says) {
                (true, _) => (vec![], vec![]),
                (false, true) => (name(), vec![]),
                (false, false) => (vec![], name()),
            };
            assert_eq!(found(observed), wanted, "{tombstone:?} {says}");
        }
    }
}

#[test]
fn an_entry_speaks_of_consumers_that_are_as_old_or_older() {
    let mine = registered("work", 20);
    let name = mine.subscription.name.clone();
    for (entered, left_alone) in [(19, true), (20, false), (21, false)] {
        for says in [true, false] {
            let mut observed = orphaned(&mine, says, 25);
            observed.registry.insert(name.clone(), registered("work", entered));
            let wanted = if left_alone { vec![name.clone()] } else { vec![] };
            assert_eq!(found(observed), (vec![], wanted), "{entered} {says}");
        }
    }
    // What can't be read, or what an instance knows, is not looked for again.
    let problem = Problem::new(Code::UnreadableSubscription, "newer");
    let mut observed = orphaned(&mine, true, 25);
    observed.unreadable.insert(name.clone(), problem);
    assert_eq!(found(observed), (vec![], vec![name.clone()]));
    let mut observed = orphaned(&mine, false, 25);
    observed.lost.insert(name.clone(), mine.clone());
    assert_eq!(found(observed), (vec![name], vec![]));
}

#[test]
fn a_plan_removes_no_consumer_that_nobody_ended() {
    let settings: Settings = [("bus", "payments"), ("subject", "payments.{tenant}.{event-type}")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let policy = Policy::from_settings("policy", &settings).unwrap();
    let mine = registered("work", 20);
    let name = mine.subscription.name.clone();
    let goes = |observed: &Observed| {
        let plan = plan_around(&policy, Asked::default(), observed, Timestamp::from_nanoseconds(30));
        let mut steps = plan.steps.iter();
        steps.any(|step| matches!(step, Step::DeleteConsumer { .. }))
    };
    // Whatever was found out of it before.
    let mut observed = orphaned(&mine, false, 25);
    assert!(!goes(&observed));
    observed.ended.insert(name.clone(), ended(Some(20), 99));
    assert!(goes(&observed));

    let mut lost = orphaned(&mine, true, 25);
    lost.find_unregistered();
    let plan = plan_around(&policy, Asked::default(), &lost, Timestamp::from_nanoseconds(30));
    let goes_on = |r: &Registered| r.id() == mine.id();
    assert!(plan.registry.get(&name).is_some_and(goes_on));
    let written = |step: &Step| matches!(step, Step::Remember(r) if goes_on(r));
    assert!(plan.steps.iter().any(written) && !goes(&lost));
}
