//! What a runner asks of a bus.

use std::time::Duration;

use fanout_component::answer::Failure;
use fanout_component::bus::{ATTEMPT, INBOX, SUBSCRIBER};
use fanout_component::types::{
    DeliveryOptions, End, FetchedDeliveries, InboxError, Problem, Reach, SettleError, Settlement, SettlementOutcome,
    SubscribeError, Subscription,
};
use fanout_component::{Bus, World, wire};

use crate::plan::{Declared, Need};

/// What a fetch may take beyond its wait.
const FETCH_MARGIN: Duration = Duration::from_secs(5);
/// Of one fetch: what a component can hold beside what it does with it.
const MAX_FETCH_BYTES: u64 = 4 << 20;

/// Why a request had no use.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// The bus can't be reached, or can't do it now.
    Now {
        /// What went wrong.
        problem: Problem,
        /// When the bus takes such requests again, as it says.
        retry_after: Option<Duration>,
    },
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
            Self::Now { problem, .. } | Self::Unknown(problem) | Self::Refused(problem) => problem,
        }
    }

    /// When the bus takes such requests again, as it says.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Now { retry_after, .. } => *retry_after,
            Self::Unknown(_) | Self::Refused(_) => None,
        }
    }

    fn now(problem: Problem) -> Self {
        Self::Now {
            problem,
            retry_after: None,
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Now {
            problem: failure.problem,
            retry_after: failure.retry_after,
        }
    }
}

/// What a runner asks of a bus, and of its clock.
pub trait Inbox {
    /// Makes a subscription, one that is fetched; the same twice is one. `None` where the policy has it, and it is there already.
    ///
    /// # Errors
    /// Why it is not made.
    fn declare(&self, declared: &Declared) -> Result<Option<Subscription>, Trouble>;

    /// The caller's subscriptions.
    ///
    /// # Errors
    /// Why they are not known.
    fn subscriptions(&self) -> Result<Vec<Subscription>, Trouble>;

    /// Leases deliveries, waiting for the first.
    ///
    /// # Errors
    /// Why there are none.
    fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble>;

    /// Settles deliveries, at most 1,000: one answer for each.
    ///
    /// # Errors
    /// Why nobody knows what became of it.
    fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble>;

    /// The time since some moment.
    fn now(&self) -> Duration;

    /// Waits.
    fn pause(&self, time: Duration);
}

impl<W: World> Inbox for Bus<W> {
    fn declare(&self, declared: &Declared) -> Result<Option<Subscription>, Trouble> {
        let Declared {
            name,
            need,
            filter,
            scope,
            batch,
        } = declared;
        let options = DeliveryOptions {
            filter: filter.clone(),
            reach: Reach::Inbox,
            batch_size: *batch,
            concurrency: None,
            scope: *scope,
        };
        let made: Result<Subscription, SubscribeError> = match need {
            None => return Ok(None),
            Some(Need::Queue) => self.ask(SUBSCRIBER, "subscribe-queue", &(name, filter, Reach::Inbox)),
            Some(Need::Durable) => self.ask(SUBSCRIBER, "subscribe-durable", &(name, options)),
            Some(Need::Backfill(start)) => {
                self.ask(SUBSCRIBER, "subscribe-backfill", &(name, *start, None::<End>, options))
            }
        };
        made.map(Some).map_err(of_subscriber)
    }

    fn subscriptions(&self) -> Result<Vec<Subscription>, Trouble> {
        self.ask(SUBSCRIBER, "list-subscriptions", &()).map_err(of_subscriber)
    }

    fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, Trouble> {
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let params = wire::encode(&(name, most, Some(MAX_FETCH_BYTES), wait_ms));
        let fetched: Result<Result<_, InboxError>, _> = self.attempt(INBOX, "fetch", &params, wait + FETCH_MARGIN);
        match fetched {
            Ok(Ok(fetched)) => Ok(fetched),
            Ok(Err(InboxError::Unavailable(problem))) => Err(Trouble::now(problem)),
            Ok(Err(InboxError::UnknownSubscription(problem))) => Err(Trouble::Unknown(problem)),
            Ok(Err(InboxError::InvalidRequest(problem) | InboxError::NotPermitted(problem))) => {
                Err(Trouble::Refused(problem))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    fn settle(&self, settlements: &[Settlement]) -> Result<Vec<Result<SettlementOutcome, SettleError>>, Trouble> {
        let params = wire::encode(&(settlements,));
        self.attempt(INBOX, "settle", &params, ATTEMPT).map_err(Trouble::from)
    }

    fn now(&self) -> Duration {
        self.world().now()
    }

    fn pause(&self, time: Duration) {
        self.world().pause(time);
    }
}

fn of_subscriber(error: SubscribeError) -> Trouble {
    match error {
        SubscribeError::Unavailable(problem) | SubscribeError::OutcomeUnknown(problem) => Trouble::now(problem),
        SubscribeError::UnknownSubscription(problem) => Trouble::Unknown(problem),
        SubscribeError::InvalidRequest(problem)
        | SubscribeError::NotPermitted(problem)
        | SubscribeError::Conflict(problem) => Trouble::Refused(problem),
    }
}
