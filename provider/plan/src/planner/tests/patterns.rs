//! Plans for subscriptions with an event pattern.

use super::*;

fn patterned(name: &str, types: &[&str], pattern: &str) -> Wanted {
    let mut wanted = want(name, Need::Durable, name);
    let types = types.iter().map(|t| t.parse().unwrap()).collect();
    let filter = Filter::new(vec![], types).with_pattern(Some(pattern.parse().unwrap()));
    wanted.subscription.filter = filter.unwrap();
    wanted
}

#[test]
fn the_server_is_asked_for_what_a_pattern_can_match_and_for_no_more() {
    let of = |types: &[&str], pattern: &str| {
        let plan = plan(&policy(&[]), &[patterned("a", types, pattern)], &Observed::default(), 1).unwrap();
        let made = plan.steps.iter().filter_map(|step| match step {
            Step::CreateConsumer(c) => Some(c.filter_subjects.join(" ")),
            _ => None,
        });
        let made: Vec<_> = made.collect();
        made.join("; ").replace("payments.", "").replace(".webhook.", " ")
    };
    for (types, pattern, asked) in [
        (&[][..], r#"{"data":{"amount":[{"numeric":[">",5]}]}}"#, "* >"),
        (
            &["invoice.*"],
            r#"{"data":{"amount":[{"numeric":[">",5]}]}}"#,
            "* invoice.*",
        ),
        (
            &[],
            r#"{"type":["invoice.paid","charge.failed"]}"#,
            "* charge.failed * invoice.paid",
        ),
        (
            &["invoice.**"],
            r#"{"type":["invoice.paid","charge.failed"]}"#,
            "* invoice.paid",
        ),
        (
            &["*.paid", "*.failed"],
            r#"{"type":[{"prefix":"invoice."}]}"#,
            "* invoice.failed * invoice.paid",
        ),
        (
            &[],
            r#"{"tenant":["acme","globex"],"type":[{"prefix":"inv"}]}"#,
            "acme > globex >",
        ),
        (
            &["invoice.*"],
            r#"{"tenant":["acme"],"type":[{"suffix":".paid"}]}"#,
            "acme invoice.*",
        ),
        (&[], r#"{"$or":[{"tenant":["acme"]},{"type":["invoice.paid"]}]}"#, "* >"),
    ] {
        assert_eq!(of(types, pattern), asked, "{types:?} {pattern}");
    }
}

#[test]
fn a_pattern_of_many_types_costs_the_server_no_more_than_the_filter_beside_it() {
    let types: Vec<_> = (0..500).map(|i| format!("\"type-{i}\"")).collect();
    let of_types = format!(r#"{{"type":[{}]}}"#, types.join(","));
    let tenants: Vec<_> = (0..150).map(|i| format!("\"tenant-{i}\"")).collect();
    let of_both = format!(r#"{{"type":["a","b"],"tenant":[{}]}}"#, tenants.join(","));
    for (pattern, filters) in [(&of_types, 1), (&of_both, 2)] {
        let filter = Filter::all().with_pattern(Some(pattern.parse().unwrap())).unwrap();
        assert_eq!(
            filter
                .subject_filters(&"p.{tenant}.{event-type}".parse().unwrap())
                .len(),
            filters
        );
    }
    // Whether it can match at all is known however long it is.
    let other = Filter::new(vec![], vec!["other.*".parse().unwrap()]);
    let refused = other.with_pattern(Some(of_types.parse().unwrap())).unwrap_err();
    assert_eq!(refused.code, Code::PatternMatchesNothing);
    let globex = Filter::new(vec!["globex".parse().unwrap()], vec![]);
    let refused = globex.with_pattern(Some(of_both.parse().unwrap())).unwrap_err();
    assert_eq!(refused.code, Code::PatternMatchesNothing);
}

#[test]
fn a_changed_pattern_is_a_changed_subscription() {
    let policy = policy(&[]);
    let before = [patterned("invoicing", &["invoice.*"], r#"{"data":{"amount":[5]}}"#)];
    let observed = bus(&policy, &before, 7);
    assert_eq!(shown(&plan(&policy, &before, &observed, 2).unwrap()), "");
    let spaced = [patterned(
        "invoicing",
        &["invoice.*"],
        r#"{ "data": {"amount" : [ 5 ]}}"#,
    )];
    assert_eq!(
        shown(&plan(&policy, &spaced, &observed, 2).unwrap()),
        "",
        "spaces mean nothing"
    );
    let after = [patterned("invoicing", &["invoice.*"], r#"{"data":{"amount":[6]}}"#)];
    let steps = plan(&policy, &after, &observed, 2).unwrap();
    expect![[r#"
        remember durable subscription invoicing of component invoicing
        update consumer invoicing to payments.*.webhook.invoice.*
    "#]]
    .assert_eq(&shown(&steps));
    let done = applied(&steps, &observed);
    assert_eq!(shown(&plan(&policy, &after, &done, 3).unwrap()), "");
    let narrower = [patterned(
        "invoicing",
        &["invoice.*"],
        r#"{"type":["invoice.paid"],"data":{"amount":[6]}}"#,
    )];
    expect![[r#"
        remember durable subscription invoicing of component invoicing
        update consumer invoicing to payments.*.webhook.invoice.paid
    "#]]
    .assert_eq(&shown(&plan(&policy, &narrower, &done, 3).unwrap()));
}

#[test]
fn on_a_work_queue_patterns_part_subscriptions_only_by_their_subjects() {
    let queue = policy(&[("topology", "work-queue")]);
    let of_amount =
        |name, amount: u32| patterned(name, &["invoice.*"], &format!(r#"{{"data":{{"amount":[{amount}]}}}}"#));
    let refused = plan(&queue, &[of_amount("a", 5), of_amount("b", 6)], &Observed::default(), 1);
    assert_eq!(refused.unwrap().refused[&1].code, Code::ConflictingSettings);
    let of_type = |name, event_type: &str| patterned(name, &["invoice.*"], &format!(r#"{{"type":["{event_type}"]}}"#));
    let both = [of_type("a", "invoice.paid"), of_type("b", "invoice.voided")];
    assert_eq!(
        plan(&queue, &both, &Observed::default(), 1).unwrap().refused,
        BTreeMap::new()
    );
}

#[test]
fn a_pattern_counts_among_what_a_subscription_takes() {
    let values: Vec<_> = (0..2_000).map(|i| format!("\"value-{i}\"")).collect();
    let long = format!(r#"{{"subject":[{}]}}"#, values.join(","));
    let few = policy(&[("limits.bytes-per-subscription", "8KiB")]);
    let wanted = [patterned("a", &[], &long)];
    assert_eq!(
        plan(&few, &wanted, &Observed::default(), 1).unwrap().refused[&0].code,
        Code::LimitExceeded
    );
    assert_eq!(
        plan(&policy(&[]), &wanted, &Observed::default(), 1).unwrap().refused,
        BTreeMap::new()
    );
}
