//! What the store is asked for because of a pattern: at least every event that matches, and, where it is said so, no other.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Pattern, View};
use crate::subject::meet;
use crate::{EventType, Filter, RawEvent, SubjectTemplate, TenantId, TypePattern};

/// What a pattern says of a text, by its first character.
fn wanted(text: &str) -> Value {
    match text.split_at(1) {
        ("=", whole) => json!(whole),
        ("e", whole) => json!({"exactly": whole}),
        ("<", start) => json!({"prefix": start}),
        (">", end) => json!({"suffix": end}),
        ("w", parts) => json!({"wildcard": parts.replace("**", "*")}),
        ("i", same) => json!({"equals-ignore-case": same}),
        ("n", but) => json!({"anything-but": but}),
        (_, start) => json!({"anything-but": {"prefix": format!("{start}a")}}),
    }
}

fn of_type() -> impl Strategy<Value = Vec<Value>> {
    let one = prop_oneof![
        3 => "[=e<>in~][ab]{0,2}(\\.[ab*]{0,2}){0,2}",
        2 => "w[ab*]{0,2}(\\.[ab*]{0,2}){0,2}",
    ];
    proptest::collection::vec(one.prop_map(|text| wanted(&text)), 1..4)
}

fn of_tenant() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec("[=e<>win~][abc]{0,1}".prop_map(|text| wanted(&text)), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn narrowing_never_loses_a_match(
        (types, tenants) in (of_type(), of_tenant()),
        choose in any::<bool>(),
        asked_tenants in proptest::collection::vec("[abc]{1,2}", 0..3),
        asked_types in proptest::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,2}(\\.\\*\\*)?", 0..4),
        (tenant, event_type) in ("[abc]{1,2}", "[ab*]{1,2}(\\.[ab*]{0,2}){0,3}"),
    ) {
        let pattern = match (choose, tenants.is_empty()) {
            (false, true) => json!({"type": types}),
            (false, false) => json!({"type": types, "tenant": tenants}),
            (true, true) => json!({"$or": [{"type": types}, {"subject": ["x"], "type": ["a.b"]}]}),
            (true, false) => json!({"$or": [{"type": types}, {"tenant": tenants}]}),
        };
        let pattern: Pattern = pattern.to_string().parse().unwrap();
        let Ok(of_type) = event_type.parse::<EventType>() else { return Ok(()) };
        let of_tenant: TenantId = tenant.parse().unwrap();
        let event = RawEvent { tenant, event_type, ..super::event() };
        let is_match = pattern.matches(View { event: &event, data: b"" });
        if is_match {
            let narrowed = pattern.narrowed();
            prop_assert!(narrowed.allows(&of_tenant, &of_type), "{} and {:?}", pattern, narrowed);
        }

        let asked = Filter::new(
            asked_tenants.iter().map(|t| t.parse().unwrap()).collect(),
            asked_types.iter().map(|p| p.parse().unwrap()).collect(),
        );
        let is_asked_for = asked.allows(&of_tenant, &of_type);
        let Ok(filter) = asked.clone().with_pattern(Some(pattern.clone())) else {
            prop_assert!(!(is_match && is_asked_for), "{} on {:?} can match", pattern, asked);
            return Ok(());
        };
        let template: SubjectTemplate = "p.{tenant}.{event-type}".parse().unwrap();
        let subject = template.subject(&of_tenant, &of_type);
        let passes = filter.subject_filters(&template).iter().any(|f| meet(f, &subject));
        if is_match && is_asked_for {
            prop_assert!(filter.may_match(&of_tenant, &of_type), "{} on {:?} loses {:?}", pattern, filter, event);
            prop_assert!(passes, "{} on {:?} loses {}", pattern, filter, subject);
        }
        if filter.subjects_say_all() && passes {
            prop_assert!(is_match && is_asked_for, "{} on {:?} lets {} through", pattern, filter, subject);
        }
    }
}

