//! How a subscription is doing, as far as the store knows.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_plan::policy::Ordering;
use fanout_plan::status::{LostEvents, State, SubscriptionStatus};
use fanout_plan::subscription::{Need, Progress, Reach, Registered};

use tokio::time::sleep;

use super::{ConsumerState, Store, StoreError};

/// How often, and how long apart, it is asked how far consumers have come whose leaders are behind the log's.
const LOOKS: u32 = 5;
const BETWEEN: Duration = Duration::from_millis(40);

impl Store {
    /// How far a subscription has come, by leaders that are not behind if that can be had soon.
    async fn current_states(&self, registered: &Registered) -> Result<BTreeMap<u32, ConsumerState>, StoreError> {
        let mut states = self.consumer_states(registered).await?;
        for _ in 1..LOOKS {
            if states.values().all(|state| state.is_current) {
                break;
            }
            sleep(BETWEEN).await;
            states = self.consumer_states(registered).await?;
        }
        Ok(states)
    }

    /// Counts what a subscription has in the store: events that wait, dead letters apart, and what it has lost. What is
    /// not known when the store fails stays absent.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn read_status(
        &self,
        registered: &Registered,
        status: &mut SubscriptionStatus,
    ) -> Result<(), StoreError> {
        let subscription = &registered.subscription;
        if registered.progress == Progress::Finished || !subscription.keeps_a_place(&self.policy) {
            // The store holds nothing of it.
            (status.pending, status.in_flight, status.redelivered) = (Some(0), Some(0), Some(0));
            (status.waiting_for_retry, status.lost_events) = (Some(0), Some(0));
            return Ok(());
        }
        let states = self.current_states(registered).await?;
        let waiting_for_retry = self.waiting_for_retry(registered).await?;
        let retention = self.retention(registered).await?;
        let sum = |of: fn(&ConsumerState) -> u64| states.values().map(of).sum::<u64>();
        let in_flight = sum(|s| s.unsettled);
        let is_current = states.values().all(|s| s.is_current);
        status.pending = is_current.then(|| sum(|s| s.pending));
        status.in_flight = Some(in_flight);
        status.redelivered = Some(sum(|s| s.redelivered));
        status.waiting_for_retry = Some(waiting_for_retry);
        // With an order its owner takes events from the store before anybody fetches them.
        let is_fetched_in_order = subscription.reach == Reach::Inbox && self.policy.ordering != Ordering::None;
        if status.state != State::Paused && !is_fetched_in_order {
            status.attended = Some(in_flight > 0 || sum(|s| s.pulls) > 0);
        }
        let goes_on_live = matches!(subscription.need, Need::Backfill { end: None, .. });
        if goes_on_live
            && status.state == State::CatchingUp
            && waiting_for_retry == 0
            && states
                .iter()
                .all(|(partition, s)| s.has_caught_up(registered.head.of(*partition)))
        {
            status.state = State::Active;
        }
        if let Some((position, expires_at)) = retention.oldest {
            status.oldest = Some(position);
            status.expires_at = Some(expires_at);
        }
        status.lost = retention
            .lost
            .iter()
            .map(|(p, lost)| LostEvents::of(*p, lost))
            .collect();
        status.lost_events = Some(retention.lost_events());
        Ok(())
    }
}
