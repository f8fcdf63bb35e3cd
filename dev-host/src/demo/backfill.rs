//! Act 5: analytics is attached when everything has long happened, is given all of it, and is told so.

use anyhow::Result;

use super::observe::{ASK_EVERY, CATCH_UP_LIMIT};
use super::rounded;
use super::{BACKFILL, Story};
use crate::wait::{Check, until};

impl Story<'_> {
    /// Subscribes analytics to everything from the first event on, and waits until it was told that it caught up.
    pub(super) async fn late_backfill(&mut self) -> Result<()> {
        self.act("Analytics is attached late and catches up");
        let stored = self.observer.stored_in_all().await?;
        let began = self.console.elapsed();
        self.observer.begin_backfill(BACKFILL).await?;
        self.console.timed(format!(
            "analytics asked for everything from the first event on: {stored} events"
        ));
        let progress = self.console.progress("replayed", stored);
        let report = until(
            "analytics to be told that it caught up",
            CATCH_UP_LIMIT,
            ASK_EVERY,
            async || {
                let report = self.observer.report(BACKFILL).await?;
                progress.set(report.total());
                Ok(match report.caught_up {
                    Some(_) => Check::Found(report),
                    None => Check::NotYet(format!("{} of {stored} counted", report.total())),
                })
            },
        )
        .await?;
        drop(progress);
        let took = rounded(self.console.elapsed() - began);
        let told = report.caught_up.as_ref().map_or(0, |caught_up| caught_up.replayed);
        self.console.timed(format!(
            "told that it caught up with {told} events, {took} s later; {} counted as replayed",
            report.replayed
        ));
        self.checks
            .equal("events that were in the log, as the bus told analytics", stored, told);
        self.checks
            .equal("events that analytics counted as replayed", stored, report.replayed);
        self.checks.equal(
            "events that analytics counted as live before there were any",
            0,
            report.live,
        );
        Ok(())
    }
}
