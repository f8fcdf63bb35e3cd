//! Act 2: webhooks come in, a share of them twice; each event is stored once.

use anyhow::Result;

use super::Story;
use super::rounded;

/// One in so many is sent again.
const REPEAT_EVERY: usize = 20;

impl Story<'_> {
    /// Posts `count` webhooks, and one in twenty again.
    pub(super) async fn stream_with_repeats(&mut self, count: u64) -> Result<()> {
        self.act("Webhooks come in, some of them twice");
        let webhooks = self.catalogue.take(count);
        let began = self.console.elapsed();
        let accepted = self.deliver(&webhooks).await?;
        let took = self.console.elapsed() - began;
        self.note(&webhooks, &accepted, |_| false);
        let rate = count as f64 / took.as_secs_f64();
        self.console
            .timed(format!("{count} accepted in {} s, {rate:.0} a second", rounded(took)));

        let repeats: Vec<_> = webhooks.iter().step_by(REPEAT_EVERY).cloned().collect();
        let again = self.deliver(&repeats).await?;
        let first = accepted.iter().step_by(REPEAT_EVERY);
        let recognised = again
            .iter()
            .zip(first)
            .filter(|(again, first)| again.receipt.duplicate && again.receipt.position == first.receipt.position);
        let recognised = recognised.count();
        for (webhook, again) in repeats.iter().zip(&again) {
            self.ledger.note_repeat(webhook, again);
        }
        let stored = self.observer.stored_in_all().await?;
        self.console.timed(format!(
            "{} sent again: {recognised} recognised by the first one's position; events on the bus: {stored}",
            repeats.len()
        ));
        self.checks
            .equal("repeats recognised as duplicates", repeats.len(), recognised);
        self.checks.equal("events on the bus after repeats", count, stored);

        let expected = self.ledger.total(|account| account.entitlements);
        let entitlements = self.entitlements_caught_up(expected).await?;
        let lines = self.invoicing_caught_up().await?;
        self.console
            .timed(format!("handled: entitlements {entitlements}, invoicing {lines}"));
        Ok(())
    }
}
