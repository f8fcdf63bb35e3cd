//! Whether an account can have what a plan makes: subjects that another stream holds, and bounds of the account. It is
//! judged before the first step, so that nothing is made when something can't be.

use std::collections::BTreeMap;

use crate::explain::show_bytes;
use crate::planner::Observed;
use crate::policy::Storage;
use crate::step::Step;
use crate::subject::meet;
use crate::topology::{Side, StreamSpec, Topology};
use crate::{BusNames, Code, Policy, Problem};

/// What an account may have, and has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Of everything in it; under the copies of a stream (`R1`, `R3`) in an account with tiers, else under none.
    pub tiers: BTreeMap<String, Budget>,
}

/// A bound, and how much of it is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// At most so much; none is no bound.
    pub limit: Option<u64>,
    /// What is taken now.
    pub taken: u64,
}

/// The bounds of an account or of one of its tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes on disk, as streams reserve them.
    pub disk: Bound,
    /// Bytes in memory, as streams reserve them.
    pub memory: Bound,
    /// Streams.
    pub streams: Bound,
    /// Consumers of one stream.
    pub consumers: Option<u64>,
    /// Bytes of one stream on disk.
    pub stream_on_disk: Option<u64>,
    /// Bytes of one stream in memory.
    pub stream_in_memory: Option<u64>,
    /// Whether each stream must have a size (10113).
    pub needs_sizes: bool,
}

impl Account {
    /// Whether one stream more may have this many bytes of memory.
    pub(crate) fn has_memory_for(&self, replicas: u8, bytes: u64) -> bool {
        let Some((_, budget, each_copy)) = self.of(replicas) else {
            return true;
        };
        let copies = if each_copy { u64::from(replicas) } else { 1 };
        let all = budget.memory.taken.saturating_add(bytes.saturating_mul(copies));
        budget.memory.limit.is_none_or(|limit| all <= limit)
            && budget.stream_in_memory.is_none_or(|limit| bytes <= limit)
    }

    /// The same, if it did not have these streams and buckets.
    pub(crate) fn without(&self, these: &Topology) -> Self {
        let streams = these.streams.values().map(|s| (s.max_bytes, s.replicas, s.storage));
        let buckets = these.buckets.values().map(|b| (b.max_bytes, b.replicas, b.storage));
        let mut rest = self.clone();
        for (bytes, replicas, storage) in streams.chain(buckets) {
            let Some((tier, _, each_copy)) = self.of(replicas) else {
                continue;
            };
            let Some(budget) = rest.tiers.get_mut(tier) else {
                continue;
            };
            let copies = if each_copy { u64::from(replicas) } else { 1 };
            let bound = match storage {
                Storage::File => &mut budget.disk,
                Storage::Memory => &mut budget.memory,
            };
            bound.taken = bound.taken.saturating_sub(bytes.saturating_mul(copies));
            budget.streams.taken = budget.streams.taken.saturating_sub(1);
        }
        rest
    }

    /// The bounds of a stream with so many copies, and whether its bytes count once for each of them.
    fn of(&self, replicas: u8) -> Option<(&str, Budget, bool)> {
        if let Some(budget) = self.tiers.get("") {
            return Some(("", *budget, true));
        }
        let (name, budget) = self.tiers.get_key_value(&format!("R{replicas}"))?;
        Some((name, *budget, false))
    }
}

/// A stream or a bucket as the account counts it.
struct Need<'a> {
    name: &'a str,
    /// What it is, for the setting of its size.
    setting: &'static str,
    subjects: Vec<String>,
    /// 0 for one without a size.
    bytes: u64,
    /// What it has of them already.
    had: u64,
    is_new: bool,
    storage: Storage,
    replicas: u8,
}

/// Every reason for which a plan's streams and buckets can't be made or changed.
pub fn check(policy: &Policy, observed: &Observed, steps: &[Step]) -> Vec<Problem> {
    let names = policy.names();
    let needs: Vec<_> = steps.iter().filter_map(|s| need(&names, observed, s)).collect();
    let mut problems = taken(policy, observed, &needs);
    if let Some(account) = &observed.account {
        problems.extend(bounds(policy, account, &needs));
    }
    problems
}

