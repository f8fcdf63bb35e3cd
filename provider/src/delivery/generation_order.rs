//! After a change of the topology, an ordered subscription reads what came before it to the end, and only then what came
//! after: a key's events may lie in both.

use std::collections::BTreeSet;
use std::time::Duration;

use fanout_plan::partition::Partition;
use fanout_plan::policy::Ordering;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Context;
use crate::jetstream::{ConsumerState, StoreError};

/// How often the store is asked whether the earlier partitions are read.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// The partitions that wait for earlier ones. What was delivered of them when there was no order can't come back yet.
pub(super) type Unread = watch::Sender<BTreeSet<u32>>;

/// Returns when a partition may be read, or deliveries are to stop.
pub(super) async fn wait_for(context: &Context, partition: &Partition, unread: &Unread, stop: &CancellationToken) {
    if context.store.policy().ordering == Ordering::None {
        return;
    }
    let mut waited = false;
    while !stop.is_cancelled() {
        match earlier_is_read(context, partition).await {
            Ok(true) => break,
            Ok(false) => {
                waited = true;
                unread.send_if_modified(|unread| unread.insert(partition.number));
            }
            Err(error) => {
                debug!(subscription = %context.name(), %error, "whether the events from before the change are settled is not known yet")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(CHECK_EVERY) => {}
        }
    }
    if waited {
        unread.send_modify(|unread| {
            unread.remove(&partition.number);
        });
        info!(subscription = %context.name(), partition = partition.number, "the events from before the change of the topology are settled");
    }
}

async fn earlier_is_read(context: &Context, partition: &Partition) -> Result<bool, StoreError> {
    let subscription = &context.registered.subscription;
    let earlier: Vec<u32> = context
        .store
        .partitions_of(subscription)
        .filter(|p| p.place == partition.place && p.generation < partition.generation)
        .map(|p| p.number)
        .collect();
    if earlier.is_empty() {
        return Ok(true);
    }
    let states = context.store.consumer_states(&context.registered).await?;
    let is_read = |number| states.get(number).is_none_or(ConsumerState::is_idle);
    if !earlier.iter().all(is_read) {
        return Ok(false);
    }
    // What was refused there before there was an order.
    let waiting = context.store.retries_by_position(&context.registered).await?;
    Ok(earlier.iter().all(|number| !waiting.contains_key(number)))
}
