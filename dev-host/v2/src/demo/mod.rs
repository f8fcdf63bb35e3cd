//! The story, act by act, with what it measures. The acts that `dev-host` has too are compiled from there.

#[path = "../../../src/demo/backfill.rs"]
mod backfill;
#[path = "../../../src/demo/backlog.rs"]
mod backlog;
#[path = "../../../src/demo/catalogue.rs"]
mod catalogue;
#[path = "../../../src/demo/checks.rs"]
mod checks;
mod crash;
#[path = "../../../src/demo/crash_account.rs"]
mod crash_account;
#[path = "../../../src/demo/forged.rs"]
mod forged;
#[path = "../../../src/demo/ledger.rs"]
mod ledger;
mod memory;
#[path = "../../../src/demo/observe.rs"]
mod observe;
mod outage;
#[path = "../../../src/demo/poison.rs"]
mod poison;
#[path = "../../../src/demo/progress.rs"]
mod progress;
#[path = "../../../src/demo/random.rs"]
mod random;
#[path = "../../../src/demo/rule.rs"]
mod rule;
#[path = "../../../src/demo/shares.rs"]
mod shares;
#[path = "../../../src/demo/stream.rs"]
mod stream;
#[path = "../../../src/demo/stripe.rs"]
mod stripe;
#[path = "../../../src/demo/table.rs"]
mod table;
#[path = "../../../src/demo/traffic.rs"]
mod traffic;
#[path = "../../../src/demo/verdict.rs"]
mod verdict;

use anyhow::Result;

use self::catalogue::{Catalogue, TENANTS};
use self::checks::Checks;
use self::ledger::Ledger;
use self::observe::Observer;
use self::shares::Shares;
use self::traffic::Traffic;
use self::verdict::rounded;
use crate::addresses;
use crate::cli::Demo;
use crate::console::Console;
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
    observer: Observer,
    traffic: Traffic,
    catalogue: Catalogue,
    ledger: Ledger,
    checks: Checks,
    acts: u32,
}

/// Tells the story. With `--stay`, stays afterwards until a signal.
pub(crate) async fn run(demo: &Demo, console: &Console) -> Result<()> {
    let secret = Secret::random()?;
    console.line(format!(
        "Fanout: {} webhooks of {} tenants on the stock wasmCloud v2 host (seed {}), to a bus over HTTP",
        demo.events,
        TENANTS.len(),
        demo.seed,
    ));
    console.line("");
    let mut stack = Stack::start(demo, &secret).await?;
    console.timed(format!(
        "a server of NATS, the bus at {}, a registry of {} components, and the host run; deploying",
        stack.bus_url(),
        stack.images()
    ));
    let told = tell(demo, &mut stack, console, secret).await;
    if told.is_err() {
        let kept = stack.keep_logs(&demo.logs)?;
        console.line(format!("Logs: {}", kept.display()));
    }
    told?;
    if demo.stay {
        let endpoints = stack.endpoints()?;
        console.line("\nEverything runs on, until Ctrl-C. Try:");
        for endpoint in [&endpoints.invoicing, &endpoints.entitlements, &endpoints.analytics] {
            console.line(format!("  {}", addresses::try_it(endpoint)));
        }
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn tell(demo: &Demo, stack: &mut Stack, console: &Console, secret: Secret) -> Result<()> {
    stack.deploy().await?;
    let ready = console.elapsed();
    let endpoints = stack.endpoints()?;
    let mut story = Story {
        console,
        traffic: Traffic::new(endpoints.ingress.url("/webhooks/stripe"), secret, demo.concurrency)?,
        observer: Observer::new(stack.bus_client().clone(), stack.bus_status(), endpoints)?,
        stack,
        catalogue: Catalogue::new(demo.seed, now(), demo.events.into()),
        ledger: Ledger::default(),
        checks: Checks::default(),
        acts: 0,
    };
    console.timed(format!(
        "READY after {} s: four workloads deployed, every part answers",
        rounded(ready)
    ));
    story
        .checks
        .below("seconds until READY", demo.ready_limit, rounded(ready));
    let shares = Shares::of(demo.events.into());
    story.forged_and_stale().await?;
    story.stream_with_repeats(shares.stream).await?;
    story.invoicing_down(shares.outage).await?;
    let of_the_bus = shares.crash / 2;
    story.bus_killed(of_the_bus).await?;
    story.host_killed(shares.crash - of_the_bus).await?;
    story.late_backfill().await?;
    story.rule_on_an_amount().await?;
    story.poison(shares.live).await?;
    story.rule_held_live().await?;
    let place = "on the stock wasmCloud v2 host, with the bus elsewhere, over HTTP";
    story.verdict(demo, ready, place).await
}