fn need<'a>(names: &BusNames, observed: &Observed, step: &'a Step) -> Option<Need<'a>> {
    match step {
        Step::CreateStream(s) | Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
            let have = observed.topology.streams.get(&s.name);
            Some(Need {
                name: &s.name,
                setting: size_setting(s),
                subjects: s.subjects.clone(),
                bytes: s.max_bytes,
                had: have.map_or(0, |h| h.max_bytes),
                is_new: have.is_none(),
                storage: s.storage,
                replicas: s.replicas,
            })
        }
        Step::CreateBucket(b) | Step::UpdateBucket(b) => {
            let have = observed.topology.buckets.get(&b.name);
            Some(Need {
                name: &b.name,
                setting: if b.name == names.registry() {
                    "registry.max-bytes"
                } else {
                    "attempts.max-bytes"
                },
                subjects: vec![format!("$KV.{}.>", b.name)],
                bytes: b.max_bytes,
                had: have.map_or(0, |h| h.max_bytes),
                is_new: have.is_none(),
                storage: b.storage,
                replicas: b.replicas,
            })
        }
        _ => None,
    }
}

/// The setting that bounds a stream's bytes.
pub(crate) fn size_setting(s: &StreamSpec) -> &'static str {
    match (&s.partition, s.side) {
        (Some(_), _) => "retention.max-bytes",
        (None, Some(Side::Scheduled)) => "scheduled.max-bytes",
        (None, Some(Side::Marks)) => "scheduled.marks-max-bytes",
        (None, Some(Side::Usage)) => "quota.counters-max-bytes",
        (None, Some(Side::Retries)) => "retry.max-bytes",
        (None, Some(Side::Journal)) => "journal.max-bytes",
        (None, None) => "dead-letters.max-bytes",
    }
}

/// The setting that bounds a stream's messages, where there is one.
pub(crate) fn count_setting(s: &StreamSpec) -> Option<&'static str> {
    match (&s.partition, s.side) {
        (None, Some(Side::Scheduled)) => Some("scheduled.max-events"),
        (None, None) => Some("dead-letters.max-events"),
        _ => None,
    }
}

/// Subjects that a stream of somebody else holds: one stream holds a subject (10065).
fn taken(policy: &Policy, observed: &Observed, needs: &[Need<'_>]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for need in needs {
        let others = observed.others.iter().filter(|(name, _)| *name != need.name);
        for (other, theirs) in others {
            let meeting = need
                .subjects
                .iter()
                .find_map(|ours| Some((ours, theirs.iter().find(|theirs| meet(ours, theirs))?)));
            if let Some((ours, theirs)) = meeting {
                problems.push(Problem::new(
                    Code::SubjectTaken,
                    format!(
                        "bus {}: stream {other} holds `{theirs}` already, and {} would hold `{ours}`; one stream holds a subject (10065): choose another `subject` or `bus`, or take the subject from {other}",
                        policy.bus, need.name
                    ),
                ));
            }
        }
    }
    problems
}

