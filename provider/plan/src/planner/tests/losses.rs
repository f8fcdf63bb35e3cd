//! Plans that would lose events, and logs that are other logs than they were.

use expect_test::expect;

use super::*;

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
        again.logs.get_mut(&0).unwrap().made_at = Timestamp::from_nanoseconds(made_at);
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
fn a_setting_that_would_lose_events_is_left_out_and_the_rest_is_applied() {
    let nothing = Observed::default();
    let full = at(applied(&plan(&policy(&[]), &[], &nothing, 1).unwrap(), &nothing), 10);
    let shorter = policy(&[("retention.max-age", "1d"), ("retention.compression", "s2")]);
    let plan = plan_around(&shorter, Asked::default(), &full, 2 * DAY);
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
    let again = plan_around(&shorter, Asked::default(), &done, 2 * DAY);
    assert!(again.steps.is_empty() && again.problems == plan.problems);
}
