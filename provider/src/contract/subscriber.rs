//! `subscriber`: subscriptions that a component makes by a call.

use fanout_plan::authority;
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Need, Registered, Subscription};
use fanout_plan::{Code, Problem};
use fanout_transport::Caller;
use futures::StreamExt as _;

use super::convert;
use super::errors::subscribe_refusal;
use super::serve::Exports;
use crate::bus::Amendment;
use crate::status::{Doing, SubscriptionStatus};
use crate::view::View;
use fanout_wit::bus::exports::fanout::bus::subscriber::Handler;
use fanout_wit::types::{
    DeliveryOptions, End, Filter, Reach, Start, SubscribeError, Subscription as WitSubscription, SubscriptionState,
};

/// Subscriptions of one caller that are read at once.
const AT_ONCE: usize = 16;

type Answer<T> = anyhow::Result<Result<T, SubscribeError>>;

impl Handler<Caller> for Exports {
    async fn subscribe_queue(
        &self,
        caller: Caller,
        name: String,
        filter: Filter,
        reach: Reach,
    ) -> Answer<WitSubscription> {
        if let Err(p) = self.may_ask(&caller, &name, &filter) {
            return Ok(Err(subscribe_refusal(p)));
        }
        Ok(match convert::queue(&name, filter, reach) {
            Ok(asked) => self.subscribe(&caller, asked).await,
            Err(p) => Err(subscribe_refusal(p)),
        })
    }

    async fn subscribe_durable(
        &self,
        caller: Caller,
        name: String,
        options: DeliveryOptions,
    ) -> Answer<WitSubscription> {
        Ok(self.subscribe_logged(&caller, &name, Need::Durable, options).await)
    }

    async fn subscribe_backfill(
        &self,
        caller: Caller,
        name: String,
        start: Start,
        end: Option<End>,
        options: DeliveryOptions,
    ) -> Answer<WitSubscription> {
        let need = Need::Backfill {
            start: convert::start(&start),
            end: end.as_ref().map(convert::end),
        };
        Ok(self.subscribe_logged(&caller, &name, need, options).await)
    }

    async fn unsubscribe(&self, caller: Caller, name: String) -> Answer<()> {
        Ok(self.end_subscription(&caller, &name).await)
    }

    async fn pause(&self, caller: Caller, name: String) -> Answer<WitSubscription> {
        Ok(self.amend(&caller, &name, Amendment::Pause(true)).await)
    }

    async fn resume(&self, caller: Caller, name: String) -> Answer<WitSubscription> {
        Ok(self.amend(&caller, &name, Amendment::Pause(false)).await)
    }

    async fn rewind(&self, caller: Caller, name: String, to: Start) -> Answer<WitSubscription> {
        Ok(self.amend(&caller, &name, Amendment::Rewind(convert::start(&to))).await)
    }

    async fn list_subscriptions(&self, caller: Caller) -> Answer<Vec<WitSubscription>> {
        let view = self.bus.view();
        if let Err(p) = grant(&view, &caller) {
            return Ok(Err(subscribe_refusal(p)));
        }
        let mut mine = Vec::new();
        let all = view.registry.values().filter(|r| r.component == caller.component);
        let all: Vec<_> = all.map(|r| SubscriptionStatus::read(&view, r)).collect();
        let mut read = futures::stream::iter(all).buffered(AT_ONCE);
        while let Some(status) = read.next().await {
            mine.push(to_wit(status));
        }
        Ok(Ok(mine))
    }
}

impl Exports {
    async fn subscribe_logged(
        &self,
        caller: &Caller,
        name: &str,
        need: Need,
        options: DeliveryOptions,
    ) -> Result<WitSubscription, SubscribeError> {
        let view = self.bus.view();
        self.may_ask(caller, name, &options.filter).map_err(subscribe_refusal)?;
        let policy = view.store().map_err(subscribe_refusal)?.policy().clone();
        let asked = convert::subscription(name, need, options, &policy).map_err(subscribe_refusal)?;
        self.subscribe(caller, asked).await
    }

    /// Whether a caller may ask for anything, and for lists so long: before one of their items is looked at.
    fn may_ask(&self, caller: &Caller, name: &str, filter: &Filter) -> Result<(), Problem> {
        let view = self.bus.view();
        grant(&view, caller)?;
        let store = view.store()?;
        let limits = view.policy.as_deref().unwrap_or_else(|| store.policy()).limits;
        limits.lists(name, filter.tenants.len(), filter.event_types.len())
    }

    async fn subscribe(&self, caller: &Caller, mut asked: Subscription) -> Result<WitSubscription, SubscribeError> {
        let view = self.bus.view();
        let grant = grant(&view, caller).map_err(subscribe_refusal)?;
        if authority::is_named_caller(&caller.component) && asked.reach != fanout_plan::subscription::Reach::Inbox {
            return Err(subscribe_refusal(Problem::new(
                Code::NotCallable,
                format!(
                    "{} is no component of a lattice, and can't be called: subscribe with the reach `inbox`, and fetch",
                    authority::describe(&caller.component, &caller.link)
                ),
            )));
        }
        asked.filter = grant.narrow(asked.filter).map_err(subscribe_refusal)?;
        let registered = self.bus.subscribe(&caller.component, &caller.link, asked).await?;
        Ok(to_wit(SubscriptionStatus::read(&self.bus.view(), &registered).await))
    }

    async fn amend(&self, caller: &Caller, name: &str, change: Amendment) -> Result<WitSubscription, SubscribeError> {
        let view = self.bus.view();
        let amended = self.bus.amend(mine(&view, caller, name)?, change).await?;
        Ok(to_wit(SubscriptionStatus::read(&self.bus.view(), &amended).await))
    }

    async fn end_subscription(&self, caller: &Caller, name: &str) -> Result<(), SubscribeError> {
        let view = self.bus.view();
        let registered = mine(&view, caller, name)?;
        if registered.made_by != MadeBy::Call {
            return Err(SubscribeError::Conflict(convert::problem(Problem::new(
                Code::SubscriptionConflict,
                format!(
                    "subscription {name} is declared in link {}: remove it there",
                    registered.link
                ),
            ))));
        }
        Ok(self.bus.unsubscribe(registered).await?)
    }
}

/// A subscription of the caller's.
fn mine<'a>(view: &'a View, caller: &Caller, name: &str) -> Result<&'a Registered, SubscribeError> {
    grant(view, caller).map_err(subscribe_refusal)?;
    view.subscription_of(&caller.component, name).ok_or_else(|| {
        subscribe_refusal(Problem::new(
            Code::UnknownSubscription,
            format!("component {} has no subscription {name:?}", caller.component),
        ))
    })
}

fn grant<'a>(view: &'a View, caller: &Caller) -> Result<&'a Grant, Problem> {
    let grant = view.grant(&caller.component, &caller.link)?;
    if grant.subscribe {
        return Ok(grant);
    }
    Err(Problem::new(
        Code::InterfaceNotLinked,
        format!(
            "link {} of component {} does not include `subscriber`: add it to the link's interfaces",
            caller.link, caller.component
        ),
    ))
}

fn to_wit(s: SubscriptionStatus) -> WitSubscription {
    let registered = s.registered;
    WitSubscription {
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
