//! Act 1: webhooks that no payment provider signed, or not now, are refused and never reach the bus.

use anyhow::Result;
use reqwest::StatusCode;

use super::Story;
use crate::signature::{Secret, now};

/// Of each fault.
const EACH: u64 = 20;
/// The manifest's tolerance is 300 s, both ways.
const TOO_OLD: u64 = 600;

impl Story<'_> {
    /// Posts forged and stale webhooks.
    pub(super) async fn forged_and_stale(&mut self) -> Result<()> {
        self.act("Forged and stale webhooks are refused");
        let another = Secret::random()?;
        let mut posts = Vec::new();
        for webhook in self.catalogue.take(EACH) {
            let time = now();
            let body = webhook.body.clone();
            let altered = [b"\n", webhook.body.as_ref()].concat();
            posts.push((body.clone(), another.sign(time, &body)));
            posts.push((altered.into(), self.traffic.sign(time, &body)));
            posts.push((body.clone(), self.traffic.sign(time - TOO_OLD, &body)));
            posts.push((body.clone(), self.traffic.sign(time + TOO_OLD, &body)));
        }
        let posted = posts.len();
        let answers = self.traffic.post_all(posts).await?;
        let refused = answers
            .iter()
            .filter(|answer| answer.status == StatusCode::UNAUTHORIZED)
            .count();
        self.console.timed(format!(
            "{EACH} signed with another secret, {EACH} altered after signing, {EACH} ten minutes old, {EACH} ten minutes ahead"
        ));
        let stored = self.observer.stored_in_all().await?;
        self.console.timed(format!(
            "{refused} of {posted} answered 401; events on the bus: {stored}"
        ));
        self.checks
            .equal("forged and stale webhooks answered 401", posted, refused);
        self.checks.equal("events on the bus after forged webhooks", 0, stored);
        Ok(())
    }
}
