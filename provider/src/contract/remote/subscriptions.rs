//! Subscriptions at a bus elsewhere: it makes each as one that is fetched; whose it is, the edge remembers.

use fanout_client::Subscription as Wanted;
use fanout_plan::subscription::Subscription;
use fanout_plan::{Code, Problem};
use fanout_transport::Caller;
use fanout_wit::subscriber;
use fanout_wit::types::{self as wit, SubscribeError, SubscriptionState};

use super::onward;
use crate::bus::Amendment;
use crate::contract::convert::{self, problem};
use crate::contract::errors::subscribe_refusal;
use crate::contract::subscriber::{Subscribe, Terms};
use crate::edge::{Edge, Served, View};

impl Subscribe for Edge {
    fn terms(&self) -> Result<Terms, Problem> {
        let defaults = self.defaults();
        Ok(Terms {
            batch_size: defaults.delivery.batch_size,
            concurrency: defaults.delivery.concurrency,
            limits: None,
        })
    }

    async fn subscribe(&self, caller: &Caller, asked: Subscription) -> Result<wit::Subscription, SubscribeError> {
        self.may_make(&caller.component, &asked).await?;
        // Made before it is remembered: one that the bus refuses leaves nothing behind here. Broken off in between, the
        // component has no answer and asks again, and that finds it.
        let wanted = Wanted::from(&asked);
        let made = self.upstream().subscribe(&onward(caller), &wanted).await?;
        let name = asked.name.clone();
        self.remember(&caller.component, &caller.link, asked).await?;
        let view = self.view();
        match view.served.get(&name) {
            Some(served) => Ok(as_here(&view, served, made)),
            None => Err(subscribe_refusal(Problem::new(
                Code::BusNotReady,
                format!("subscription {name} was ended at the same moment: ask again"),
            ))),
        }
    }

    async fn unsubscribe(&self, caller: &Caller, owned: &Served) -> Result<(), SubscribeError> {
        let name = &owned.subscription.name;
        let bus = self.upstream();
        let ended = bus.ask(onward(caller), |cx| subscriber::unsubscribe(bus, cx, name.as_str()));
        match ended.await {
            // The bus may have forgotten it first, or have done so at an earlier try.
            Ok(()) | Err(SubscribeError::UnknownSubscription(_)) => {}
            Err(e) => return Err(e),
        }
        self.forget(name).await.map_err(unnoted)
    }

    async fn amend(
        &self,
        caller: &Caller,
        owned: &Served,
        change: Amendment,
    ) -> Result<wit::Subscription, SubscribeError> {
        let (bus, cx, name) = (self.upstream(), onward(caller), owned.subscription.name.as_str());
        let amended = match change {
            Amendment::Pause(true) => bus.ask(cx, |cx| subscriber::pause(bus, cx, name)).await?,
            Amendment::Pause(false) => bus.ask(cx, |cx| subscriber::resume(bus, cx, name)).await?,
            Amendment::Rewind(to) => {
                let to = &convert::from_start(to);
                let rewound = bus.ask(cx, |cx| subscriber::rewind(bus, cx, name, to)).await?;
                self.begin_anew(&owned.subscription.name).await.map_err(unnoted)?;
                rewound
            }
        };
        Ok(as_here(&self.view(), owned, amended))
    }

    async fn subscriptions(&self, caller: &Caller) -> Result<Vec<wit::Subscription>, SubscribeError> {
        let listed = self.upstream().subscriptions(&onward(caller)).await?;
        let view = self.view();
        let mine = listed.into_iter().filter_map(|theirs| {
            let served = theirs.name.parse().ok().and_then(|name| view.served.get(&name))?;
            (served.component == caller.component).then(|| as_here(&view, served, theirs))
        });
        Ok(mine.collect())
    }
}

/// The bus has done it, and the edge's memory has not noted it.
fn unnoted(p: Problem) -> SubscribeError {
    SubscribeError::OutcomeUnknown(problem(p))
}

/// What the bus says of a subscription, as its component at this edge has it.
fn as_here(view: &View, served: &Served, theirs: wit::Subscription) -> wit::Subscription {
    let state = match &theirs.state {
        // What the operator or the component decided goes before what it waits for.
        SubscriptionState::Paused | SubscriptionState::Finished => None,
        _ => view
            .waiting(&served.subscription.name, None)
            .map(SubscriptionState::Waiting),
    };
    wit::Subscription {
        made_by: convert::made_by(served.made_by),
        need: convert::need(&served.subscription.need),
        filter: convert::from_filter(&served.subscription.filter),
        state: state.unwrap_or(theirs.state),
        ..theirs
    }
}
