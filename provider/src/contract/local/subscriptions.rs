//! Subscriptions of the bus.

use fanout_plan::place::Whereabouts;
use fanout_plan::status::{State, SubscriptionStatus};
use fanout_plan::subscription::{Registered, Subscription};
use fanout_plan::{Problem, Timestamp};
use fanout_transport::Caller;
use fanout_wit::types::{self as wit, SubscribeError, SubscriptionState};
use futures::StreamExt as _;

use super::Local;
use crate::bus::Amendment;
use crate::contract::convert;
use crate::contract::errors::subscribe_refusal;
use crate::contract::subscriber::{Subscribe, Terms};
use crate::status;

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
        self.may_be_here(&asked).map_err(subscribe_refusal)?;
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
        let read: Vec<_> = mine.map(async |r| to_wit(r, status::read(&view, r).await)).collect();
        Ok(futures::stream::iter(read).buffered(AT_ONCE).collect().await)
    }
}

impl Local {
    /// What is asked for by a call is at the place where it is asked for.
    fn may_be_here(&self, asked: &Subscription) -> Result<(), Problem> {
        let whereabouts = Whereabouts {
            at: None,
            scope: asked.scope,
        };
        let view = self.bus.view();
        whereabouts.check(&asked.name, &asked.need, view.store()?.policy().places.as_ref())
    }

    async fn shown(&self, registered: &Registered) -> wit::Subscription {
        to_wit(registered, status::read(&self.bus.view(), registered).await)
    }
}

fn to_wit(registered: &Registered, s: SubscriptionStatus) -> wit::Subscription {
    wit::Subscription {
        name: registered.subscription.name.plain().to_owned(),
        need: convert::need(&registered.subscription.need),
        filter: convert::from_filter(&registered.subscription.filter),
        made_by: convert::made_by(registered.made_by),
        state: match (s.state, s.problem) {
            (State::Waiting, Some(p)) => SubscriptionState::Waiting(convert::reported(p)),
            (State::CatchingUp, _) => SubscriptionState::CatchingUp,
            (State::Finished, _) => SubscriptionState::Finished,
            (State::Paused, _) => SubscriptionState::Paused,
            (State::Active | State::Waiting, _) => SubscriptionState::Active,
        },
        pending: s.pending.unwrap_or(0),
        in_flight: s.in_flight.unwrap_or(0),
        redelivered: s.redelivered.unwrap_or(0),
        waiting_for_retry: s.waiting_for_retry.unwrap_or(0),
        expires_at: s.expires_at.map(Timestamp::nanoseconds),
        lost: s.lost.into_iter().map(convert::lost).collect(),
        batch_size: registered.subscription.batch_size,
        incarnation: registered.incarnation.to_string(),
    }
}
