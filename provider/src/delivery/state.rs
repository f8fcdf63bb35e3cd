//! The state of a delivery.

use std::fmt;
use std::time::Duration;

/// Where a delivery stands, from its first attempt until it has left the subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryState {
    /// It waits for an attempt.
    New,
    /// Its subscriber was given it, and has not answered.
    InFlight,
    /// It has left the subscription: it was handled, or it is a dead letter.
    Settled,
    /// It waits for its next attempt in the store of retries.
    WaitingRetry,
    /// It is to be delivered again after this time.
    Retry(Duration),
    /// The store did not take what belongs to it: again after this time. The attempt does not count.
    StoreUnavailable(Duration),
    /// Its subscriber can't be reached: again after this time, and nothing else before.
    SubscriberUnavailable(Duration),
}

impl DeliveryState {
    /// After how long the store, or the owner of the order, is to deliver it again; `None` where neither is.
    pub(crate) fn again_after(self) -> Option<Duration> {
        match self {
            Self::New | Self::InFlight | Self::Settled | Self::WaitingRetry => None,
            Self::Retry(delay) | Self::StoreUnavailable(delay) | Self::SubscriberUnavailable(delay) => Some(delay),
        }
    }
}

impl fmt::Display for DeliveryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::New => f.write_str("new"),
            Self::InFlight => f.write_str("in-flight"),
            Self::Settled => f.write_str("settled"),
            Self::WaitingRetry => f.write_str("waiting-retry"),
            Self::Retry(delay) => write!(f, "retry in {delay:?}"),
            Self::StoreUnavailable(delay) => write!(f, "store-unavailable for {delay:?}"),
            Self::SubscriberUnavailable(delay) => write!(f, "subscriber-unavailable for {delay:?}"),
        }
    }
}
