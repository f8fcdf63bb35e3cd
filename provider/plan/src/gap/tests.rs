use proptest::prelude::*;

use super::lost::MAX_TENANTS;
use super::*;

fn ns(nanoseconds: i64) -> Timestamp {
    Timestamp::from_nanoseconds(nanoseconds)
}

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// Everything that was delivered is settled.
fn at(first: u64, delivered_to: u64) -> Observation {
    Observation {
        wants_all: true,
        made_at: ns(1),
        first,
        head: delivered_to,
        delivered_to,
        given: delivered_to,
        settled_to: delivered_to,
        only_ages: false,
        oldest: None,
    }
}

const NOTHING: Advisories<'_> = Advisories {
    unsettled: &BTreeSet::new(),
    all: true,
};

#[test]
fn what_waited_in_a_log_that_is_another_now_is_lost() {
    let mut gap = Gap::default();
    let waits = Expiring {
        offset: 6,
        expires_at: ns(1_000),
        isolated: false,
    };
    let before = Observation {
        made_at: ns(1),
        head: 8,
        settled_to: 5,
        oldest: Some(waits),
        ..at(1, 5)
    };
    assert_eq!(gap.observe(&before, NOTHING, ns(0), ns(5)), None);
    let after = Observation {
        made_at: ns(2),
        ..at(1, 2)
    };
    let lost = gap.observe(&after, NOTHING, ns(0), ns(6)).unwrap();
    assert_eq!((lost.from, lost.to, lost.exact), (6, 8, false));
    assert_eq!(gap.observe(&after, NOTHING, ns(0), ns(7)), None, "reported once");
    assert_eq!((gap.head, gap.oldest), (2, None));
}

#[test]
fn a_loss_is_reported_until_it_is_acknowledged_and_counted_for_ever() {
    let mut gap = Gap::default();
    assert_eq!((gap.acknowledge(), gap.has_lost()), (None, false));
    gap.note(1, tenant("acme"));
    gap.observe(&at(2, 0), NOTHING, ns(0), ns(5)).unwrap();
    assert!(gap.has_lost());
    assert_eq!(gap.acknowledge().map(|lost| lost.events), Some(1));
    assert_eq!((gap.lost.as_ref(), gap.seen_events, gap.has_lost()), (None, 1, true));
    gap.note(2, tenant("acme"));
    gap.observe(&at(3, 0), NOTHING, ns(0), ns(6)).unwrap();
    assert_eq!(
        (gap.lost.as_ref().map(|lost| lost.events), gap.seen_events),
        (Some(1), 1)
    );
}

#[test]
fn what_expires_undelivered_is_reported_by_position_and_tenant() {
    let mut gap = Gap::default();
    assert_eq!(gap.observe(&at(1, 2), NOTHING, ns(0), ns(0)), None);
    for (offset, name) in [(3, "acme"), (4, "acme"), (6, "globex")] {
        assert!(gap.note(offset, tenant(name)));
    }
    assert_eq!(
        gap.observe(&at(3, 2), NOTHING, ns(0), ns(1)),
        None,
        "what was delivered before may expire"
    );
    let lost = gap.observe(&at(5, 2), NOTHING, ns(0), ns(2)).unwrap();
    assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 4, 2, true));
    assert_eq!(lost.tenants, [(tenant("acme"), 2)].into());
    assert_eq!(lost.which, [(3, tenant("acme")), (4, tenant("acme"))]);
    assert!(
        gap.lost.as_ref().is_some_and(|lost| lost.which.is_empty()),
        "reported once"
    );
    let lost = gap.observe(&at(7, 2), NOTHING, ns(0), ns(3)).unwrap();
    assert_eq!((lost.from, lost.to, lost.events), (6, 6, 1));
    let all = gap.lost.clone().unwrap();
    assert_eq!(
        (all.from, all.to, all.events, all.exact, all.at),
        (3, 6, 3, true, ns(3))
    );
    assert_eq!(gap.observe(&at(7, 2), NOTHING, ns(0), ns(4)), None, "reported once");
}

