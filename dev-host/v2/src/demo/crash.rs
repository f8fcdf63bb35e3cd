//! Acts 4 and 5: the bus is killed while webhooks are under way, and then the host with everything on it. Clients try again;
//! nothing that was accepted is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::Story;
use super::rounded;
use super::traffic::Traffic;
use crate::console::Console;
use crate::stack::Stack;
use crate::wait::{Check, until};

/// Killed once one in so many is accepted.
const KILL_AT: u64 = 10;
const CHECK_EVERY: Duration = Duration::from_millis(5);
const UNDER_WAY_LIMIT: Duration = Duration::from_secs(60);

/// What is killed.
#[derive(Clone, Copy)]
enum Victim {
    Bus,
    Host,
}

impl Story<'_> {
    /// Posts `count` webhooks and kills the bus in their midst.
    pub(super) async fn bus_killed(&mut self, count: u64) -> Result<()> {
        self.act("The bus is killed with SIGKILL in mid-flight");
        self.killed(Victim::Bus, count).await
    }

    /// Posts `count` webhooks and kills the host in their midst.
    pub(super) async fn host_killed(&mut self, count: u64) -> Result<()> {
        self.act("The host is killed with SIGKILL in mid-flight, and every component with it");
        self.killed(Victim::Host, count).await
    }

    async fn killed(&mut self, victim: Victim, count: u64) -> Result<()> {
        let webhooks = self.catalogue.take(count);
        let done = AtomicU64::new(0);
        let (accepted, (under_way, ready)) = {
            let progress = self.console.progress("webhooks accepted", count);
            let note = |accepted| {
                done.store(accepted, Ordering::Relaxed);
                progress.set(accepted);
            };
            let deliver = self.traffic.deliver(&webhooks, &note);
            let kill = kill_after(victim, self.stack, &self.traffic, self.console, &done, count / KILL_AT);
            tokio::try_join!(deliver, kill)?
        };
        self.checks
            .at_least("webhooks under way when it was killed", 1, under_way);
        // What was first posted after all was ready again is as safe as ever. Everything that was handled before this act
        // began was waited for, so the window opens with the act.
        self.note(&webhooks, &accepted, |accepted| accepted.first_post < ready);
        // Of a bus that is away for a moment a sender does not learn: the connector tries again. Of a host it does.
        let repeats = match victim {
            Victim::Bus => None,
            Victim::Host => Some(1),
        };
        self.after_a_kill(count, &accepted, repeats).await
    }
}

/// Kills it once `count` webhooks are accepted and others are under way. Returns how many were, and when all was well again.
async fn kill_after(
    victim: Victim,
    stack: &mut Stack,
    traffic: &Traffic,
    console: &Console,
    done: &AtomicU64,
    count: u64,
) -> Result<(u64, Instant)> {
    until("the act to be under way", UNDER_WAY_LIMIT, CHECK_EVERY, async || {
        let (accepted, under_way) = (done.load(Ordering::Relaxed), traffic.under_way());
        Ok(if accepted >= count && under_way > 0 {
            Check::Found(())
        } else {
            Check::NotYet(format!("{accepted} accepted, {under_way} under way"))
        })
    })
    .await?;
    let process = |stack: &Stack| match victim {
        Victim::Bus => stack.bus(),
        Victim::Host => stack.host(),
    };
    let killed = process(stack).context("it has no process")?;
    let under_way = traffic.under_way();
    let began = Instant::now();
    console.timed(format!("killing process {killed} with {under_way} webhooks under way"));
    match victim {
        Victim::Bus => stack.kill_bus().await?,
        Victim::Host => stack.kill_host().await?,
    }
    let successor = process(stack).context("its successor has no process")?;
    let took = rounded(began.elapsed());
    console.timed(format!(
        "process {successor} took over; all workloads and subscriptions back after {took} s"
    ));
    Ok((under_way, Instant::now()))
}
