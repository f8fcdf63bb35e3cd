//! Webhooks that wait for a subscriber which is away, as the bus counts them.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::{MissedTickBehavior, interval};

use super::Story;
use super::observe::{ASK_EVERY, CATCH_UP_LIMIT, Observer};
use crate::wait::{Check, until};

const BACKLOG_LIMIT: Duration = Duration::from_secs(15);
const SAMPLE_EVERY: Duration = Duration::from_millis(400);
/// As many as are worth reading.
const SAMPLES: usize = 5;

impl Story<'_> {
    /// Posts `count` webhooks while a subscriber is down, and checks how many wait for it. Returns how many should.
    pub(super) async fn post_while_down(&mut self, subscription: &str, count: u64) -> Result<u64> {
        let webhooks = self.catalogue.take(count);
        let lines_before = self.ledger.total(|account| account.invoices);
        let accepted = {
            let deliver = self.deliver(&webhooks);
            tokio::pin!(deliver);
            let mut samples = Samples::default();
            let mut tick = interval(SAMPLE_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    accepted = &mut deliver => {
                        samples.take(&self.observer, subscription).await?;
                        self.console.timed(format!("waiting for {subscription} as they come in: {samples}"));
                        break accepted?;
                    }
                    _ = tick.tick() => samples.take(&self.observer, subscription).await?,
                }
            }
        };
        self.note(&webhooks, &accepted, |_| false);
        let waiting = self.ledger.total(|account| account.invoices) - lines_before;
        let backlog = self.backlog_of(subscription, waiting).await?;
        self.console.timed(format!(
            "{count} accepted meanwhile; {backlog} of them wait for {subscription}, none is lost"
        ));
        self.checks.equal(
            format!("events that wait for {subscription} while it is down"),
            waiting,
            backlog,
        );
        Ok(waiting)
    }

    /// Waits until as many as expected wait. Returns what does, expected or not.
    async fn backlog_of(&self, subscription: &str, expected: u64) -> Result<u64> {
        let mut backlog = None;
        let waited = until("the backlog", BACKLOG_LIMIT, ASK_EVERY, async || {
            backlog = self.observer.subscription(subscription).await?.backlog();
            Ok(if backlog == Some(expected) {
                Check::Found(())
            } else {
                Check::NotYet(format!("{} of {expected}", shown(backlog)))
            })
        });
        // The number itself is checked.
        waited.await.ok();
        backlog.with_context(|| format!("the bus can't read the backlog of {subscription}"))
    }

    /// Waits until nothing waits for invoicing, neither undelivered nor unsettled.
    pub(super) async fn settled(&self) -> Result<u64> {
        until("invoicing's backlog to drain", CATCH_UP_LIMIT, ASK_EVERY, async || {
            let backlog = self.observer.subscription("invoicing").await?.backlog();
            Ok(if backlog == Some(0) {
                Check::Found(0)
            } else {
                Check::NotYet(format!("{} left", shown(backlog)))
            })
        })
        .await
        .context("after invoicing came back")
    }
}

/// The backlog as it grew.
#[derive(Debug, Default)]
struct Samples(Vec<u64>);

impl Samples {
    async fn take(&mut self, observer: &Observer, subscription: &str) -> Result<()> {
        let backlog = observer.subscription(subscription).await?.backlog();
        if let Some(backlog) = backlog
            && self.0.last() != Some(&backlog)
        {
            self.0.push(backlog);
        }
        Ok(())
    }
}

fn shown(count: Option<u64>) -> String {
    count.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string())
}

impl std::fmt::Display for Samples {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let last = self.0.len().saturating_sub(1);
        let step = last.div_ceil(SAMPLES).max(1);
        let shown = self
            .0
            .iter()
            .enumerate()
            .filter(|(place, _)| place % step == 0 || *place == last);
        let shown: Vec<_> = shown.map(|(_, backlog)| backlog.to_string()).collect();
        formatter.write_str(&shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_keep_the_first_and_the_last() {
        assert_eq!(Samples((0..=20).collect()).to_string(), "0, 4, 8, 12, 16, 20");
        assert_eq!(Samples(vec![0, 3, 9]).to_string(), "0, 3, 9");
        assert_eq!(Samples(vec![7]).to_string(), "7");
        assert_eq!(Samples::default().to_string(), "");
    }
}
