//! The story that `fanout-dev demo` tells, act by act, with what it measures.
//!
//! Every number comes from outside the bus: what the sender was answered, what the consumers answer over HTTP, what is
//! in the streams, what the kernel says of the processes. An act notes what must hold; [`table`] says at the end
//! whether all of it did.

mod backfill;
mod backlog;
mod catalogue;
mod checks;
mod crash;
mod crash_account;
mod forged;
mod ledger;
mod memory;
mod observe;
mod outage;
mod poison;
mod progress;
mod random;
mod rule;
mod shares;
mod stream;
mod stripe;
mod table;
mod traffic;
mod try_it;
mod verdict;
mod way;

use std::time::Duration;

use anyhow::Result;

use self::catalogue::{Catalogue, TENANTS};
use self::checks::Checks;
use self::ledger::Ledger;
use self::observe::Observer;
use self::shares::Shares;
use self::traffic::Traffic;
use self::verdict::rounded;
use crate::Ended;
use crate::cli::Demo;
use crate::console::Console;
use crate::endpoints::Endpoints;
use crate::interrupt::Interrupt;
use crate::rundir::RunDir;
use crate::signature::{Secret, now};
use crate::stack::Stack;

/// The subscription that analytics makes.
const BACKFILL: &str = "late";
/// The one that it makes for a rule.
const RULE: &str = "large-payments";

/// The story and what it has at hand.
struct Story<'a> {
    console: &'a Console,
    stack: &'a mut Stack,
    endpoints: Endpoints,
    observer: Observer,
    traffic: Traffic,
    catalogue: Catalogue,
    ledger: Ledger,
    checks: Checks,
    acts: u32,
}

/// Tells the story. With `--stay`, stays afterwards until a signal.
pub(crate) async fn run(
    demo: &Demo,
    stack: &mut Stack,
    run: &RunDir,
    console: &Console,
    interrupt: &mut Interrupt,
) -> Ended {
    let acts = async {
        let secret = Secret::random()?;
        let tenants = TENANTS.len();
        console.line(format!(
            "Fanout: {} webhooks of {tenants} tenants through real parts (seed {}), to a bus over {}",
            demo.events,
            demo.seed,
            demo.transport.described()
        ));
        console.line("");
        let endpoints = stack.prepare(&demo.parts, run, &secret).await?;
        console.timed("providers packed; starting the parts");
        let ready = stack.start(&demo.parts, run, &endpoints, demo.transport).await?;
        let mut story = Story::begin(demo, stack, console, endpoints.clone(), secret.clone())?;
        let limit = demo.ready_limit;
        story.ready(ready, limit).await?;
        story.tell(Shares::of(demo.events.into())).await?;
        let place = format!("with the bus {}", way::described(demo.transport));
        story.verdict(demo, ready, &place).await?;
        if demo.stay {
            try_it::print(console, story.stack, &endpoints, &secret, run)?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        acted = acts => match acted {
            Ok(()) if demo.stay => Ended::Interrupted(interrupt.signalled().await),
            Ok(()) => Ended::Well,
            Err(error) => Ended::Failed(error),
        },
        reason = interrupt.signalled() => Ended::Interrupted(reason),
    }
}

impl<'a> Story<'a> {
    fn begin(
        demo: &Demo,
        stack: &'a mut Stack,
        console: &'a Console,
        endpoints: Endpoints,
        secret: Secret,
    ) -> Result<Self> {
        Ok(Self {
            console,
            traffic: Traffic::new(endpoints.ingress.url("/webhooks/stripe"), secret, demo.concurrency)?,
            observer: Observer::new(stack.bus_client()?.clone(), stack.bus_status(), endpoints.clone())?,
            endpoints,
            stack,
            catalogue: Catalogue::new(demo.seed, now(), demo.events.into()),
            ledger: Ledger::default(),
            checks: Checks::default(),
            acts: 0,
        })
    }

    async fn ready(&mut self, ready: Duration, limit: f64) -> Result<()> {
        let application = self.stack.application()?;
        let server = self.stack.client()?.server_info().version;
        self.console.timed(format!(
            "READY after {} s: nats-server {server}, wadm, a wasmCloud host, {} deployed, every part answers",
            rounded(ready),
            application.name()
        ));
        self.checks.below("seconds until READY", limit, rounded(ready));
        self.way_to_the_bus().await
    }

    async fn tell(&mut self, shares: Shares) -> Result<()> {
        self.forged_and_stale().await?;
        self.stream_with_repeats(shares.stream).await?;
        self.invoicing_down(shares.outage).await?;
        self.provider_killed(shares.crash).await?;
        self.late_backfill().await?;
        self.rule_on_an_amount().await?;
        self.poison(shares.live).await?;
        self.rule_held_live().await
    }
}
