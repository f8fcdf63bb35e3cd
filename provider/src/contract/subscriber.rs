//! `subscriber`: subscriptions that a caller makes by a call.

use fanout_plan::limits::Limits;
use fanout_plan::policy::DEFAULT_CONCURRENCY;
use fanout_plan::subscription::{self, MadeBy, Need};
use fanout_plan::{Code, Problem, authority};
use fanout_transport::{Caller, Shape};
use fanout_wit::bus::exports::fanout::bus::subscriber::Handler;
use fanout_wit::types::{DeliveryOptions, End, Filter, Reach, Scope, Start, SubscribeError, Subscription};

use super::backend::{Authority, Backend, Owned as _, OwnedBy, Rights as _};
use super::convert;
use super::errors::subscribe_refusal;
use super::exports::Exports;
use super::guard::{Interface, granted};
use super::shapes::{END, FILTER, NAME, OPTIONS, START};
use crate::bus::Amendment;

/// What subscriptions take that say nothing else, and how long their lists may be.
pub(super) struct Terms {
    pub(super) batch_size: u32,
    pub(super) concurrency: u32,
    /// Absent where another bus bounds them.
    pub(super) limits: Option<Limits>,
}

/// What is asked of a backend.
pub(super) trait Subscribe: Authority {
    /// # Errors
    /// When there is no policy in force.
    fn terms(&self) -> Result<Terms, Problem>;

    fn subscribe(
        &self,
        caller: &Caller,
        asked: subscription::Subscription,
    ) -> impl Future<Output = Result<Subscription, SubscribeError>> + Send;

    /// Ends a subscription that was made by a call.
    fn unsubscribe(
        &self,
        caller: &Caller,
        owned: &OwnedBy<Self>,
    ) -> impl Future<Output = Result<(), SubscribeError>> + Send;

    fn amend(
        &self,
        caller: &Caller,
        owned: &OwnedBy<Self>,
        change: Amendment,
    ) -> impl Future<Output = Result<Subscription, SubscribeError>> + Send;

    /// The caller's subscriptions, by name.
    fn subscriptions(&self, caller: &Caller) -> impl Future<Output = Result<Vec<Subscription>, SubscribeError>> + Send;
}

/// The parameters of its functions.
pub(super) fn shape(func: &str) -> Option<&'static Shape> {
    Some(match func {
        "subscribe-queue" => &Shape::Fields(&[Shape::Bytes, FILTER, Shape::Number]),
        "subscribe-durable" => &Shape::Fields(&[Shape::Bytes, OPTIONS]),
        "subscribe-backfill" => &Shape::Fields(&[Shape::Bytes, START, Shape::Option(&END), OPTIONS]),
        "unsubscribe" | "pause" | "resume" => &NAME,
        "rewind" => &Shape::Fields(&[Shape::Bytes, START]),
        "list-subscriptions" => &Shape::Fields(&[]),
        _ => return None,
    })
}

type Answer<T> = anyhow::Result<Result<T, SubscribeError>>;

impl<B: Backend> Handler<Caller> for Exports<B> {
    async fn subscribe_queue(
        &self,
        caller: Caller,
        name: String,
        filter: Filter,
        reach: Reach,
    ) -> Answer<Subscription> {
        let options = DeliveryOptions {
            filter,
            reach,
            batch_size: Some(1),
            concurrency: Some(DEFAULT_CONCURRENCY),
            // A queue subscription is given what is published at its own place, whatever is said.
            scope: Scope::Everywhere,
        };
        Ok(self.subscribe(&caller, &name, Need::Queue, options).await)
    }

    async fn subscribe_durable(&self, caller: Caller, name: String, options: DeliveryOptions) -> Answer<Subscription> {
        Ok(self.subscribe(&caller, &name, Need::Durable, options).await)
    }