#[test]
fn what_is_handled_at_the_last_moment_is_not_lost() {
    let mut gap = Gap::default();
    gap.observe(&at(1, 0), NOTHING, ns(0), ns(0));
    for offset in 1..=4 {
        gap.note(offset, tenant("acme"));
    }
    assert_eq!(
        gap.observe(&at(3, 4), NOTHING, ns(0), ns(1)).map(|l| l.exact),
        Some(false),
        "it may have been"
    );
    let mut gap = Gap::default();
    gap.observe(&at(1, 0), NOTHING, ns(0), ns(0));
    for offset in 1..=4 {
        gap.note(offset, tenant("acme"));
    }
    let lost = gap.observe(&at(4, 2), NOTHING, ns(0), ns(1)).unwrap();
    assert_eq!((lost.from, lost.events, lost.exact), (3, 1, true));
}

#[test]
fn what_was_delivered_and_never_settled_is_lost_too() {
    let delivered = Observation {
        settled_to: 1,
        ..at(1, 4)
    };
    let noted = || {
        let mut gap = Gap::default();
        gap.observe(&delivered, NOTHING, ns(0), ns(0));
        for offset in 2..=5 {
            gap.note(offset, tenant("acme"));
        }
        gap
    };
    let unsettled = [3].into();
    let advisories = Advisories {
        unsettled: &unsettled,
        all: true,
    };
    let mut gap = noted();
    let lost = gap.observe(&at(6, 4), advisories, ns(0), ns(1)).unwrap();
    assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 5, 2, true));
    assert_eq!(gap.observe(&at(6, 4), advisories, ns(0), ns(2)), None, "reported once");

    // The advisory comes after the observation.
    let mut gap = noted();
    let held = Observation {
        settled_to: 1,
        ..at(4, 4)
    };
    assert_eq!(gap.observe(&held, NOTHING, ns(0), ns(1)), None);
    assert!(gap.may_lose(3) && gap.may_lose(4));
    let lost = gap.observe(&held, advisories, ns(0), ns(1) + DOUBTED_FOR).unwrap();
    assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 3, 1, true));
    assert_eq!(gap.observe(&at(4, 4), advisories, ns(0), ns(2) + DOUBTED_FOR), None);
    assert!(!gap.may_lose(2), "it was settled");

    // Nobody listened.
    let deaf = Advisories {
        all: false,
        ..advisories
    };
    assert_eq!(
        noted().observe(&at(6, 4), deaf, ns(0), ns(1)).map(|l| l.exact),
        Some(false)
    );
}

#[test]
fn what_went_with_another_log_is_reported_and_nothing_else_of_it_is_remembered() {
    let mut gap = Gap::default();
    gap.observe(&at(1, 4), NOTHING, ns(0), ns(0));
    gap.note(6, tenant("acme"));
    let lost = gap.begin_anew(Some((5, 9)), ns(3)).unwrap();
    assert_eq!((lost.from, lost.to, lost.exact, lost.at), (5, 9, false, ns(3)));
    assert_eq!(gap.begin_anew(None, ns(4)), None);
    let left = Gap {
        lost: Some(lost),
        ..Gap::default()
    };
    assert_eq!(gap, left);
}

#[test]
fn what_two_consumers_lost_is_reported_together() {
    let lost = |from, to, who: &str, exact| Lost {
        from,
        to,
        events: 2,
        tenants: [(tenant(who), 2)].into(),
        exact,
        at: ns(i64::try_from(to).unwrap()),
        ..Lost::default()
    };
    let mut all = lost(5, 9, "acme", true);
    all.merge(&lost(3, 7, "acme", true));
    all.merge(&lost(8, 12, "globex", false));
    let tenants = [(tenant("acme"), 4), (tenant("globex"), 2)].into();
    assert_eq!(
        (all.from, all.to, all.events, all.exact, all.at),
        (3, 12, 6, false, ns(12))
    );
    assert_eq!(all.tenants, tenants);
}

