//! What every act does: post, wait for the consumers, say how far they are.

use anyhow::Result;

use super::Story;
use super::catalogue::Webhook;
use super::observe::{ASK_EVERY, CATCH_UP_LIMIT};
use super::traffic::Accepted;
use crate::wait::{Check, until};

impl Story<'_> {
    pub(super) fn act(&mut self, title: &str) {
        self.acts += 1;
        self.console.line("");
        self.console.line(format!("{}  {title}", self.acts));
    }

    /// Posts all, each until it is accepted, with a bar.
    pub(super) async fn deliver(&self, webhooks: &[Webhook]) -> Result<Vec<Accepted>> {
        let progress = self.console.progress("webhooks accepted", webhooks.len() as u64);
        self.traffic.deliver(webhooks, &|done| progress.set(done)).await
    }

    /// Notes webhooks that were accepted.
    pub(super) fn note(&mut self, webhooks: &[Webhook], accepted: &[Accepted], in_window: impl Fn(&Accepted) -> bool) {
        for (webhook, accepted) in webhooks.iter().zip(accepted) {
            self.ledger.note(webhook, accepted, in_window(accepted));
        }
    }

    /// Waits until invoicing has written every line that it should have by now.
    pub(super) async fn invoicing_caught_up(&self) -> Result<u64> {
        let expected = self.ledger.total(|account| account.invoices);
        self.reached("invoicing", expected, async || {
            // It may be on its way up.
            Ok(self.observer.invoices().await.map_or(0, |invoices| invoices.total()))
        })
        .await
    }

    /// Waits until entitlements has handled `expected` events.
    pub(super) async fn entitlements_caught_up(&self, expected: u64) -> Result<u64> {
        self.reached("entitlements", expected, async || {
            Ok(self.observer.audit().await?.total())
        })
        .await
    }

    /// Waits until a count is `expected`. One that is past it is returned as it is: the checks at the end say so.
    pub(super) async fn reached(&self, who: &str, expected: u64, count: impl AsyncFn() -> Result<u64>) -> Result<u64> {
        let progress = self.console.progress(format!("handled by {who}"), expected);
        let what = format!("{who} to handle {expected} events");
        until(&what, CATCH_UP_LIMIT, ASK_EVERY, async || {
            let got = count().await?;
            progress.set(got);
            Ok(if got >= expected {
                Check::Found(got)
            } else {
                Check::NotYet(format!("{got} so far"))
            })
        })
        .await
    }
}
