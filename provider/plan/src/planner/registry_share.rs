//! What callers may take of the registry. It is one store for all, and nothing of it goes by itself: a subscription that has
//! ended leaves its name and a tombstone there for good. So what one caller has in it is bounded, and the last part of it is
//! for what the operator declares, and for what becomes of those that are there.

use std::collections::BTreeMap;

use super::Observed;
use crate::limits::{Beyond, CallersShare, over};
use crate::subscription::{MadeBy, Registered};
use crate::{Code, Policy, Problem, SubscriptionName, authority, entry};

/// Whether the registry may remember what a caller asks for. What takes no more of it than before always may.
///
/// # Errors
/// [`Code::LimitExceeded`] where the caller has its share of names or bytes, [`Code::StoreFull`] where callers have theirs.
pub(super) fn check(
    policy: &Policy,
    registry: &BTreeMap<SubscriptionName, Registered>,
    observed: &Observed,
    have: Option<&Registered>,
    next: &Registered,
) -> Result<(), Problem> {
    let (name, caller) = (&next.subscription.name, next.component.as_str());
    let grows = entry::bytes(next).saturating_sub(have.map_or(0, entry::bytes));
    if grows == 0 {
        return Ok(());
    }
    let own = || {
        let is_own = move |r: &&Registered| r.made_by == MadeBy::Call && r.component == caller;
        registry.values().filter(is_own)
    };
    let is_free = |name: &SubscriptionName| !registry.contains_key(name);
    let ended = || {
        let ended = observed.ended.iter().filter(move |(name, _)| is_free(name));
        ended.filter(move |(_, tombstone)| tombstone.caller.as_deref() == Some(caller))
    };
    let is_new_name = is_free(name) && !observed.ended.contains_key(name);
    if is_new_name {
        let used = own().count() + ended().count();
        policy.limits.one_more_name(name, caller, used as u64)?;
    }
    let most = registry_bytes(policy, observed);
    let share = CallersShare::of(most);
    let of_ended = ended().map(|(name, _)| entry::tombstone_bytes(name, caller));
    let taken: u64 = own().map(entry::bytes).chain(of_ended).sum();
    // The store says what it held; what this plan adds is not among it yet.
    let is_added = |(name, _): &(&SubscriptionName, &Registered)| !observed.registry.contains_key(*name);
    let added: u64 = registry.iter().filter(is_added).map(|(_, r)| entry::bytes(r)).sum();
    let held = observed.registry_bytes + added;
    match share.is_beyond(taken, held, grows) {
        None => Ok(()),
        Some(Beyond::Own) => Err(over(format!(
            "subscription {name} would have {} take {} bytes of the registry, names of subscriptions that have ended included, and one caller may have {}, a quarter of it: ask for fewer or shorter filters, use a name again that it has used before, or let an operator raise `registry.max-bytes`",
            authority::named(caller),
            taken + grows,
            share.each
        ))),
        Some(Beyond::All) => Err(Problem::new(
            Code::StoreFull,
            format!(
                "subscription {name} is not made: the registry holds {held} bytes, and of its {most} the last quarter is for what the policy and links declare: let an operator raise `registry.max-bytes`"
            ),
        )),
    }
}

/// What the registry may hold, in bytes: as its bucket is now, or will be made; 0 for no bound.
fn registry_bytes(policy: &Policy, observed: &Observed) -> u64 {
    let bucket = observed.topology.buckets.get(&policy.names().registry());
    bucket.map_or(policy.sizes.registry, |bucket| bucket.max_bytes)
}
