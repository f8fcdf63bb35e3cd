//! The journal of deliveries is made, changed and removed as the policy says.

use expect_test::expect;

use super::*;
use crate::cost::cost;
use crate::explain::{Load, explain};

fn planned(policy: &Policy, observed: &Observed) -> (Plan, String) {
    let plan = plan(policy, &[], observed, 1).unwrap();
    let steps = plan.steps.iter();
    let lines = steps.map(|s| format!("{s}\n  {}\n", cost(policy, observed, s).unwrap_or_default()));
    let of_journal = lines.filter(|line| line.contains("_journal"));
    let text = of_journal.collect();
    (plan, text)
}

#[test]
fn it_is_there_while_it_is_switched_on_and_has_the_bounds_that_it_is_given() {
    let off = policy(&[]);
    let nothing = Observed::default();
    let (plan, text) = planned(&off, &nothing);
    assert_eq!(text, "", "nothing is written down unless somebody asks");
    let observed = applied(&plan, &nothing);

    let errors = policy(&[("journal.deliveries", "errors")]);
    let (plan, text) = planned(&errors, &observed);
    expect![[r#"
        create stream fanout_payments_journal on fanout.journal.payments.> for 7d
          1 stream; at most 256.0 MiB of disk on each of 1 servers
    "#]]
    .assert_eq(&text);
    let others = plan.steps.iter().filter(|s| !s.to_string().contains("_journal"));
    let others: Vec<_> = others.map(ToString::to_string).collect();
    assert_eq!(
        others,
        ["update stream fanout_payments_dead"],
        "which says that the policy is another"
    );
    let observed = applied(&plan, &observed);
    assert_eq!(planned(&errors, &observed).1, "", "once");

    let all = policy(&[
        ("journal.deliveries", "all"),
        ("journal.max-age", "1d"),
        ("journal.max-bytes", "1GiB"),
    ]);
    let (plan, text) = planned(&all, &observed);
    expect![[r#"
        update stream fanout_payments_journal
          age 7d -> 1d, bytes 256.0 MiB -> 1.0 GiB
    "#]]
    .assert_eq(&text);
    let observed = applied(&plan, &observed);

    let (plan, text) = planned(&off, &observed);
    expect![[r#"
        delete stream fanout_payments_journal: nothing needs it any more
          1 stream less; what was written down of deliveries goes with it
    "#]]
    .assert_eq(&text);
    assert!(
        applied(&plan, &observed)
            .topology
            .streams
            .keys()
            .all(|name| !name.ends_with("_journal"))
    );
}

#[test]
fn what_it_costs_is_explained() {
    let shown = |more: &[(&str, &str)]| {
        let policy = policy(more);
        let topology = desired(&policy, &Observed::default()).unwrap();
        let load = Load {
            events_per_second: 100,
            event_bytes: 1_024,
        };
        let parts = explain(&policy, &topology, load);
        let part = parts.iter().find(|part| part.name.ends_with("_journal")).unwrap();
        format!("{}\n{}\n", part.why, part.cost)
    };
    expect![[r#"
        writes down deliveries that did not end well for 7d: when, by which instance, and how each ended
        1 stream; about 250 bytes for each delivery that did not end well, at most 256.0 MiB
    "#]]
    .assert_eq(&shown(&[("journal.deliveries", "errors")]));
    expect![[r#"
        writes down every delivery for 7d: when, by which instance, and how each ended
        1 stream; about 250 bytes for each delivery: 256.0 MiB for each subscription at 100 events/s, at most 256.0 MiB; `journal.max-bytes` is reached after 10737s with one subscription, before `journal.max-age`
    "#]]
    .assert_eq(&shown(&[("journal.deliveries", "all")]));
}

#[test]
fn deliveries_go_on_as_they_are_when_it_is_switched() {
    let off = policy(&[]);
    for to in ["errors", "all"] {
        assert!(off.delivers_like(&policy(&[("journal.deliveries", to)])), "{to}");
    }
    let wrong: Settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
        ("journal.deliveries", "some"),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect();
    let problems = Policy::from_settings("policy", &wrong).unwrap_err();
    assert!(problems[0].message.contains("off, errors, all"), "{problems:?}");
}
