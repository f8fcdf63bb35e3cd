//! Act 7: two events that invoicing can't handle come among ordinary ones, and are dead-lettered with the reason.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::catalogue::Webhook;
use super::observe::{ASK_EVERY, DeadLetter};
use super::{BACKFILL, Story};
use crate::wait::{Check, until};

/// How many poison events there are.
pub(super) const COUNT: u64 = 2;

/// `retry.max-attempts` of the manifest.
const MAX_ATTEMPTS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

impl Story<'_> {
    /// Posts `count` webhooks with two poison ones in their midst.
    pub(super) async fn poison(&mut self, count: u64) -> Result<()> {
        self.act("Two events that invoicing can't handle");
        let broken = self.catalogue.invoice_without_amount();
        let no_rate = self.catalogue.invoice_without_rate();
        let mut webhooks = vec![broken.clone(), no_rate.clone()];
        webhooks.extend(self.catalogue.take(count));
        let accepted = self.deliver(&webhooks).await?;
        self.note(&webhooks, &accepted, |_| false);
        self.ledger.note_poison(&broken);
        self.ledger.note_poison(&no_rate);

        let letters = until("the dead letters", LIMIT, ASK_EVERY, async || {
            let letters = self.observer.dead_letters().await?;
            Ok(if letters.len() as u64 >= COUNT {
                Check::Found(letters)
            } else {
                Check::NotYet(format!("{} of {COUNT}", letters.len()))
            })
        })
        .await?;
        for letter in &letters {
            self.show(letter);
        }
        self.check(&letters, &broken, 1)?;
        self.check(&letters, &no_rate, MAX_ATTEMPTS)?;

        self.invoicing_caught_up().await?;
        self.settled().await?;
        let status = self.observer.subscription("invoicing").await?;
        self.checks.equal(
            "dead letters of invoicing, as the provider counts them",
            COUNT,
            status.dead_letters.context("the bus can't read its dead letters")?,
        );
        self.analytics_got_them_live(count + COUNT).await
    }

    fn show(&self, letter: &DeadLetter) {
        let DeadLetter {
            subscription,
            tenant,
            event,
            reason,
            attempts,
            payload,
        } = letter;
        self.console.timed(format!(
            "dead letter of {subscription}: event {event} of {tenant}, {} bytes, after {} attempt(s)",
            payload.len(),
            attempts.len()
        ));
        for attempt in attempts {
            self.console
                .timed(format!("    attempt {}: {}", attempt.attempt, attempt.reason));
        }
        if attempts.is_empty() {
            self.console.timed(format!("    {reason}"));
        }
        // With a policy that names the bus and its subject, from the id that the payment provider knows.
        self.console.timed(format!(
            "    all that is known of it: fanout event POLICY {event} --tenant {tenant} --nats nats://{}",
            self.observer.server()
        ));
    }

    /// A dead letter holds the payload as it came, the subscription, and the reason of each attempt.
    fn check(&mut self, letters: &[DeadLetter], poison: &Webhook, attempts: usize) -> Result<()> {
        let letter = letters
            .iter()
            .find(|letter| letter.event == poison.id)
            .with_context(|| {
                format!(
                    "event {} of {} is not among the dead letters",
                    poison.id,
                    poison.tenant_name()
                )
            })?;
        let of = format!("of the dead letter {}", poison.id);
        self.checks
            .equal(format!("tenant {of}"), poison.tenant_name(), letter.tenant.as_str());
        self.checks
            .equal(format!("subscription {of}"), "invoicing", letter.subscription.as_str());
        self.checks
            .equal(format!("attempts {of}"), attempts, letter.attempts.len());
        let reasons = letter
            .attempts
            .iter()
            .filter(|attempt| !attempt.reason.is_empty())
            .count();
        self.checks.equal(format!("reasons {of}"), attempts, reasons);
        self.checks.equal(
            format!("payload {of} is what was posted"),
            true,
            letter.payload == poison.body,
        );
        Ok(())
    }

    async fn analytics_got_them_live(&mut self, expected: u64) -> Result<()> {
        let report = until("analytics to count what came live", LIMIT, ASK_EVERY, async || {
            let report = self.observer.report(BACKFILL).await?;
            Ok(if report.live >= expected {
                Check::Found(report)
            } else {
                Check::NotYet(format!("{} of {expected}", report.live))
            })
        })
        .await?;
        self.console.timed(format!(
            "analytics, to which they are events like any other, counted {} as live",
            report.live
        ));
        self.checks
            .equal("events that analytics counted as live", expected, report.live);
        Ok(())
    }
}