#[test]
fn a_pattern_narrows_tenants_and_types() {
    for (pattern, tenants, types) in [
        (r#"{"type":["invoice.paid"]}"#, &[][..], &["invoice.paid"][..]),
        (r#"{"type":[{"exactly":"invoice.paid"}]}"#, &[], &["invoice.paid"]),
        (
            r#"{"type":[{"prefix":"customer.subscription."}]}"#,
            &[],
            &["customer.subscription.**"],
        ),
        (r#"{"type":[{"prefix":"customer.sub"}]}"#, &[], &["customer.**"]),
        (r#"{"type":[{"prefix":"cust"}]}"#, &[], &["**"]),
        (r#"{"type":[{"wildcard":"customer.*"}]}"#, &[], &["customer.**"]),
        (r#"{"type":[{"wildcard":"customer.sub*.paid"}]}"#, &[], &["customer.**"]),
        (r#"{"type":[{"wildcard":"customer.paid"}]}"#, &[], &["customer.paid"]),
        (r#"{"type":[{"wildcard":"customer\\*.*"}]}"#, &[], &["**"]),
        (r#"{"type":[{"wildcard":"cust*.paid"}]}"#, &[], &["**"]),
        (r#"{"type":[{"wildcard":"*.paid"}]}"#, &[], &["**"]),
        (r#"{"type":["a",{"suffix":"b"}]}"#, &[], &["**"]),
        (r#"{"type":["a"],"tenant":["t","u"]}"#, &["t", "u"], &["a"]),
        (r#"{"tenant":[{"wildcard":"t"}]}"#, &["t"], &["**"]),
        (r#"{"tenant":[{"prefix":"t"}]}"#, &[], &["**"]),
        (
            r#"{"$or":[{"type":["a"]},{"type":["b"],"tenant":["t"]}]}"#,
            &[],
            &["a", "b"],
        ),
        (r#"{"$or":[{"type":["a"]},{"tenant":["t"]}]}"#, &[], &["**"]),
        (r#"{"data":{"x":[1]}}"#, &[], &["**"]),
    ] {
        let narrowed = pattern.parse::<Pattern>().unwrap().narrowed();
        let shown = |names: Vec<String>| names.join(" ");
        assert_eq!(
            shown(narrowed.tenants.iter().map(ToString::to_string).collect()),
            tenants.join(" "),
            "{pattern}"
        );
        assert_eq!(
            shown(narrowed.event_types.iter().map(ToString::to_string).collect()),
            types.join(" "),
            "{pattern}"
        );
    }
}

/// Tenants and types that a filter lists are tried on the pattern, whatever it says of them.
#[test]
fn what_is_listed_beside_a_pattern_is_narrowed_by_all_of_it() {
    let asked = || {
        Filter::new(
            ["acme-1", "acme-2", "globex"].map(|t| t.parse().unwrap()).to_vec(),
            ["charge.failed", "invoice.paid", "refund.*"]
                .map(|p| p.parse().unwrap())
                .to_vec(),
        )
    };
    for (pattern, tenants, types, says_all) in [
        (
            r#"{"tenant":[{"prefix":"acme-"}]}"#,
            "acme-1 acme-2",
            "charge.failed invoice.paid refund.*",
            true,
        ),
        (
            r#"{"tenant":[{"anything-but":"globex"}]}"#,
            "acme-1 acme-2",
            "charge.failed invoice.paid refund.*",
            true,
        ),
        (
            r#"{"type":[{"suffix":".paid"}]}"#,
            "acme-1 acme-2 globex",
            "invoice.paid refund.*",
            false,
        ),
        (
            r#"{"type":[{"prefix":"refund."}]}"#,
            "acme-1 acme-2 globex",
            "refund.*",
            true,
        ),
        (
            r#"{"type":["invoice.paid","x"],"tenant":[{"suffix":"2"}]}"#,
            "acme-2",
            "invoice.paid",
            true,
        ),
        (
            r#"{"type":["invoice.paid"],"data":{"a":[1]}}"#,
            "acme-1 acme-2 globex",
            "invoice.paid",
            false,
        ),
        (
            r#"{"type":["invoice.paid"],"subject":["x"]}"#,
            "acme-1 acme-2 globex",
            "invoice.paid",
            false,
        ),
    ] {
        let filter = asked().with_pattern(Some(pattern.parse().unwrap())).unwrap();
        let (of_tenants, of_types) = filter.passing_lists();
        let listed = |names: Vec<&str>| names.join(" ");
        assert_eq!(
            listed(of_tenants.iter().map(TenantId::as_str).collect()),
            tenants,
            "{pattern}"
        );
        assert_eq!(
            listed(of_types.iter().map(TypePattern::as_str).collect()),
            types,
            "{pattern}"
        );
        assert_eq!(filter.subjects_say_all(), says_all, "{pattern}");
    }
    for nothing in [
        r#"{"tenant":[{"suffix":"3"}]}"#,
        r#"{"type":[{"suffix":".paid"},"x"],"tenant":["initech"]}"#,
        r#"{"type":[{"wildcard":"invoice.v*"}]}"#,
    ] {
        let refused = asked().with_pattern(Some(nothing.parse().unwrap()));
        assert!(refused.is_err(), "{nothing}");
    }
    let exact = Filter::new(vec![], vec!["invoice.paid".parse().unwrap()]);
    let refused = exact.with_pattern(Some(r#"{"type":[{"suffix":".failed"}]}"#.parse().unwrap()));
    assert_eq!(refused.unwrap_err().code, crate::Code::PatternMatchesNothing);
}
