//! Act 3: invoicing's workload is stopped while events come in, and started again. Nothing is lost, nothing is refused.

use std::time::Duration;

use anyhow::Result;

use super::Story;
use super::observe::ASK_EVERY;
use super::rounded;
use crate::wait::{Check, until};

const WORKLOAD: &str = "invoicing";
const DOWN_LIMIT: Duration = Duration::from_secs(30);

impl Story<'_> {
    /// Posts `count` webhooks while invoicing is down.
    pub(super) async fn invoicing_down(&mut self, count: u64) -> Result<()> {
        self.act("Invoicing is taken away while webhooks come in");
        self.stack.undeploy(WORKLOAD).await?;
        until("invoicing to be down", DOWN_LIMIT, ASK_EVERY, async || {
            Ok(match self.observer.invoicing_answers().await {
                false => Check::Found(()),
                true => Check::NotYet("it answers".to_owned()),
            })
        })
        .await?;
        self.console
            .timed("its workload is stopped, runner included: it answers nothing and fetches nothing");

        let waiting = self.post_while_down(WORKLOAD, count).await?;

        let began = self.console.elapsed();
        self.stack.deploy().await?;
        let is_deployed = self.stack.is_deployed(WORKLOAD).await?;
        self.checks.equal("invoicing is deployed again", true, is_deployed);
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
}
