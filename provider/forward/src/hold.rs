//! The holds of the deliveries that are being worked on: kept alive meanwhile, and settled in the end.

use std::time::Duration;

use bytes::Bytes;
use fanout_wit::types::{SettleError, Settlement, SettlementOutcome, Verdict};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::pause::Pause;
use crate::upstream::Inbox;

/// The shortest hold that is reckoned with, whatever the bus says.
const SHORTEST: Duration = Duration::from_millis(100);
/// For how long it is tried to settle, at least. A late word is better than none: `handled` may still be taken.
const SETTLE_FOR: Duration = Duration::from_secs(10);
/// The waits between tries to settle: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The holds of some deliveries.
pub(crate) struct Holds<B> {
    inbox: B,
    subscription: String,
    hold: Duration,
    /// One for each delivery; `None` once its hold is over.
    tokens: Mutex<Vec<Option<Bytes>>>,
}

impl<B: Inbox> Holds<B> {
    pub(crate) fn new(inbox: B, subscription: &str, hold: Duration, tokens: Vec<Bytes>) -> Self {
        Self {
            inbox,
            subscription: subscription.to_owned(),
            hold: hold.max(SHORTEST),
            tokens: Mutex::new(tokens.into_iter().map(Some).collect()),
        }
    }

    /// Renews the holds for as long as it is polled. Returns when the bus has said that none is left: it gives them out
    /// again. A bus that can't be reached says nothing, and may still take what is settled late.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(self.hold / 3).await;
            let renewed = self.renew().await;
            if renewed && self.tokens.lock().await.iter().all(Option::is_none) {
                return;
            }
        }
    }

    /// False when the bus was not reached.
    async fn renew(&self) -> bool {
        let mut tokens = self.tokens.lock().await;
        let held: Vec<usize> = (0..tokens.len()).filter(|i| tokens[*i].is_some()).collect();
        let settlements = held.iter().filter_map(|i| tokens[*i].clone()).map(|token| Settlement {
            token,
            verdict: Verdict::StillWorking,
        });
        let settlements: Vec<_> = settlements.collect();
        let Ok(answers) = self.inbox.settle(&settlements).await else {
            return false;
        };
        for (i, answer) in held.into_iter().zip(answers) {
            match answer {
                Ok(SettlementOutcome::Extended(token)) => tokens[i] = Some(token),
                Ok(SettlementOutcome::Settled) | Err(SettleError::Unavailable(_)) => {}
                Err(lost) => {
                    self.lost(&lost);
                    tokens[i] = None;
                }
            }
        }
        true
    }

    /// Settles each by its verdict, again while the bus does not answer, up to a bound.
    pub(crate) async fn settle(&self, verdicts: Vec<Verdict>) {
        self.settle_as(verdicts.into_iter()).await;
    }

    /// Gives all back untried.
    pub(crate) async fn release(&self) {
        self.settle_as(std::iter::repeat_with(|| Verdict::Released)).await;
    }

    async fn settle_as(&self, verdicts: impl Iterator<Item = Verdict>) {
        let tokens = std::mem::take(&mut *self.tokens.lock().await);
        let settlements = tokens
            .into_iter()
            .zip(verdicts)
            .filter_map(|(token, verdict)| Some(Settlement { token: token?, verdict }));
        let mut settlements: Vec<_> = settlements.collect();
        let end = Instant::now() + self.hold.max(SETTLE_FOR);
        let mut pause = Pause::new(PAUSES.0, PAUSES.1);
        while !settlements.is_empty() {
            let answers = self.inbox.settle(&settlements).await;
            if let Ok(answers) = answers {
                let mut answers = answers.into_iter();
                // What is unavailable now is tried again, and what has no answer.
                settlements.retain(|_| match answers.next() {
                    None | Some(Err(SettleError::Unavailable(_))) => true,
                    Some(Ok(_)) => false,
                    Some(Err(lost)) => {
                        self.lost(&lost);
                        false
                    }
                });
            }
            if settlements.is_empty() {
                return;
            }
            if tokio::time::timeout_at(end, pause.wait()).await.is_err() {
                warn!(
                    subscription = self.subscription,
                    deliveries = settlements.len(),
                    "the bus was not told what became of deliveries; it gives them out again"
                );
                return;
            }
        }
    }

    fn lost(&self, error: &SettleError) {
        let (SettleError::InvalidToken(problem)
        | SettleError::LeaseExpired(problem)
        | SettleError::NotPermitted(problem)
        | SettleError::Unavailable(problem)) = error;
        debug!(
            subscription = self.subscription,
            code = problem.code,
            "{}",
            problem.message
        );
    }
}
