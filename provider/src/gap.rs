//! Watches what subscriptions are about to lose to the log's retention, warns before, and says what was lost after.
//!
//! Every subscription that the bus remembers is watched, also those that are paused or have no subscriber: they are the
//! ones that lose. Instances watch the same; the store lets one of them report.

use std::collections::BTreeSet;
use std::time::Duration;

use fanout_plan::gap::{Gap, Lost};
use fanout_plan::isolation::Reader;
use fanout_plan::journal::{Entry, Outcome};
use fanout_plan::partition::Partition;
use fanout_plan::policy::WhenFull;
use fanout_plan::subscription::{Need, Progress, Registered};
use fanout_plan::{Code, LogPosition, Policy, Position, SubscriptionName, Timestamp, show_duration};
use tracing::{debug, info, warn};

use crate::bus::Bus;
use crate::jetstream::{Store, StoreError, Unsettled};
use crate::journal::Journal;

/// How often the log is observed: often enough for the retention, and not too often.
const OBSERVE_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Watches until the provider ends.
pub(crate) async fn watch(bus: Bus) {
    let mut near = BTreeSet::new();
    let mut unsettled = Unsettled::default();
    loop {
        let view = bus.view();
        let Some(store) = view.store.clone() else {
            tokio::time::sleep(OBSERVE_EVERY.1.min(Duration::from_secs(1))).await;
            continue;
        };
        let often = interval(store.policy());
        unsettled.listen(&store, often * 4).await;
        let mut observed = BTreeSet::new();
        for registered in view.registry.values().filter(|r| can_lose(r)) {
            for (partition, reader) in store.readers_of(registered) {
                observed.insert((partition.number, registered.consumer_of(&reader)));
                let about = (partition, &reader);
                if let Err(error) = observe(&store, registered, about, bus.journal(), &mut unsettled, &mut near).await {
                    debug!(subscription = %registered.subscription.name, %error, "the retention of a subscription could not be read");
                }
            }
        }
        unsettled.keep(&observed);
        tokio::time::sleep(often).await;
    }
}

/// A backfill asks for what the log holds: what has expired was never its.
fn can_lose(registered: &Registered) -> bool {
    registered.progress != Progress::Finished && registered.subscription.need == Need::Durable
}

fn interval(policy: &Policy) -> Duration {
    (policy.retention.max_age / 20).clamp(OBSERVE_EVERY.0, OBSERVE_EVERY.1)
}

