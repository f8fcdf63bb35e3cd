//! `fanout move`: a subscription goes on in the other region, while events come.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Story;
use crate::ledger::Where;
use crate::place::Place;
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
        let since = self.taken();
        let frankfurt = self.place(FRANKFURT)?;
        self.moves(&frankfurt, VIRGINIA).await?;
        self.goes_on_publishing(&since).await?;
        self.invoicing_caught_up().await?;
        let there = self.handled_at(VIRGINIA);
        self.console.timed(format!(
            "invoicing goes on in Virginia, behind what it had settled in Frankfurt: {there} events by now, of all places"
        ));
        Ok(())
    }

    /// Moves invoicing from a place to another one.
    pub(super) async fn moves(&mut self, from: &Place, to: Where) -> Result<()> {
        let moved = from.operator.run("move", &[INVOICING, "--to", to]).await?;
        let moved: Moved = serde_json::from_value(moved).context("what `fanout move` says makes no sense")?;
        self.console.timed(format!(
            "nothing was delivered for {} ms; {} events that were delivered and not settled come again",
            moved.stood_still_ms, moved.comes_again
        ));
        self.checks.equal(
            format!("invoicing was moved to {to} from"),
            from.name.to_owned(),
            moved.from.unwrap_or_default(),
        );
        Ok(())
    }

    /// How many events invoicing has handled at a place, each once.
    pub(super) fn handled_at(&self, place: Where) -> u64 {
        self.ledger.account(INVOICING, &self.everything()).at(place)
    }
}