    async fn subscribe_backfill(
        &self,
        caller: Caller,
        name: String,
        start: Start,
        end: Option<End>,
        options: DeliveryOptions,
    ) -> Answer<Subscription> {
        let need = Need::Backfill {
            start: convert::start(&start),
            end: end.as_ref().map(convert::end),
        };
        Ok(self.subscribe(&caller, &name, need, options).await)
    }

    async fn unsubscribe(&self, caller: Caller, name: String) -> Answer<()> {
        Ok(self.end(&caller, &name).await)
    }

    async fn pause(&self, caller: Caller, name: String) -> Answer<Subscription> {
        Ok(self.amend(&caller, &name, Amendment::Pause(true)).await)
    }

    async fn resume(&self, caller: Caller, name: String) -> Answer<Subscription> {
        Ok(self.amend(&caller, &name, Amendment::Pause(false)).await)
    }

    async fn rewind(&self, caller: Caller, name: String, to: Start) -> Answer<Subscription> {
        Ok(self.amend(&caller, &name, Amendment::Rewind(convert::start(&to))).await)
    }

    async fn list_subscriptions(&self, caller: Caller) -> Answer<Vec<Subscription>> {
        if let Err(p) = granted(&*self.backend.view(), &caller, Interface::Subscriber) {
            return Ok(Err(subscribe_refusal(p)));
        }
        Ok(self.backend.subscriptions(&caller).await)
    }
}

impl<B: Backend> Exports<B> {
    async fn subscribe(
        &self,
        caller: &Caller,
        name: &str,
        need: Need,
        options: DeliveryOptions,
    ) -> Result<Subscription, SubscribeError> {
        let asked = self.asked(caller, name, need, options).map_err(subscribe_refusal)?;
        self.backend.subscribe(caller, asked).await
    }

    /// What a caller asks for, narrowed to what its link allows.
    fn asked(
        &self,
        caller: &Caller,
        name: &str,
        need: Need,
        options: DeliveryOptions,
    ) -> Result<subscription::Subscription, Problem> {
        let view = self.backend.view();
        let grant = granted(&*view, caller, Interface::Subscriber)?;
        let terms = self.backend.terms()?;
        // Before an item of the lists is read.
        if let Some(limits) = terms.limits {
            limits.lists(name, options.filter.tenants.len(), options.filter.event_types.len())?;
        }
        let mut asked = convert::subscription(name, need, options, &terms)?;
        if authority::is_named_caller(&caller.component) && asked.reach != subscription::Reach::Inbox {
            return Err(Problem::new(
                Code::NotCallable,
                format!(
                    "{} is no component of a lattice, and can't be called: subscribe with the reach `inbox`, and fetch",
                    authority::describe(&caller.component, &caller.link)
                ),
            ));
        }
        asked.filter = grant.narrow(asked.filter, &caller.component, &caller.link)?;
        Ok(asked)
    }

    async fn amend(&self, caller: &Caller, name: &str, change: Amendment) -> Result<Subscription, SubscribeError> {
        let owned = self.owned(caller, name).map_err(subscribe_refusal)?;
        self.backend.amend(caller, &owned, change).await
    }

    async fn end(&self, caller: &Caller, name: &str) -> Result<(), SubscribeError> {
        let owned = self.owned(caller, name).map_err(subscribe_refusal)?;
        let declared_in = match owned.made_by() {
            MadeBy::Call => return self.backend.unsubscribe(caller, &owned).await,
            MadeBy::Link => "a link",
            MadeBy::Policy => "the policy",
        };
        Err(SubscribeError::Conflict(convert::problem(Problem::new(
            Code::SubscriptionConflict,
            format!("subscription {name} is declared in {declared_in}: remove it there"),
        ))))
    }

    /// A subscription that the caller may change.
    fn owned(&self, caller: &Caller, name: &str) -> Result<OwnedBy<B>, Problem> {
        let view = self.backend.view();
        granted(&*view, caller, Interface::Subscriber)?;
        view.owned(caller, name).cloned()
    }
}
