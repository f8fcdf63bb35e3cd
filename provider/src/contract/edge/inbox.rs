//! `inbox` at an edge. The bus holds what is fetched; its tokens are sealed once more, each for the component that
//! fetched, since to the bus all components of an edge are one caller.

use std::time::Duration;

use fanout_forward::Wanted;
use fanout_plan::subscription::Reach;
use fanout_plan::{Code, Problem, authority};
use fanout_transport::Caller;

use super::{AtEdge, onward};
use crate::contract::convert::problem;
use crate::contract::guard::{again, of_each, once};
use crate::contract::inbox::{refusal, settle_problem, settle_refusal, too_many_fetches, wait_aside};
use crate::edge::Served;
use crate::inbox::{Ask, Seal};
use fanout_wit::bus::exports::fanout::bus::inbox::Handler;
use fanout_wit::types::{
    FetchedDeliveries, InboxError, LeasedDelivery, SettleError, Settlement, SettlementOutcome, SubscribeError,
};

/// The longest that a fetch waits: its answer has to be back before the lattice gives the call up.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

impl Handler<Caller> for AtEdge {
    async fn fetch(
        &self,
        caller: Caller,
        subscription: String,
        max_deliveries: u32,
        max_bytes: Option<u64>,
        wait_ms: u32,
    ) -> anyhow::Result<Result<FetchedDeliveries, InboxError>> {
        let wait = Duration::from_millis(wait_ms.into()).min(LONGEST_WAIT);
        Ok(match self.fetchable(&caller, &subscription).await {
            Ok((served, seal)) => {
                let ask = Ask {
                    most: max_deliveries,
                    max_bytes,
                    wait,
                };
                let (waits, ask) = wait_aside(&self.waiting, &caller, ask);
                let fetched = self.fetch_for(&caller, &served, ask).await;
                let fetched = match fetched {
                    Ok(none) if waits.is_none() && none.deliveries.is_empty() => {
                        return Ok(Err(refusal(too_many_fetches(&self.waiting, &caller, &subscription))));
                    }
                    fetched => fetched,
                };
                fetched.and_then(|fetched| sealed(&seal, &caller, fetched).map_err(refusal))
            }
            Err(p) => Err(refusal(p)),
        })
    }

    async fn settle(
        &self,
        caller: Caller,
        settlements: Vec<Settlement>,
    ) -> anyhow::Result<Vec<Result<SettlementOutcome, SettleError>>> {
        let seal = match self.grant_inbox(&caller) {
            Ok(()) => self.edge.seal().await,
            Err(p) => Err(p),
        };
        match seal {
            Ok(seal) => Ok(self.settle_for(&caller, &seal, settlements).await),
            Err(p) => Ok(of_each(settlements.len(), |said_before| {
                settle_refusal(again(&p, said_before))
            })),
        }
    }
}

impl AtEdge {
    fn grant_inbox(&self, caller: &Caller) -> Result<(), Problem> {
        let grant = self.edge.grant(&caller.component, &caller.link)?;
        if grant.inbox {
            return Ok(());
        }
        Err(Problem::new(
            Code::InterfaceNotLinked,
            format!(
                "{} does not include `inbox`: add it to its interfaces",
                authority::describe(&caller.component, &caller.link)
            ),
        ))
    }

    /// A subscription of the caller's that it may fetch now, and what seals its tokens.
    async fn fetchable(&self, caller: &Caller, name: &str) -> Result<(Served, std::sync::Arc<Seal>), Problem> {
        self.grant_inbox(caller)?;
        let served = self.edge.mine(&caller.component, name)?;
        if served.subscription.reach != Reach::Inbox {
            return Err(Problem::new(
                Code::NotAnInbox,
                format!("subscription {name} is given to a handler: make it with the reach `inbox` to fetch it"),
            ));
        }
        let grant = self.edge.grant(&caller.component, &caller.link)?;
        if !grant.allows.covers(&served.subscription.filter) {
            return Err(Problem::new(
                Code::TenantNotPermitted,
                format!(
                    "{} does not allow every tenant and event type of subscription {name}: widen its `tenants` and `event-types`, or narrow the subscription",
                    authority::describe(&caller.component, &caller.link)
                ),
            ));
        }
        if let Some(problem) = self.edge.view().detached.get(&served.subscription.name) {
            return Err(problem.clone());
        }
        Ok((served, self.edge.seal().await?))
    }

