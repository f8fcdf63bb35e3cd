//! What is checked after something was killed while webhooks were under way.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::Story;
use super::observe::ASK_EVERY;
use super::traffic::Accepted;
use crate::wait::{Check, until};

const STAND_STILL_LIMIT: Duration = Duration::from_secs(60);
/// The queue subscriber has had its chance when its count stood still this long, many times what a handling takes.
const STANDS_STILL: Duration = Duration::from_secs(3);

impl Story<'_> {
    /// Says what the kill cost, and waits until everyone has handled what comes to it. `repeats`: senders had to try again, at
    /// least so many of them.
    pub(super) async fn after_a_kill(
        &mut self,
        count: u64,
        accepted: &[Accepted],
        repeats: Option<usize>,
    ) -> Result<()> {
        let sum = |number: fn(&Accepted) -> u64| accepted.iter().map(number).sum::<u64>();
        let retried = accepted.iter().filter(|accepted| accepted.posts > 1).count();
        let known = accepted.iter().filter(|accepted| accepted.receipt.duplicate).count();
        self.console.timed(format!(
            "{count} accepted; {retried} needed more than one post ({} put off, {} without an answer), {known} turned out to be stored before",
            sum(|accepted| accepted.put_off),
            sum(|accepted| accepted.unanswered),
        ));
        if let Some(repeats) = repeats {
            self.checks
                .at_least("webhooks that the kill forced to be posted again", repeats, retried);
        }

        let lines = self.invoicing_caught_up().await?;
        self.settled().await?;
        let invoices = self.ledger.total(|account| account.invoices);
        let expected = self.ledger.total(|account| account.entitlements);
        let handled = self.entitlements_stand_still(expected).await?;
        let window = self.ledger.total(|account| account.entitlements_in_window);
        self.console.timed(format!(
            "handled: invoicing {lines} of {invoices}, entitlements {handled} of {expected}"
        ));
        self.console.timed(format!(
            "a queue subscription is at most once: {} missed, of {window} events posted around the kill",
            expected.saturating_sub(handled)
        ));
        Ok(())
    }

    /// Waits until entitlements has handled all, or does not go on.
    async fn entitlements_stand_still(&self, expected: u64) -> Result<u64> {
        let mut last = (0, Instant::now());
        until(
            "entitlements to stand still",
            STAND_STILL_LIMIT,
            ASK_EVERY,
            async || {
                let handled = self.observer.audit().await?.total();
                if handled != last.0 {
                    last = (handled, Instant::now());
                }
                Ok(if handled >= expected || last.1.elapsed() > STANDS_STILL {
                    Check::Found(handled)
                } else {
                    Check::NotYet(format!("{handled} of {expected}"))
                })
            },
        )
        .await
    }
}
