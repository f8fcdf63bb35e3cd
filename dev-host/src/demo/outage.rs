//! Act 3: invoicing is taken down while events come in, and brought back. Nothing is lost, nothing is refused.

use std::time::Duration;

use anyhow::Result;

use super::Story;
use super::observe::ASK_EVERY;
use super::rounded;
use crate::host::Inventory;
use crate::wait::{Check, until};

const COMPONENT: &str = "invoicing";
const DOWN_LIMIT: Duration = Duration::from_secs(30);

impl Story<'_> {
    /// Posts `count` webhooks while invoicing is down.
    pub(super) async fn invoicing_down(&mut self, count: u64) -> Result<()> {
        self.act("Invoicing is taken down while webhooks come in");
        let instances = self.stack.scale(COMPONENT, 0).await?;
        self.down().await?;
        self.console
            .timed("wadm deployed a version with 0 instances of invoicing: it runs nowhere and answers nothing");

        let waiting = self.post_while_down(COMPONENT, count).await?;

        let began = self.console.elapsed();
        self.stack.scale(COMPONENT, instances).await?;
        let lines = self.invoicing_caught_up().await?;
        let left = self.settled().await?;
        let took = rounded(self.console.elapsed() - began);
        self.console.timed(format!(
            "brought back: {waiting} handled in {took} s, deployment included; {lines} lines, {left} waiting"
        ));
        let expected = self.ledger.total(|account| account.entitlements);
        self.entitlements_caught_up(expected).await?;
        Ok(())
    }

    /// Down is what the host says and what a client sees.
    async fn down(&self) -> Result<()> {
        let client = self.stack.client()?;
        let host = self.stack.host()?.id().to_owned();
        until("invoicing to be down", DOWN_LIMIT, ASK_EVERY, async || {
            let runs = Inventory::of(client, &host).await?.has_component(COMPONENT);
            let answers = self.observer.invoicing_answers().await;
            Ok(match (runs, answers) {
                (false, false) => Check::Found(()),
                _ => Check::NotYet(format!("runs: {runs}, answers: {answers}")),
            })
        })
        .await
    }
}
