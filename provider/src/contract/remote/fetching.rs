//! Fetching from a bus elsewhere, which leases to this edge: a token says besides which component fetched, since to the
//! bus all components of an edge are one caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_client::Subscription as Wanted;
use fanout_plan::{Code, Problem};
use fanout_transport::Caller;
use fanout_wit::types::{InboxError, SettleError, Settlement, SettlementOutcome, Verdict};

use super::onward;
use crate::contract::errors::{inbox_refusal, not_made};
use crate::contract::inbox::{Fetch, Fetched, Outcome};
use crate::edge::{Edge, Served};
use crate::inbox::{FetchLimits, Seal};

impl Fetch for Edge {
    /// The bus's token.
    type Lease = Bytes;

    /// Its answer has to be back before the lattice gives the call up.
    const LONGEST_WAIT: Duration = Duration::from_secs(4);
    /// Each is a call to the bus, of which the edge may have 512 under way.
    const WAITING: (usize, usize) = (128, 384);

    async fn seal(&self) -> Result<Arc<Seal>, Problem> {
        self.seal().await
    }

    fn token(seal: &Seal, caller: &Caller, lease: Bytes) -> Result<Bytes, Problem> {
        let signed = seal.sign(&caller.component, &lease);
        signed.map_err(|e| Problem::new(Code::BusNotReady, e.to_string()))
    }

    fn lease(seal: &Seal, caller: &Caller, token: &Bytes) -> Option<Bytes> {
        seal.signed(&caller.component, token)
    }

    async fn fetch(&self, caller: &Caller, owned: &Served, limits: FetchLimits) -> Result<Fetched<Bytes>, InboxError> {
        if let Some(problem) = self.view().detached.get(&owned.subscription.name) {
            return Err(inbox_refusal(problem.clone()));
        }
        let (upstream, cx) = (self.upstream(), onward(caller));
        let name = owned.subscription.name.as_str();
        let FetchLimits { most, max_bytes, wait } = limits;
        let fetched = match upstream.fetch_for(&cx, name, most, max_bytes, wait).await {
            // The bus does not know it yet, or no more: it is the same subscription, made again.
            Err(InboxError::UnknownSubscription(_)) => {
                let made = upstream.subscribe(&cx, &Wanted::from(&owned.subscription)).await;
                made.map_err(not_made)?;
                upstream.fetch_for(&cx, name, most, max_bytes, wait).await?
            }
            other => other?,
        };
        let leased = fetched.deliveries.into_iter();
        Ok(Fetched {
            deliveries: leased.map(|l| (l.delivery, l.traceparent, l.token)).collect(),
            lease: Duration::from_millis(fetched.lease_ms),
            caught_up: fetched.caught_up,
            crowded: false,
        })
    }

    async fn settle(&self, caller: &Caller, leases: Vec<(Bytes, Verdict)>) -> Vec<Result<Outcome<Bytes>, SettleError>> {
        let settlements = leases.into_iter().map(|(token, verdict)| Settlement { token, verdict });
        let settlements: Vec<_> = settlements.collect();
        match self.upstream().settle_for(&onward(caller), &settlements).await {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| {
                    answer.map(|outcome| match outcome {
                        SettlementOutcome::Settled => Outcome::Settled,
                        SettlementOutcome::Extended(token) => Outcome::Extended(token),
                    })
                })
                .collect(),
            Err(problem) => {
                let unreached = || Err(SettleError::Unavailable(problem.clone()));
                settlements.iter().map(|_| unreached()).collect()
            }
        }
    }
}
