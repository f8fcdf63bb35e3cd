//! `fanout move`: a subscription goes on in the other region, while events come.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Story;
use crate::world::{FRANKFURT, INVOICING, VIRGINIA};

/// What `fanout move --json` answers.
#[derive(Debug, Deserialize)]
struct Moved {
    from: Option<String>,
    comes_again: u64,
    stood_still_ms: u64,
}

impl Story<'_> {
    pub(super) async fn moved(&mut self) -> Result<()> {
        self.act("fanout move invoicing --to virginia");
        let since = self.accepted();
        let operator = &self.world.places[0].operator;
        let moved = operator.run("move", &[INVOICING, "--to", VIRGINIA]).await?;
        let moved: Moved = serde_json::from_value(moved).context("what `fanout move` says makes no sense")?;
        self.console.timed(format!(
            "nothing was delivered for {} ms; {} events that were delivered and not settled come again",
            moved.stood_still_ms, moved.comes_again
        ));
        self.checks.equal(
            "invoicing was moved from",
            FRANKFURT.to_owned(),
            moved.from.unwrap_or_default(),
        );

        let handled = |story: &Self| story.ledger.account(INVOICING, &story.everything()).at(VIRGINIA);
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        let there = handled(self);
        self.checks
            .at_least("events that invoicing handled in virginia", 1, there);
        self.console.timed(format!(
            "invoicing goes on in Virginia, behind what it had settled in Frankfurt: {there} events by now, of all places"
        ));
        Ok(())
    }
}