async fn observe(
    store: &Store,
    registered: &Registered,
    (partition, reader): (&Partition, &Reader),
    journal: &Journal,
    unsettled: &mut Unsettled,
    near: &mut BTreeSet<(SubscriptionName, Reader)>,
) -> Result<(), StoreError> {
    let policy = store.policy();
    let now = store.now();
    let Some(now_there) = store.observe_retention(registered, partition, reader).await? else {
        return Ok(());
    };
    let mut remembered = store.remembered_gap(registered, reader).await?;
    let before = remembered.gap.clone();
    let expired_to = match policy.retention.when_full {
        WhenFull::Refuse => now - policy.retention.max_age,
        // A full log lets younger events go too: which, nobody can say before.
        WhenFull::DropOldest => Timestamp::MAX,
    };
    let consumer = registered.consumer_of(reader);
    let advisories = unsettled.advisories(partition.number, &consumer);
    let lost = remembered.gap.observe(&now_there, advisories, expired_to, now);
    if let Some(lost) = &lost {
        debug!(%consumer, ?now_there, ?before, ?lost, "events were lost to the retention");
    }
    warn_once(policy, registered, reader, &remembered.gap, now, near);
    // Noted before they go: the events that expire before the next observations.
    let soon = now + interval(policy).saturating_mul(4);
    if remembered.gap.is_near(soon) {
        let after = remembered.gap.noted_to.max(now_there.settled_to);
        let until = soon - policy.retention.max_age;
        let edge = store.edge(registered, partition, reader, after, until).await?;
        let all = edge
            .into_iter()
            .all(|(offset, tenant)| remembered.gap.note(offset, tenant));
        if all {
            remembered.gap.noted_until = until;
        }
    }
    // Nothing is written for a subscription that keeps up. Of one that does not, what waits is remembered: a purge takes it at
    // any age.
    let kept = |gap: &Gap| !gap.noted.is_empty() || !gap.doubted.is_empty();
    let waits = |gap: &Gap| policy.retention.when_full == WhenFull::Refuse && gap.oldest.is_some();
    let matters =
        lost.is_some() || remembered.gap.is_near(soon) || kept(&before) || waits(&before) || waits(&remembered.gap);
    let kept_on = remembered.would_be_forgotten(now, policy.retention.max_age);
    if matters && remembered.gap != before || kept_on {
        let gap = remembered.gap.clone();
        if !store.remember_gap(registered, reader, remembered).await? {
            // Another instance wrote: what was received may be news to what it wrote.
            return Ok(());
        }
        if let Some(lost) = lost {
            report(registered, partition.number, &lost);
            write_down(journal, registered, partition, &lost, now);
        }
        unsettled.forget(partition.number, &consumer, |o| o < now_there.first && !gap.may_lose(o));
    } else {
        unsettled.forget(partition.number, &consumer, |o| {
            o < now_there.first && !remembered.gap.may_lose(o)
        });
    }
    Ok(())
}

fn warn_once(
    policy: &Policy,
    registered: &Registered,
    reader: &Reader,
    gap: &Gap,
    now: Timestamp,
    near: &mut BTreeSet<(SubscriptionName, Reader)>,
) {
    let name = &registered.subscription.name;
    // Of an event that is isolated, its tenant's consumer warns.
    let warned_elsewhere = gap.oldest.is_some_and(|o| o.isolated);
    if warned_elsewhere || !gap.is_near(now + policy.retention.warn_before) {
        if near.remove(&(name.clone(), reader.clone())) {
            info!(subscription = %name, "the events that were about to expire are handled, or have expired: a log line with retention-gap names those that are lost");
        }
    } else if near.insert((name.clone(), reader.clone()))
        && let Some(oldest) = gap.oldest
    {
        let left = oldest.expires_at.since(now);
        warn!(
            code = %Code::RetentionGapNear,
            "subscription {name}: its oldest event that is not handled, {}/{}, expires in {}: see why it waits, or raise `retention.max-age`",
            reader.partition,
            oldest.offset,
            show_duration(Duration::from_secs(left.as_secs()))
        );
    }
}

/// Says of each event that was lost, as far as they are known, that it was.
fn write_down(journal: &Journal, registered: &Registered, partition: &Partition, lost: &Lost, now: Timestamp) {
    for (offset, tenant) in &lost.which {
        journal.note(false, || {
            let at = LogPosition {
                log: partition.log,
                position: Position::new(partition.number, *offset),
            };
            let name = registered.subscription.name.clone();
            Entry {
                tenant: Some(tenant.clone()),
                ..Entry::new(name, at, now, Outcome::Expired)
            }
            .because(Code::RetentionGap, "the log let it go before it was handled")
        });
    }
}

fn report(registered: &Registered, partition: u32, lost: &Lost) {
    let tenants: Vec<_> = lost
        .tenants
        .iter()
        .take(20)
        .map(|(tenant, n)| format!("{tenant} {n}"))
        .collect();
    warn!(
        code = %Code::RetentionGap,
        "subscription {}: events from {partition}/{} to {partition}/{} were gone before it handled them: {} {}; by tenant: {}",
        registered.subscription.name,
        lost.from,
        lost.to,
        if lost.exact { "exactly" } else { "seen of them:" },
        lost.events,
        if tenants.is_empty() { "not known".to_owned() } else { tenants.join(", ") }
    );
}