    async fn fetch_for(
        &self,
        caller: &Caller,
        served: &Served,
        Ask { most, max_bytes, wait }: Ask,
    ) -> Result<FetchedDeliveries, InboxError> {
        let (upstream, cx) = (self.edge.upstream(), onward(caller));
        let name = served.subscription.name.as_str();
        match upstream.fetch_for(&cx, name, most, max_bytes, wait).await {
            // The bus does not know it yet, or no more: it is the same subscription, made again.
            Err(InboxError::UnknownSubscription(_)) => {
                let made = upstream.subscribe(&cx, &Wanted::from(&served.subscription)).await;
                made.map_err(not_made)?;
                upstream.fetch_for(&cx, name, most, max_bytes, wait).await
            }
            other => other,
        }
    }

    async fn settle_for(
        &self,
        caller: &Caller,
        seal: &Seal,
        settlements: Vec<Settlement>,
    ) -> Vec<Result<SettlementOutcome, SettleError>> {
        let mut sent = Vec::with_capacity(settlements.len());
        let mut is_sent = Vec::with_capacity(settlements.len());
        for settlement in settlements {
            let token = seal.open_bytes(&caller.component, &settlement.token);
            is_sent.push(token.is_some());
            sent.extend(token.map(|token| Settlement {
                token: token.into(),
                verdict: settlement.verdict,
            }));
        }
        let answers = if sent.is_empty() {
            Ok(Vec::new())
        } else {
            self.edge.upstream().settle_for(&onward(caller), &sent).await
        };
        let (mut answers, unreached) = match answers {
            Ok(answers) => (answers.into_iter(), None),
            Err(problem) => (Vec::new().into_iter(), Some(problem)),
        };
        let one = |is_sent: bool| {
            if !is_sent {
                return Err(SettleError::InvalidToken(problem(Problem::new(
                    Code::InvalidToken,
                    format!(
                        "component {} was given no such token: settle with the one that came with the delivery",
                        caller.component
                    ),
                ))));
            }
            match (answers.next(), &unreached) {
                (Some(Ok(SettlementOutcome::Settled)), _) => Ok(SettlementOutcome::Settled),
                (Some(Ok(SettlementOutcome::Extended(token))), _) => {
                    let token = seal.seal_bytes(&caller.component, token.to_vec());
                    token
                        .map(SettlementOutcome::Extended)
                        .map_err(|e| settle_refusal(unsealed(&e)))
                }
                (Some(Err(e)), _) => Err(e),
                (None, Some(problem)) => Err(SettleError::Unavailable(problem.clone())),
                (None, None) => Err(SettleError::Unavailable(problem(Problem::new(
                    Code::BusNotReady,
                    "the bus gave fewer answers than it was told verdicts: settle it again",
                )))),
            }
        };
        let mut settled: Vec<_> = is_sent.into_iter().map(one).collect();
        once(&mut settled, settle_problem);
        settled
    }
}

fn sealed(seal: &Seal, caller: &Caller, fetched: FetchedDeliveries) -> Result<FetchedDeliveries, Problem> {
    let seal = |held: LeasedDelivery| {
        let token = seal.seal_bytes(&caller.component, held.token.to_vec());
        Ok(LeasedDelivery {
            token: token.map_err(|e| unsealed(&e))?,
            delivery: held.delivery,
            traceparent: held.traceparent,
        })
    };
    Ok(FetchedDeliveries {
        deliveries: fetched
            .deliveries
            .into_iter()
            .map(seal)
            .collect::<Result<_, Problem>>()?,
        ..fetched
    })
}

fn unsealed(e: &impl std::fmt::Display) -> Problem {
    Problem::new(Code::BusNotReady, e.to_string())
}

/// Why what is to be fetched could not be made.
fn not_made(e: SubscribeError) -> InboxError {
    match e {
        SubscribeError::NotPermitted(p) => InboxError::NotPermitted(p),
        SubscribeError::UnknownSubscription(p) => InboxError::UnknownSubscription(p),
        SubscribeError::InvalidRequest(p) | SubscribeError::Conflict(p) => InboxError::InvalidRequest(p),
        SubscribeError::Unavailable(p) | SubscribeError::OutcomeUnknown(p) => InboxError::Unavailable(p),
    }
}
