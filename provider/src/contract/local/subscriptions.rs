//! Subscriptions of the bus.

use fanout_plan::Problem;
use fanout_plan::subscription::{Registered, Subscription};
use fanout_transport::Caller;
use fanout_wit::types::{self as wit, SubscribeError, SubscriptionState};
use futures::StreamExt as _;

use super::Local;
use crate::bus::Amendment;
use crate::contract::convert;
use crate::contract::subscriber::{Subscribe, Terms};
use crate::status::{Doing, SubscriptionStatus};

/// Subscriptions of one caller that are read at once.
const AT_ONCE: usize = 16;

impl Subscribe for Local {
    fn terms(&self) -> Result<Terms, Problem> {
        let view = self.bus.view();
        let policy = view.store()?.policy();
        Ok(Terms {
            batch_size: policy.delivery.batch_size,
            concurrency: policy.delivery.concurrency,
            limits: Some(view.policy.as_deref().unwrap_or(policy).limits),
        })
    }

    async fn subscribe(&self, caller: &Caller, asked: Subscription) -> Result<wit::Subscription, SubscribeError> {
        let registered = self.bus.subscribe(&caller.component, &caller.link, asked).await?;
        Ok(self.shown(&registered).await)
    }

    async fn unsubscribe(&self, _: &Caller, owned: &Registered) -> Result<(), SubscribeError> {
        Ok(self.bus.unsubscribe(owned).await?)
    }

    async fn amend(
        &self,
        _: &Caller,
        owned: &Registered,
        change: Amendment,
    ) -> Result<wit::Subscription, SubscribeError> {
        let amended = self.bus.amend(owned, change).await?;
        Ok(self.shown(&amended).await)
    }

    async fn subscriptions(&self, caller: &Caller) -> Result<Vec<wit::Subscription>, SubscribeError> {
        let view = self.bus.view();
        let mine = view.registry.values().filter(|r| r.component == caller.component);
        let read: Vec<_> = mine.map(|r| SubscriptionStatus::read(&view, r)).collect();
        Ok(futures::stream::iter(read)
            .buffered(AT_ONCE)
            .map(to_wit)
            .collect()
            .await)
    }
}

impl Local {
    async fn shown(&self, registered: &Registered) -> wit::Subscription {
        to_wit(SubscriptionStatus::read(&self.bus.view(), registered).await)
    }
}

fn to_wit(s: SubscriptionStatus) -> wit::Subscription {
    let registered = s.registered;
    wit::Subscription {
        name: registered.subscription.name.plain().to_owned(),
        need: convert::need(&registered.subscription.need),
        filter: convert::from_filter(&registered.subscription.filter),
        made_by: convert::made_by(registered.made_by),
        state: match s.doing {
            Doing::Active => SubscriptionState::Active,
            Doing::CatchingUp => SubscriptionState::CatchingUp,
            Doing::Finished => SubscriptionState::Finished,
            Doing::Paused => SubscriptionState::Paused,
            Doing::Waiting(p) => SubscriptionState::Waiting(convert::problem(p)),
        },
        pending: s.pending,
        in_flight: s.in_flight,
        redelivered: s.redelivered,
        waiting_for_retry: s.waiting_for_retry,
        expires_at: s.expires_at,
        lost: s.lost.into_iter().map(convert::lost).collect(),
    }
}
