//! Act 4: the provider is killed while webhooks are under way. Clients try again; nothing that was accepted is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::Story;
use super::rounded;
use crate::processes;
use crate::readiness::Missing;
use crate::stack::PROVIDER_ARCHIVE;
use crate::wait::{Check, until};

/// Killed once one in so many is accepted.
const KILL_AT: u64 = 10;
const CHECK_EVERY: Duration = Duration::from_millis(5);
const RESTART_LIMIT: Duration = Duration::from_secs(60);

impl Story<'_> {
    /// Posts `count` webhooks and kills the provider in their midst.
    pub(super) async fn provider_killed(&mut self, count: u64) -> Result<()> {
        self.act("The provider is killed with SIGKILL in mid-flight");
        let webhooks = self.catalogue.take(count);
        let done = AtomicU64::new(0);
        let progress = self.console.progress("webhooks accepted", count);
        let note = |accepted| {
            done.store(accepted, Ordering::Relaxed);
            progress.set(accepted);
        };
        let deliver = self.traffic.deliver(&webhooks, &note);
        let (accepted, ready) = tokio::try_join!(deliver, self.kill_after(&done, count / KILL_AT))?;
        drop(progress);
        // What was first posted after the provider was ready again is as safe as ever. Everything that was handled
        // before this act began was waited for, so the window opens with the act.
        self.note(&webhooks, &accepted, |accepted| accepted.first_post < ready);

        self.after_a_kill(count, &accepted, Some(1)).await
    }

    /// Kills the provider once `count` webhooks are accepted and others are under way. Returns when all was well again.
    async fn kill_after(&self, done: &AtomicU64, count: u64) -> Result<Instant> {
        until("the act to be under way", RESTART_LIMIT, CHECK_EVERY, async || {
            let (accepted, under_way) = (done.load(Ordering::Relaxed), self.traffic.under_way());
            Ok(if accepted >= count && under_way > 0 {
                Check::Found(())
            } else {
                Check::NotYet(format!("{accepted} accepted, {under_way} under way"))
            })
        })
        .await?;
        let killed = processes::child(PROVIDER_ARCHIVE).context("the provider has no process")?;
        let under_way = self.traffic.under_way();
        processes::kill(killed)?;
        let began = Instant::now();
        self.console
            .timed(format!("process {killed} killed with {under_way} webhooks under way"));
        let restarted = until(
            "the host to restart the provider",
            RESTART_LIMIT,
            CHECK_EVERY,
            async || {
                Ok(match processes::child(PROVIDER_ARCHIVE) {
                    Some(process) if process != killed => Check::Found(process),
                    _ => Check::NotYet("it has not".to_owned()),
                })
            },
        )
        .await?;
        self.stack.ready(&self.endpoints, Missing::Await).await?;
        let took = rounded(began.elapsed());
        self.console.timed(format!(
            "process {restarted} took over; all links and subscriptions back after {took} s"
        ));
        Ok(Instant::now())
    }
}
