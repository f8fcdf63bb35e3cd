//! What callers may take of the registry, where a name stays for good.

use super::*;
use crate::entry;

/// Ends a subscription, as the store does.
fn end(observed: &mut Observed, name: &str) {
    let ended = observed.registry.remove(&name.parse().unwrap()).unwrap();
    let tombstone = Tombstone {
        incarnation: Some(ended.incarnation),
        at: Timestamp::from_nanoseconds(3),
        caller: (ended.made_by == MadeBy::Call).then_some(ended.component),
    };
    observed.ended.insert(ended.subscription.name, tombstone);
    observed.registry_bytes = held(observed);
}

fn held(observed: &Observed) -> u64 {
    let living = observed.registry.values().map(entry::bytes);
    let ended = observed.ended.iter();
    let ended = ended.map(|(name, t)| entry::tombstone_bytes(name, t.caller.as_deref().unwrap_or_default()));
    living.chain(ended).sum()
}

/// Has it made, and says why it is not.
fn made(policy: &Policy, observed: &mut Observed, want: Wanted) -> Option<Problem> {
    let plan = plan(policy, &[want], observed, 2).unwrap();
    *observed = applied(&plan, observed);
    observed.registry_bytes = held(observed);
    plan.refused.get(&0).cloned()
}

#[test]
fn names_that_a_caller_has_used_are_counted_after_their_subscriptions_have_ended() {
    let few = policy(&[("limits.names-per-caller", "3")]);
    let mut observed = bus(&few, &[], 1);
    for name in ["a", "b", "c"] {
        assert_eq!(made(&few, &mut observed, call(name, Need::Queue, "caller:low")), None);
        end(&mut observed, name);
    }
    let refused = made(&few, &mut observed, call("d", Need::Queue, "caller:low")).unwrap();
    assert_eq!(refused.code, Code::LimitExceeded);
    assert!(
        refused.message.contains("caller low has used 3 names") && refused.message.contains("limits.names-per-caller"),
        "{refused}"
    );
    assert!(!observed.registry.contains_key(&"d".parse().unwrap()));
    // A name that it has used is none more, and another caller has its own.
    assert_eq!(made(&few, &mut observed, call("b", Need::Queue, "caller:low")), None);
    assert_eq!(made(&few, &mut observed, call("d", Need::Queue, "caller:other")), None);
    assert_eq!(made(&few, &mut observed, want("e", Need::Queue, "caller:low")), None);
}

#[test]
fn callers_leave_the_last_quarter_of_the_registry_and_each_other_theirs() {
    let small = policy(&[("registry.max-bytes", "64KiB"), ("limits.names-per-caller", "1000000")]);
    let mut observed = bus(&small, &[], 1);
    let mut codes = Vec::new();
    for caller in 0..4 {
        let before = held(&observed);
        let refused = (0..).find_map(|i| {
            let name = format!("of-{caller}-{i}");
            let refused = made(
                &small,
                &mut observed,
                call(&name, Need::Queue, &format!("caller:{caller}")),
            );
            if refused.is_none() {
                end(&mut observed, &name);
            }
            refused
        });
        let refused = refused.unwrap();
        assert!(refused.message.contains("registry.max-bytes"), "{refused}");
        codes.push(refused.code);
        assert!(held(&observed) - before <= 16 << 10, "one caller has a quarter");
        assert!(held(&observed) <= 48 << 10, "callers have all but a quarter");
    }
    codes.dedup();
    assert_eq!(codes, [Code::LimitExceeded, Code::StoreFull]);
    let declared = want("declared", Need::Durable, "invoicing");
    assert_eq!(made(&small, &mut observed, declared), None);
}

#[test]
fn what_is_there_may_be_asked_for_again_however_full_it_is() {
    let policy = policy(&[]);
    let a = call("a", Need::Durable, "caller:a");
    let mut observed = bus(&policy, std::slice::from_ref(&a), 1);
    observed.registry_bytes = 64 << 20;
    let mut wider = a.clone();
    let types = (0..40).map(|i| format!("type-{i}.*").parse().unwrap());
    wider.subscription.filter = Filter::new(vec![], types.collect());
    let refused = |want: Wanted| plan(&policy, &[want], &observed, 2).unwrap().refused;
    assert_eq!(refused(a), BTreeMap::new());
    assert_eq!(refused(wider)[&0].code, Code::StoreFull);
}
