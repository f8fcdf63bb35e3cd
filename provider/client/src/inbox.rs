//! What whoever delivers asks of a bus: to make a subscription, to lease its deliveries, to settle them.

use std::time::Duration;

use fanout_transport::CallContext;
use fanout_wit::types::{
    FetchedDeliveries, InboxError, Problem, SettleError, Settlement, SettlementOutcome, SubscribeError,
};

use crate::{Subscription, Upstream};

/// Why a call to the bus had no use.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// It can't be reached, or says that it can't do it now: a retry can help.
    Now(Problem),
    /// It has no such subscription: it has to be made again.
    Unknown(Problem),
    /// It refuses: somebody has to change something first.
    Refused(Problem),
}

impl Trouble {
    /// What went wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Now(problem) | Self::Unknown(problem) | Self::Refused(problem) => problem,
        }
    }
}

/// What deliveries ask of a bus.
pub trait Inbox: Clone + Send + Sync + 'static {
    /// Makes the subscription, one that is fetched; the same twice is one.
    fn declare(&self, wanted: &Subscription) -> impl Future<Output = Result<(), Trouble>> + Send;

    /// Leases deliveries, waiting for the first.
    fn fetch(
        &self,
        name: &str,
        most: u32,
        wait: Duration,
    ) -> impl Future<Output = Result<FetchedDeliveries, Trouble>> + Send;

    /// Settles deliveries: one answer for each.
    fn settle(
        &self,
        settlements: &[Settlement],
    ) -> impl Future<Output = Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble>> + Send;
}

impl Inbox for Upstream {
    async fn declare(&self, wanted: &Subscription) -> Result<(), Trouble> {
        match self.subscribe(&CallContext::default(), wanted).await {
            Ok(_) => Ok(()),
            Err(SubscribeError::Unavailable(problem) | SubscribeError::OutcomeUnknown(problem)) => {
                Err(Trouble::Now(problem))
            }
            Err(
                SubscribeError::InvalidRequest(problem)
                | SubscribeError::NotPermitted(problem)
                | SubscribeError::Conflict(problem)
                | SubscribeError::UnknownSubscription(problem),
            ) => Err(Trouble::Refused(problem)),
        }
    }

    async fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble> {
        let fetched = self.fetch_for(&CallContext::default(), name, most, None, wait).await;
        fetched.map_err(|error| match error {
            InboxError::Unavailable(problem) => Trouble::Now(problem),
            InboxError::UnknownSubscription(problem) => Trouble::Unknown(problem),
            InboxError::InvalidRequest(problem) | InboxError::NotPermitted(problem) => Trouble::Refused(problem),
        })
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble> {
        let settled = self.settle_for(&CallContext::default(), settlements).await;
        settled.map_err(Trouble::Now)
    }
}
