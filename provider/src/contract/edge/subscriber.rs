//! `subscriber` at an edge: the bus makes the subscription, as one that is fetched; whose it is, the edge remembers.

use fanout_forward::Wanted;
use fanout_plan::link::Grant;
use fanout_plan::subscription::{MadeBy, Need, Subscription};
use fanout_plan::{Code, Problem, authority};
use fanout_transport::Caller;
use fanout_wit::types::{
    DeliveryOptions, End, Filter, Reach, Start, SubscribeError, Subscription as WitSubscription, SubscriptionState,
};

use super::{AtEdge, onward};
use crate::contract::convert as ours;
use crate::contract::errors::subscribe_refusal;
use crate::edge::{Served, View};
use fanout_wit::bus::exports::fanout::bus::subscriber::Handler;

type Answer<T> = anyhow::Result<Result<T, SubscribeError>>;

impl Handler<Caller> for AtEdge {
    async fn subscribe_queue(
        &self,
        caller: Caller,
        name: String,
        filter: Filter,
        reach: Reach,
    ) -> Answer<WitSubscription> {
        // Who may not ask at all costs no comparison.
        let asked = self
            .subscribe_grant(&caller)
            .and_then(|_| ours::queue(&name, filter, reach));
        Ok(match asked {
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
            start: ours::start(&start),
            end: end.as_ref().map(ours::end),
        };
        Ok(self.subscribe_logged(&caller, &name, need, options).await)
    }

    async fn unsubscribe(&self, caller: Caller, name: String) -> Answer<()> {
        Ok(self.end_subscription(&caller, &name).await)
    }

    async fn pause(&self, caller: Caller, name: String) -> Answer<WitSubscription> {
        Ok(self.paused(&caller, &name, true).await)
    }

    async fn resume(&self, caller: Caller, name: String) -> Answer<WitSubscription> {
        Ok(self.paused(&caller, &name, false).await)
    }

    async fn rewind(&self, caller: Caller, name: String, to: Start) -> Answer<WitSubscription> {
        Ok(self.rewound(&caller, &name, &to).await)
    }

    async fn list_subscriptions(&self, caller: Caller) -> Answer<Vec<WitSubscription>> {
        if let Err(p) = self.subscribe_grant(&caller) {
            return Ok(Err(subscribe_refusal(p)));
        }
        let listed = match self.edge.upstream().subscriptions(&onward(&caller)).await {
            Ok(listed) => listed,
            Err(e) => return Ok(Err(e)),
        };
        let view = self.edge.view();
        let mine = listed.into_iter().filter_map(|theirs| {
            let served = theirs.name.parse().ok().and_then(|name| view.served.get(&name))?;
            (served.component == caller.component).then(|| as_here(&view, served, theirs))
        });
        Ok(Ok(mine.collect()))
    }
}

impl AtEdge {
    fn subscribe_grant(&self, caller: &Caller) -> Result<Grant, Problem> {
        let grant = self.edge.grant(&caller.component, &caller.link)?;
        if grant.subscribe {
            return Ok(grant);
        }
        Err(Problem::new(
            Code::InterfaceNotLinked,
            format!(
                "{} does not include `subscriber`: add it to the link's interfaces",
                authority::describe(&caller.component, &caller.link)
            ),
        ))
    }

    /// A subscription that the caller may change.
    fn mine(&self, caller: &Caller, name: &str) -> Result<Served, SubscribeError> {
        self.subscribe_grant(caller).map_err(subscribe_refusal)?;
        self.edge.mine(&caller.component, name).map_err(subscribe_refusal)
    }

    async fn subscribe_logged(
        &self,
        caller: &Caller,
        name: &str,
        need: Need,
        options: DeliveryOptions,
    ) -> Result<WitSubscription, SubscribeError> {
        self.subscribe_grant(caller).map_err(subscribe_refusal)?;
        let asked = ours::subscription(name, need, options, self.edge.defaults()).map_err(subscribe_refusal)?;
        self.subscribe(caller, asked).await
    }

    async fn subscribe(&self, caller: &Caller, mut asked: Subscription) -> Result<WitSubscription, SubscribeError> {
        let grant = self.subscribe_grant(caller).map_err(subscribe_refusal)?;
        asked.filter = grant.narrow(asked.filter).map_err(subscribe_refusal)?;
        self.edge.may_make(&caller.component, &asked).await?;
        // Made before it is remembered: one that the bus refuses leaves nothing behind here. Broken off in between, the
        // component has no answer and asks again, and that finds it.
        let wanted = Wanted::from(&asked);
        let made = self.edge.upstream().subscribe(&onward(caller), &wanted).await?;
        let name = asked.name.clone();
        self.edge.remember(&caller.component, &caller.link, asked).await?;
        let view = self.edge.view();
        match view.served.get(&name) {
            Some(served) => Ok(as_here(&view, served, made)),
            None => Err(subscribe_refusal(Problem::new(
                Code::BusNotReady,
                format!("subscription {name} was ended at the same moment: ask again"),
            ))),
        }
    }

    async fn end_subscription(&self, caller: &Caller, name: &str) -> Result<(), SubscribeError> {
        let served = self.mine(caller, name)?;
        if served.made_by != MadeBy::Call {
            return Err(SubscribeError::Conflict(ours::problem(Problem::new(
                Code::SubscriptionConflict,
                format!("subscription {name} is declared in a link: remove it there"),
            ))));
        }
        match self.edge.upstream().unsubscribe(&onward(caller), name).await {
            // The bus may have forgotten it first, or have done so at an earlier try.
            Ok(()) | Err(SubscribeError::UnknownSubscription(_)) => {}
            Err(e) => return Err(e),
        }
        let forgotten = self.edge.forget(&served.subscription.name).await;
        forgotten.map_err(|p| SubscribeError::OutcomeUnknown(ours::problem(p)))
    }

    async fn paused(&self, caller: &Caller, name: &str, paused: bool) -> Result<WitSubscription, SubscribeError> {
        let served = self.mine(caller, name)?;
        let changed = self.edge.upstream().pause(&onward(caller), name, paused).await?;
        Ok(as_here(&self.edge.view(), &served, changed))
    }

    async fn rewound(&self, caller: &Caller, name: &str, to: &Start) -> Result<WitSubscription, SubscribeError> {
        let served = self.mine(caller, name)?;
        let changed = self.edge.upstream().rewind(&onward(caller), name, to).await?;
        let begun = self.edge.begin_anew(&served.subscription.name).await;
        begun.map_err(|p| SubscribeError::OutcomeUnknown(ours::problem(p)))?;
        Ok(as_here(&self.edge.view(), &served, changed))
    }
}

/// What the bus says of a subscription, as its component at this edge has it.
fn as_here(view: &View, served: &Served, theirs: WitSubscription) -> WitSubscription {
    let state = match &theirs.state {
        // What the operator or the component decided goes before what it waits for.
        SubscriptionState::Paused | SubscriptionState::Finished => None,
        _ => view
            .waiting(&served.subscription.name, None)
            .map(SubscriptionState::Waiting),
    };
    WitSubscription {
        made_by: ours::made_by(served.made_by),
        need: ours::need(&served.subscription.need),
        filter: ours::from_filter(&served.subscription.filter),
        state: state.unwrap_or(theirs.state),
        ..theirs
    }
}