/// Bounds of the account that would be passed.
fn bounds(policy: &Policy, account: &Account, needs: &[Need<'_>]) -> Vec<Problem> {
    let bus = &policy.bus;
    let mut problems = Vec::new();
    // What the steps before take.
    let mut more: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    let mut streams: BTreeMap<&str, u64> = BTreeMap::new();
    let mut refuse = |message: String| problems.push(Problem::new(Code::AccountLimit, message));
    for need in needs {
        let Some((tier, budget, each_copy)) = account.of(need.replicas) else {
            let tiers: Vec<_> = account.tiers.keys().map(String::as_str).collect();
            if !tiers.is_empty() {
                refuse(format!(
                    "bus {bus}: {} would have {} copies, and its NATS account may have streams of {} only (10120): change `{}`, or let the account have more",
                    need.name,
                    need.replicas,
                    tiers.join(", "),
                    policy.replicas_setting()
                ));
            }
            continue;
        };
        let in_memory = need.storage == Storage::Memory;
        let (bound, place, of_one) = if in_memory {
            (budget.memory, "memory", budget.stream_in_memory)
        } else {
            (budget.disk, "disk", budget.stream_on_disk)
        };
        if budget.needs_sizes && need.bytes == 0 {
            refuse(format!(
                "bus {bus}: its NATS account wants a size of each stream (`max_bytes_required`, 10113), and {} has none: set `{}`",
                need.name, need.setting
            ));
        }
        if let Some(limit) = of_one.filter(|limit| need.bytes > *limit) {
            refuse(format!(
                "bus {bus}: {} would take up to {} of {place}, and its NATS account lets one stream have {} (10122): lower `{}`, or have the account's bound raised",
                need.name,
                show_bytes(need.bytes),
                show_bytes(limit),
                need.setting
            ));
        }
        let copies = if each_copy { u64::from(need.replicas) } else { 1 };
        let adds = need.bytes.saturating_sub(need.had).saturating_mul(copies);
        let before = more.entry((tier, in_memory)).or_default();
        let left = |limit: u64| limit.saturating_sub(bound.taken.saturating_add(*before));
        if let Some(limit) = bound.limit.filter(|limit| adds > left(*limit)) {
            refuse(format!(
                "bus {bus}: {} would take up to {} of {place}, and its NATS account may have {}, of which {} {} left (10047): lower `{}`, or have the account's bound raised",
                need.name,
                show_bytes(adds),
                show_bytes(limit),
                show_bytes(left(limit)),
                if *before == 0 { "are" } else { "would then be" },
                need.setting
            ));
        }
        *before = before.saturating_add(adds);
        if need.is_new {
            let new = streams.entry(tier).or_default();
            *new += 1;
            let passes = |limit: &u64| budget.streams.taken.saturating_add(*new) > *limit;
            if let Some(limit) = budget.streams.limit.filter(passes) {
                refuse(format!(
                    "bus {bus}: {} would be one stream too many, since its NATS account may have {limit} and has {} (10027): remove one, have the bound raised, or use a `topology` with fewer",
                    need.name, budget.streams.taken
                ));
            }
        }
    }
    problems
}

/// Partitions that would have more consumers than the account lets a stream have. No reason for which the bus can't be:
/// what can't be made is its subscription's trouble.
pub fn consumers(policy: &Policy, account: &Account, topology: &Topology) -> Vec<Problem> {
    let names = policy.names();
    let mut count: BTreeMap<u32, u64> = BTreeMap::new();
    for (partition, _) in topology.consumers.keys() {
        *count.entry(*partition).or_default() += 1;
    }
    let passes = |(partition, count): (u32, u64)| {
        let (_, budget, _) = account.of(policy.retention.replicas)?;
        let limit = budget.consumers.filter(|limit| count > *limit)?;
        Some(Problem::new(
            Code::AccountLimit,
            format!(
                "bus {}: {} would have {count} consumers, and its NATS account lets a stream have {limit} (10026): declare fewer subscriptions, divide the log with `topology`, or have the bound raised",
                policy.bus,
                names.partition(partition)
            ),
        ))
    };
    count.into_iter().filter_map(passes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{self, Asked};
    use crate::setting::Settings;

    const MIB: u64 = 1 << 20;

    fn policy(more: &[(&str, &str)]) -> Policy {
        let fixed = [
            ("bus", "payments"),
            ("subject", "payments.{tenant}.webhook.{event-type}"),
            ("retention.max-bytes", "64MiB"),
            ("dead-letters.max-bytes", "32MiB"),
            ("scheduled.max-bytes", "16MiB"),
            ("registry.max-bytes", "8MiB"),
            ("attempts.max-bytes", "4MiB"),
        ];
        let all = fixed.iter().chain(more);
        let all: Settings = all.map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Policy::from_settings("policy", &all).unwrap()
    }

    fn refused(policy: &Policy, observed: &Observed) -> Vec<String> {
        match planner::plan(policy, Asked::default(), observed, crate::Timestamp::EPOCH) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    fn with(budget: Budget) -> Observed {
        Observed {
            account: Some(Account {
                tiers: BTreeMap::from([(String::new(), budget)]),
            }),
            ..Observed::default()
        }
    }

    #[test]
    fn what_another_stream_holds_is_named_before_anything_is_made() {
        let holds = |subjects: &[&str]| Observed {
            others: BTreeMap::from([("OLD".to_owned(), subjects.iter().map(|s| (*s).to_owned()).collect())]),
            ..Observed::default()
        };
        for subjects in [
            &["payments.>"][..],
            &["x.y", "payments.acme.webhook.invoice.paid"],
            &[">"],
            &["*.*.*.*"],
            &["fanout.dead.payments.>"],
            &["$KV.fanout_payments_registry.>"],
        ] {
            let said = refused(&policy(&[]), &holds(subjects));
            assert!(!said.is_empty(), "{subjects:?}");
            assert!(
                said[0].contains("stream OLD holds") && said[0].contains("[subject-taken]"),
                "{said:?}"
            );
        }
        for subjects in [&["payments.*.other.>"][..], &["payments"], &["payments.a.webhook"], &[]] {
            assert_eq!(refused(&policy(&[]), &holds(subjects)), [""; 0], "{subjects:?}");
        }
    }

    #[test]
    fn what_the_account_can_t_hold_is_said_before_anything_is_made() {
        let needed = 148 * MIB;
        let bounded = |limit, taken| Bound {
            limit: Some(limit),
            taken,
        };
        let disk = |limit, taken| {
            with(Budget {
                disk: bounded(limit, taken),
                needs_sizes: true,
                ..Budget::default()
            })
        };
        assert_eq!(refused(&policy(&[]), &disk(needed, 0)), [""; 0]);
        let said = refused(&policy(&[]), &disk(needed - 1, 0));
        assert!(
            said.len() == 1 && said[0].contains("10047") && said[0].contains("max-bytes"),
            "{said:?}"
        );
        assert_eq!(refused(&policy(&[]), &disk(needed + 7, 8)).len(), 1);
        // In memory, disk does not count.
        assert_eq!(
            refused(&policy(&[("retention.storage", "memory")]), &disk(1, 0)),
            [""; 0]
        );
        // Each copy counts.
        let copies = policy(&[("retention.replicas", "3")]);
        assert_eq!(refused(&copies, &disk(3 * needed, 0)), [""; 0]);
        assert_eq!(refused(&copies, &disk(3 * needed - 1, 0)).len(), 1);

        let said = refused(
            &policy(&[]),
            &with(Budget {
                streams: bounded(9, 2),
                ..Budget::default()
            }),
        );
        assert!(said.len() == 1 && said[0].contains("10027"), "{said:?}");
        let said = refused(
            &policy(&[]),
            &with(Budget {
                stream_on_disk: Some(64 * MIB - 1),
                ..Budget::default()
            }),
        );
        assert!(
            said.len() == 1 && said[0].contains("fanout_payments_log") && said[0].contains("10122"),
            "{said:?}"
        );
        let tiers = Observed {
            account: Some(Account {
                tiers: BTreeMap::from([("R3".to_owned(), Budget::default())]),
            }),
            ..Observed::default()
        };
        assert!(refused(&policy(&[]), &tiers).iter().all(|p| p.contains("R3 only")));
        assert_eq!(refused(&copies, &tiers), [""; 0]);
    }

    #[test]
    fn leases_are_in_memory_where_the_account_has_some_and_stay_where_they_are() {
        let storage = |observed: &Observed| {
            let plan = planner::plan(&policy(&[]), Asked::default(), observed, crate::Timestamp::EPOCH).unwrap();
            plan.steps.iter().find_map(|step| match step {
                Step::CreateBucket(b) | Step::UpdateBucket(b) if b.name == policy(&[]).names().leases() => {
                    Some(b.storage)
                }
                _ => None,
            })
        };
        let memory = |limit| {
            with(Budget {
                memory: Bound { limit, taken: 0 },
                ..Budget::default()
            })
        };
        assert_eq!(storage(&Observed::default()), Some(Storage::Memory));
        assert_eq!(storage(&memory(None)), Some(Storage::Memory));
        assert_eq!(storage(&memory(Some(4 * MIB))), Some(Storage::Memory));
        let without = memory(Some(0));
        assert_eq!(storage(&without), Some(Storage::File));
        // The account is given memory later.
        let mut made = memory(None);
        made.topology = planner::desired(&policy(&[]), &without).unwrap();
        assert_eq!(storage(&made), None);
    }

    #[test]
    fn everything_that_is_made_has_a_size() {
        for more in [&[][..], &[("topology", "sharded(3)"), ("quota.max-bytes", "1MiB")]] {
            let policy = policy(more);
            let desired = planner::desired(&policy, &Observed::default()).unwrap();
            assert!(desired.streams.values().all(|s| s.max_bytes > 0), "{desired:?}");
            assert!(desired.buckets.values().all(|b| b.max_bytes > 0), "{desired:?}");
        }
    }

    #[test]
    fn more_consumers_than_a_stream_may_have_are_told() {
        let policy = policy(&[("subscriptions.a.need", "durable"), ("subscriptions.b.need", "durable")]);
        let desired = planner::desired(&policy, &Observed::default()).unwrap();
        let account = |limit| Account {
            tiers: BTreeMap::from([(
                String::new(),
                Budget {
                    consumers: Some(limit),
                    ..Budget::default()
                },
            )]),
        };
        assert!(consumers(&policy, &account(2), &desired).is_empty());
        let said = consumers(&policy, &account(1), &desired);
        assert!(said.len() == 1 && said[0].message.contains("10026"), "{said:?}");
    }
}
