//! Subscribers that handle whatever they are given, until they are aborted.

use std::sync::Arc;
use std::time::Duration;

use fanout_client::{Bus, Delivery, Subscription};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::ledger::{Ledger, Where};

/// Between two attempts at a subscription that is elsewhere.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// For what was fetched of a subscription that is delivered no more.
const STOPS_IN: Duration = Duration::from_secs(5);

/// One subscription's subscriber at one place. A subscription that is not delivered there is asked for again and again, as a
/// program does that waits for the subscription to move to it.
#[derive(Clone)]
pub(crate) struct Handler {
    pub(crate) subscription: &'static str,
    pub(crate) place: Where,
    pub(crate) bus: Bus,
    pub(crate) ledger: Arc<Ledger>,
}

impl Handler {
    /// Handles until it is aborted.
    pub(crate) async fn handle(self) {
        loop {
            self.while_it_is_delivered().await;
            sleep(AGAIN_AFTER).await;
        }
    }

    async fn while_it_is_delivered(&self) {
        let Ok(mut deliveries) = self.bus.subscribe(Subscription::declared(self.subscription)).await else {
            return;
        };
        // No more are in hand than the client fetches ahead.
        let mut in_hand = JoinSet::new();
        loop {
            let next = tokio::select! {
                next = deliveries.recv() => next,
                Some(_) = in_hand.join_next() => continue,
            };
            let Some(Ok(delivery)) = next else { break };
            in_hand.spawn(self.clone().settle(delivery));
        }
        in_hand.join_all().await;
        deliveries.stop(STOPS_IN).await;
    }

    async fn settle(self, delivery: Delivery) {
        let id = delivery.event().id.clone();
        // A settlement that is not confirmed may have happened or not: the event may come again.
        if delivery.ack().await.is_ok() {
            self.ledger.note_settled(self.subscription, id, self.place);
        }
    }
}
