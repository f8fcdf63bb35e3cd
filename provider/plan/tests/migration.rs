//! What goes from one store to another, and what does not: judged by what the streams are, and by what the other store holds.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::{BTreeMap, BTreeSet};

use fanout_plan::account::{Account, Bound, Budget};
use fanout_plan::in_force::is_another;
use fanout_plan::migration::{refusals, unsupported_part};
use fanout_plan::partition::{Binding, Keeps, Layout, Partition, Slot};
use fanout_plan::planner::Observed;
use fanout_plan::topology::{Topology, topology};
use fanout_plan::{Code, Policy, Settings, Timestamp, layout};

const MIB: u64 = 1 << 20;

fn policy(more: &[(&str, &str)]) -> Policy {
    let fixed = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
        ("retention.max-bytes", "64MiB"),
    ];
    let all = fixed.iter().chain(more);
    let all: Settings = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Policy::from_settings("policy", &all).unwrap()
}

/// What a store holds of a bus that was brought to a policy, as a migration takes it along.
fn held(policy: &Policy) -> Topology {
    let layout = layout::next(policy, &Layout::default(), &BTreeSet::new(), Timestamp::EPOCH).unwrap();
    let mut all = topology(policy, &layout, std::iter::empty());
    all.buckets.remove(&policy.names().leases());
    all
}

fn bytes(of: &Topology) -> u64 {
    let streams = of.streams.values().map(|s| s.max_bytes);
    streams.chain(of.buckets.values().map(|b| b.max_bytes)).sum()
}

fn codes(policy: &Policy, bus: &Topology, target: &Observed) -> Vec<Code> {
    refusals(policy, bus, target).into_iter().map(|p| p.code).collect()
}

#[test]
fn subjects_are_those_of_the_streams_whatever_the_policy_says() {
    let bus = held(&policy(&[]));
    let taken = Observed {
        others: BTreeMap::from([("FOREIGN".to_owned(), vec!["payments.acme.>".to_owned()])]),
        ..Observed::default()
    };
    let another = policy(&[("subject", "orders.{tenant}.{event-type}")]);
    for given in [policy(&[]), another] {
        let problems = refusals(&given, &bus, &taken);
        assert!(
            problems.len() == 1 && problems[0].code == Code::SubjectTaken && problems[0].message.contains("FOREIGN"),
            "{problems:?}"
        );
    }
    // Each kind of stream has subjects.
    for subject in [
        "fanout.dead.payments.x",
        "$KV.fanout_payments_registry.x",
        "fanout.retry.payments.>",
    ] {
        let taken = Observed {
            others: BTreeMap::from([("FOREIGN".to_owned(), vec![subject.to_owned()])]),
            ..Observed::default()
        };
        assert_eq!(codes(&policy(&[]), &bus, &taken), [Code::SubjectTaken], "{subject}");
    }
}

#[test]
fn copies_that_are_there_are_counted_once_and_a_bound_that_was_lowered_is_seen() {
    let policy = policy(&[]);
    let bus = held(&policy);
    let with = |limit: u64, taken: u64, copies: &Topology| Observed {
        account: Some(Account {
            tiers: BTreeMap::from([(
                String::new(),
                Budget {
                    disk: Bound {
                        limit: Some(limit),
                        taken,
                    },
                    streams: Bound {
                        limit: Some((bus.streams.len() + bus.buckets.len() + 1) as u64),
                        taken: (copies.streams.len() + copies.buckets.len()) as u64,
                    },
                    ..Budget::default()
                },
            )]),
        }),
        topology: copies.clone(),
        ..Observed::default()
    };
    let needed = bytes(&bus);
    let none = Topology::default();
    assert!(codes(&policy, &bus, &with(needed, 0, &none)).is_empty());
    assert_eq!(codes(&policy, &bus, &with(needed - 1, 0, &none)), [Code::AccountLimit]);
    assert_eq!(
        codes(&policy, &bus, &with(needed + 7 * MIB, 8 * MIB, &none)),
        [Code::AccountLimit]
    );
    // The same once all is copied: what the copies take is the bus's.
    assert!(codes(&policy, &bus, &with(needed, needed, &bus)).is_empty());
    assert_eq!(
        codes(&policy, &bus, &with(needed - 1, needed, &bus)),
        [Code::AccountLimit]
    );
    // And once some are.
    let mut some = bus.clone();
    some.streams.retain(|name, _| name.ends_with("_log"));
    assert!(codes(&policy, &bus, &with(needed, bytes(&some), &some)).is_empty());
    assert_eq!(
        codes(&policy, &bus, &with(needed - 1, bytes(&some), &some)),
        [Code::AccountLimit]
    );
}

#[test]
fn what_can_t_go_is_told_by_the_parts_of_the_log() {
    let policy = policy(&[]);
    let whole = Partition::undivided(policy.subject.clone());
    let shard = Slot::Shard { index: 1, of: 2 };
    let tenant = Slot::Tenant("acme".parse().unwrap());
    let retired = Binding::Retired(Timestamp::EPOCH);
    let (ours, theirs) = (Some("frankfurt".parse().unwrap()), Some("shop".parse().unwrap()));
    let of = |change: &dyn Fn(&mut Partition)| {
        let mut part = whole.clone();
        change(&mut part);
        unsupported_part(&policy, &part).map(|p| p.code)
    };
    let refused = Some(Code::NotMigratable);
    assert_eq!(of(&|_| ()), None);
    assert_eq!(of(&|p| p.slot = shard.clone()), None);
    assert_eq!(of(&|p| p.place.clone_from(&ours)), refused);
    assert_eq!(
        of(&|p| (p.place, p.binding) = (theirs.clone(), Binding::Mirror)),
        refused
    );
    assert_eq!(of(&|p| p.keeps = Keeps::WorkQueue), refused);
    assert_eq!(of(&|p| (p.keeps, p.binding) = (Keeps::WorkQueue, retired)), refused);
    assert_eq!(of(&|p| p.slot = tenant.clone()), refused);
    // No tenant is given another part any more.
    assert_eq!(of(&|p| (p.slot, p.binding) = (tenant.clone(), retired)), None);
}

#[test]
fn the_policy_is_the_one_in_force() {
    let revision =
        |n: &'static str, more: &[(&'static str, &'static str)]| policy(&[&[("revision", n)][..], more].concat());
    let at_two = revision("2", &[]).in_force;
    let said = |given: &Policy| is_another(given, &at_two).map(|p| p.code);
    assert_eq!(said(&revision("2", &[])), None);
    assert_eq!(
        said(&revision("2", &[("topology", "sharded(2)")])),
        Some(Code::PolicyConflict)
    );
    assert_eq!(said(&revision("1", &[])), Some(Code::OlderPolicy));
    assert_eq!(said(&policy(&[])), Some(Code::OlderPolicy));
    assert_eq!(
        said(&revision("3", &[("topology", "sharded(2)")])),
        Some(Code::PolicyConflict)
    );
}
