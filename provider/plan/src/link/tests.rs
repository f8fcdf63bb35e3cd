use super::*;
use crate::place::Scope;

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn declare(interfaces: &[&str], pairs: &[(&str, &str)]) -> Result<Subscription, Vec<Problem>> {
    let policy = Policy::from_settings(
        "policy",
        &settings(&[("bus", "b"), ("subject", "b.{tenant}.{event-type}")]),
    )
    .unwrap();
    let interfaces: Vec<String> = interfaces.iter().map(|i| (*i).to_owned()).collect();
    declared_subscription("link x", "worker", &interfaces, &settings(pairs), &policy)
}

/// The same of a link to a bus elsewhere.
fn declare_elsewhere(pairs: &[(&str, &str)]) -> Result<Subscription, Vec<Problem>> {
    let policy = Policy::from_settings(
        "policy",
        &settings(&[("bus", "b"), ("subject", "b.{tenant}.{event-type}")]),
    )
    .unwrap();
    declared_at_a_bus_elsewhere("link x", "worker", &["handler".to_owned()], &settings(pairs), &policy)
}

#[test]
fn whether_a_bus_elsewhere_has_places_is_for_that_bus_to_say() {
    let local = [("subscription", "a"), ("need", "durable"), ("scope", "here")];
    let refused = declare(&["handler"], &local).unwrap_err();
    assert_eq!(refused[0].code, Code::ConflictingSettings);
    assert_eq!(declare_elsewhere(&local).unwrap().scope, Scope::Here);
    let placed = [("subscription", "a"), ("need", "durable"), ("at", "virginia")];
    let refused = declare_elsewhere(&placed).unwrap_err();
    assert_eq!(refused[0].code, Code::ConflictingSettings);
    assert!(refused[0].message.contains("leave `at` out"), "{refused:?}");
}

#[test]
fn a_declared_subscription_takes_the_bus_defaults() {
    let s = declare(
        &["batch-handler"],
        &[("subscription", "invoicing"), ("need", "durable")],
    )
    .unwrap();
    assert_eq!((s.batch_size, s.concurrency, s.tell_caught_up), (100, 16, false));
    let s = declare(
        &["handler", "backfill-handler"],
        &[
            ("subscription", "a"),
            ("need", "backfill"),
            ("start", "position:0/7"),
            ("tenants", "b,a"),
        ],
    )
    .unwrap();
    assert_eq!((s.batch_size, s.tell_caught_up), (1, true));
    assert_eq!(
        s.need,
        Need::Backfill {
            start: Start::Position(crate::Position::undivided(7)),
            end: None
        }
    );
}

#[test]
fn every_problem_of_a_link_is_named() {
    let problems = declare(
        &["handler", "batch-handler"],
        &[
            ("need", "durable"),
            ("start", "first"),
            ("tenants", "a,,b"),
            ("concurrency", "0"),
            ("x", "y"),
        ],
    )
    .unwrap_err();
    let codes: Vec<_> = problems.iter().map(|p| p.code).collect();
    assert_eq!(
        codes,
        [
            Code::MissingSetting,
            Code::InvalidTenant,
            Code::InvalidSetting,
            Code::ConflictingSettings,
            Code::ConflictingSettings,
            Code::UnknownSetting
        ]
    );
    for bad in [
        &[("subscription", "q"), ("need", "backfill"), ("start", "position:1/0")][..],
        &[
            ("subscription", "q"),
            ("need", "backfill"),
            ("start", "position:0/7"),
            ("end", "position:0/3"),
        ],
    ] {
        declare(&["handler"], bad).unwrap_err();
    }
    declare(&["batch-handler"], &[("subscription", "q"), ("need", "queue")]).unwrap_err();
}

#[test]
fn a_grant_must_name_its_tenants() {
    let publisher = ["publisher".to_owned()];
    let problems = Grant::from_settings("link x", &publisher, &settings(&[])).unwrap_err();
    assert_eq!(problems[0].code, Code::MissingSetting);
    let grant = Grant::from_settings("link x", &publisher, &settings(&[("tenants", "acme")])).unwrap();
    assert!(grant.publish && !grant.subscribe);
    assert!(grant.allows.allows(&"acme".parse().unwrap(), &"a.b".parse().unwrap()));
    assert!(!grant.allows.allows(&"other".parse().unwrap(), &"a.b".parse().unwrap()));
    assert_eq!(
        grant.narrow(Filter::all(), "x", "default").unwrap(),
        grant.allows,
        "everything that is allowed"
    );
    let other = Filter::new(vec!["other".parse().unwrap()], vec![]);
    let refused = |caller| grant.narrow(other.clone(), caller, "default").unwrap_err();
    assert_eq!(refused("x").code, Code::TenantNotPermitted);
    for (caller, names) in [
        ("x", "the link's `tenants`"),
        ("caller:billing", "`callers.billing.subscribe.tenants`"),
    ] {
        assert!(refused(caller).message.ends_with(names), "{}", refused(caller).message);
    }
}

#[test]
fn a_place_in_the_log_is_written_one_way_everywhere_and_is_read_as_it_is_printed() {
    let places = [
        Start::First,
        Start::Time(Timestamp::from_nanoseconds(1_000_000_000)),
        Start::Position(crate::Position::undivided(42)),
    ];
    for place in places {
        assert_eq!(start(&place.to_string()).unwrap(), place);
    }
    assert_eq!(start("time:1970-01-01T00:00:01Z").unwrap(), places[1]);
    assert_eq!(start("position:0/42").unwrap(), places[2]);
    assert_eq!(end("0/42").unwrap(), End::Position(crate::Position::undivided(42)));
    assert_eq!(
        end("1970-01-01T00:00:01Z").unwrap(),
        End::Time(Timestamp::from_nanoseconds(1_000_000_000))
    );
    for bad in [
        "",
        "yesterday",
        "0/0",
        "42",
        "time:0/42",
        "position:1970-01-01T00:00:01Z",
    ] {
        assert!(start(bad).is_err() && end(bad).is_err(), "{bad}");
    }
    assert!(end("first").is_err());
}
