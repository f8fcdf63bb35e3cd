//! A tenant's quota.

use std::collections::BTreeMap;

use crate::Facts;
use crate::history::Micros;

/// For how long after an instance begins, or comes back, the instances' shares may add up to too much: until it has heard
/// of the others.
const SHARES: Micros = 1_500_000;
/// For how long after a change of the policy an instance may go by the last one.
const CHANGE: Micros = 5_000_000;
const SECOND: Micros = 1_000_000;

/// In any stretch of time a tenant is given receipts for at most its rate times that stretch, and one second's worth more.
///
/// A call was admitted at some moment between its sending and its answer, so only calls that lie within a stretch as a
/// whole are counted. For each instance that began or came back around that stretch, a second bucket and its refill until
/// the instances know each other are allowed. While a policy changes, the larger of the rates holds.
pub(super) fn quotas(facts: &Facts<'_>) -> Vec<String> {
    let mut calls: BTreeMap<&str, Vec<(Micros, Micros)>> = BTreeMap::new();
    for (event, sent, answered, _) in facts.receipts() {
        calls.entry(&event.id.tenant).or_default().push((sent, answered));
    }
    let mut broken = Vec::new();
    for (tenant, mut calls) in calls {
        calls.sort_unstable();
        let mut ends: Vec<_> = calls.iter().map(|(_, answered)| *answered).collect();
        ends.sort_unstable();
        ends.dedup();
        // One stretch for each end: the one that is most over, if any is.
        for end in ends {
            let mut count = 0;
            let over = calls
                .iter()
                .rev()
                .filter(|(_, answered)| *answered <= end)
                .find_map(|(begin, _)| {
                    count += 1;
                    let most = allowed(facts, tenant, *begin, end)?;
                    (count > most)
                        .then(|| format!("{tenant} was given {count} receipts in {} us, of {most}", end - begin))
                });
            if let Some(over) = over {
                broken.push(over);
                break;
            }
        }
    }
    broken
}

/// `None` for a tenant without a quota.
fn allowed(facts: &Facts<'_>, tenant: &str, begin: Micros, end: Micros) -> Option<u64> {
    let mut rate = facts
        .policy_at(begin.saturating_sub(CHANGE))?
        .quotas
        .get(tenant)
        .copied()?;
    for (since, policy) in &facts.policies {
        if (begin.saturating_sub(CHANGE)..=end).contains(since) {
            rate = rate.max(*policy.quotas.get(tenant)?);
        }
    }
    let around = begin.saturating_sub(SHARES)..=end;
    let back = facts.instances_back.iter().filter(|at| around.contains(at)).count() as u64;
    let extra = back * (rate + rate * SHARES / SECOND);
    Some(rate + (rate * (end - begin)).div_ceil(SECOND) + extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::What;
    use crate::testing::{RATE, Told, broken};

    fn published(events: u64) -> Told {
        let mut told = Told::durable();
        told.pass(2 * SHARES);
        for i in 0..events {
            told.published(&format!("e{i}"), i + 1);
        }
        told
    }

    #[test]
    fn more_than_a_seconds_worth_at_once_breaks_it() {
        assert_eq!(broken(quotas, &published(RATE)), [""; 0]);
        assert!(broken(quotas, &published(RATE + 2))[0].starts_with("acme was given"));
    }

    #[test]
    fn as_many_over_a_longer_time_do_not() {
        let mut told = published(RATE);
        told.pass(SECOND);
        for i in RATE..2 * RATE {
            told.published(&format!("e{i}"), i + 1);
        }
        assert_eq!(broken(quotas, &told), [""; 0]);
    }

    #[test]
    fn an_instance_that_comes_back_has_a_share_until_it_hears_of_the_others() {
        let mut told = published(RATE);
        told.line(What::InstanceBack { instance: "b".into() });
        for i in RATE..2 * RATE {
            told.published(&format!("e{i}"), i + 1);
        }
        assert_eq!(broken(quotas, &told), [""; 0]);
    }

    #[test]
    fn one_long_call_proves_nothing() {
        let mut told = Told::durable();
        told.pass(2 * SHARES);
        for i in 0..2 * RATE {
            told.publish(&format!("e{i}"), None);
        }
        assert_eq!(broken(quotas, &told), [""; 0]);
    }
}
