use super::*;
use crate::Settings;
use crate::planner::{self, Asked, Observed};
use crate::withheld::Withheld;

const LOAD: Load = Load {
    events_per_second: 10,
    event_bytes: 1024,
};

fn policy(extra: &[(&str, &str)]) -> Policy {
    let settings: Settings = [("bus", "b"), ("subject", "b.{tenant}.{event-type}")]
        .iter()
        .chain(extra)
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Policy::from_settings("policy", &settings).unwrap()
}

fn made(policy: &Policy) -> (Topology, BTreeMap<SubscriptionName, Registered>) {
    let nothing = Observed::default();
    let plan = planner::plan(policy, Asked::default(), &nothing, crate::Timestamp::EPOCH).unwrap();
    (planner::desired(policy, &nothing).unwrap(), plan.registry)
}

fn shown(notes: &[Note]) -> String {
    notes
        .iter()
        .map(|n| format!("{}: {}: {}\n", n.severity, n.about, n.message))
        .collect()
}

#[test]
fn what_the_planner_makes_has_no_fault() {
    for shape in ["shared", "sharded(3)", "per-tenant", "work-queue"] {
        let policy = policy(&[
            ("topology", shape),
            ("tenants.allowed", "acme,globex"),
            ("subscriptions.invoicing.need", "durable"),
        ]);
        let (topology, registry) = made(&policy);
        let notes = check(&policy, &topology, &registry, LOAD);
        assert!(
            notes.iter().all(|n| n.severity == Severity::Advice),
            "{shape}: {}",
            shown(&notes)
        );
    }
}

#[test]
fn what_was_handed_over_to_another_place_is_not_missed_here() {
    let policy = policy(&[("subscriptions.invoicing.need", "durable")]);
    let (mut topology, mut registry) = made(&policy);
    topology.consumers.clear();
    let faults = |registry: &BTreeMap<_, _>| {
        let notes = check(&policy, &topology, registry, LOAD);
        notes.iter().filter(|n| n.severity == Severity::Fault).count()
    };
    assert_eq!(faults(&registry), 1);
    for registered in registry.values_mut() {
        registered.withheld = Some(Withheld::MovedTo("virginia".parse().unwrap()));
    }
    assert_eq!(faults(&registry), 0);
}

#[test]
fn every_kind_of_damage_is_found() {
    let policy = policy(&[
        ("topology", "sharded(2)"),
        ("subscriptions.invoicing.need", "durable"),
        ("retention.when-full", "drop-oldest"),
        ("retry.schedule", "1d"),
        ("retry.max-attempts", "9"),
    ]);
    let (mut topology, mut registry) = made(&policy);
    topology.streams.remove("fanout_b_log_1");
    let log = topology.streams.get_mut("fanout_b_log").unwrap();
    log.subjects.push("fanout.dead.b.x".to_owned());
    let c = topology.consumers.get_mut(&(0, "invoicing=i1".into())).unwrap();
    c.filter_subjects.push("b.acme.>".to_owned());
    let mut stray = c.clone();
    stray.name = "stray".into();
    stray.filter_subjects = vec!["c.>".to_owned()];
    topology.consumers.insert((0, "stray".into()), stray);
    let mut other = registry.values().next().unwrap().clone();
    other.subscription.name = "analytics".parse().unwrap();
    registry.insert(other.subscription.name.clone(), other);
    let load = Load {
        events_per_second: 10_000,
        event_bytes: 1024,
    };
    expect_test::expect![[r#"
            fault: consumer invoicing=i1 of partition 0: its filters b.acme.> and b.*.> meet: the server refuses it (10138)
            fault: consumer invoicing=i1 of partition 1: its stream is not there
            fault: consumer stray of partition 0: nothing on c.> is stored in its stream
            fault: fanout_b_log: its subject fanout.dead.b.x meets fanout.dead.b.> of stream fanout_b_dead: the server refuses the second (10065)
            fault: shard 1 of 2: it is not there: the tenants that fall to it can't publish; apply the policy again
            fault: subscription analytics: nothing reads partition 0 for it: apply the policy again
            warning: consumer stray of partition 0: no subscription is remembered for it: if it was ended, the next plan removes it, else it is left alone
            warning: fanout_b_log: `retention.when-full` = `drop-oldest` drops what durable subscriptions analytics, invoicing have not handled: use `refuse`
            warning: retry.schedule: its attempts take 8d, and events are kept for 7d: an event can expire before it becomes a dead letter; shorten the schedule, or raise `retention.max-age`
            advice: dedupe.window: at 10000 events a second the server remembers 36000000 ids, some 8789 MiB of memory: shorten it, if repeats come sooner
            advice: fanout_b_log: one copy: with its server's disk its events are gone; on a cluster of three or more set `retention.replicas` = 3
        "#]].assert_eq(&shown(&check(&policy, &topology, &registry, load)));
}