#[test]
fn what_many_consumers_lost_names_a_bounded_number_of_tenants() {
    let of = |names: std::ops::Range<usize>| Lost {
        from: 1,
        to: 9,
        events: names.len() as u64,
        tenants: names.map(|i| (tenant(&format!("t{i}")), 1)).collect(),
        exact: true,
        at: ns(1),
        ..Lost::default()
    };
    let mut all = of(0..MAX_TENANTS);
    all.merge(&of(MAX_TENANTS - 1..MAX_TENANTS + 5));
    assert_eq!(all.tenants.len(), MAX_TENANTS);
    assert_eq!(
        all.tenants[&tenant(&format!("t{}", MAX_TENANTS - 1))],
        2,
        "those that are named go on"
    );
    assert_eq!(all.events, MAX_TENANTS as u64 + 6);
    assert!(!all.exact, "it is said that not all are named");
}

#[test]
fn a_loss_that_nobody_watched_is_reported_as_far_as_it_can_be() {
    let mut gap = Gap::default();
    let waits = Expiring {
        offset: 8,
        expires_at: ns(50),
        isolated: false,
    };
    let waiting = |oldest| Observation {
        oldest: Some(oldest),
        ..at(1, 5)
    };
    gap.observe(&waiting(waits), NOTHING, ns(0), ns(0));
    assert!(gap.is_near(ns(50)) && !gap.is_near(ns(49)));
    let lost = gap.observe(&at(20, 5), NOTHING, ns(1), ns(99)).unwrap();
    assert_eq!((lost.from, lost.to, lost.events, lost.exact), (8, 19, 0, false));

    // An operator's purge moves the consumer, and delivers nothing.
    let mut gap = Gap::default();
    gap.observe(&waiting(waits), NOTHING, ns(0), ns(0));
    let purged = Observation { given: 5, ..at(20, 19) };
    let lost = gap.observe(&purged, NOTHING, ns(1), ns(99)).unwrap();
    assert_eq!((lost.from, lost.to, lost.exact), (8, 19, false));
    assert_eq!(gap.observe(&purged, NOTHING, ns(1), ns(99)), None, "reported once");

    // So does it with what was in a subscriber's hands.
    let mut gap = Gap::default();
    let held = Observation {
        settled_to: 0,
        ..waiting(Expiring { offset: 3, ..waits })
    };
    gap.observe(&held, NOTHING, ns(0), ns(0));
    let gone = |only_ages| Observation {
        only_ages,
        ..at(20, 19)
    };
    assert_eq!(gap.clone().observe(&gone(false), NOTHING, ns(1), ns(9)), None);
    let lost = gap.observe(&gone(true), NOTHING, ns(1), ns(9)).unwrap();
    assert_eq!((lost.from, lost.to, lost.exact), (3, 19, false));

    // One that is isolated is reported by its tenant's consumer.
    let mut gap = Gap::default();
    gap.observe(
        &waiting(Expiring {
            isolated: true,
            ..waits
        }),
        NOTHING,
        ns(0),
        ns(0),
    );
    assert!(gap.is_near(ns(50)), "what lies behind it may be near its end too");
    assert_eq!(gap.observe(&at(20, 5), NOTHING, ns(1), ns(99)), None);
}

proptest! {
    /// While nothing is delivered, every noted event is reported exactly once, when it goes.
    #[test]
    fn nothing_is_reported_twice_or_forgotten(steps in proptest::collection::vec((1u64..20, 0u64..20), 1..30)) {
        let mut gap = Gap::default();
        gap.observe(&at(1, 0), NOTHING, ns(0), ns(0));
        let (mut head, mut first, mut reported) = (0, 1, 0);
        for (more, expire) in steps {
            for _ in 0..more {
                head += 1;
                gap.note(head, tenant(if head % 2 == 0 { "even" } else { "odd" }));
            }
            first = (first + expire).min(head + 1);
            if let Some(lost) = gap.observe(&at(first, 0), NOTHING, ns(0), ns(0)) {
                prop_assert!(lost.exact);
                prop_assert_eq!(lost.to, first - 1);
                reported += lost.events;
            }
            prop_assert_eq!(reported, first - 1);
            prop_assert_eq!(gap.noted.len() as u64, head - reported);
        }
        let by_tenant: u64 = gap.lost.iter().flat_map(|l| l.tenants.values()).sum();
        prop_assert_eq!(by_tenant, reported);
    }
}
