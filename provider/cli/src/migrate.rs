//! `migrate`: a whole bus from one JetStream domain to another, while it runs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_plan::migration::Stage;
use fanout_plan::{JetStreamApi, Policy};
use fanout_provider::jetstream::{Migration, Store, StreamReport};
use fanout_transport::Secret;
use serde_json::json;

use crate::args::PolicyFile;
use crate::bus;
use crate::nats::How;
use crate::terminal::{json_lines, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    pub(crate) policy: PolicyFile,
    /// Where the bus is
    #[arg(long, value_name = "URL")]
    pub(crate) from: Secret,
    /// Where it goes: another JetStream domain, from which a leaf node link leads to the first
    #[arg(long, value_name = "URL")]
    pub(crate) to: Secret,
    /// Say what there is and how far it has come, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave the bus where it was, and remove the copies; not once it has switched
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) back: bool,
    /// How long deliveries under way may take before the switch is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) drain_seconds: u64,
    #[command(flatten)]
    pub(crate) how: How,
}

/// How often progress is shown.
const EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn migrate(args: &Migrate, as_json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy)?;
    let (from, to) = tokio::try_join!(store(args, &args.from, &policy), store(args, &args.to, &policy))?;
    let mut migration = Migration::between(from, to).await?;
    let domains = migration.domains();
    let (from, to) = (domains.0.to_owned(), domains.1.to_owned());
    if args.back {
        migration.back().await?;
        if as_json {
            return say!("{}", json_lines(&json!({ "bus": policy.bus, "at": from })));
        }
        return say!(
            "bus {} stays in domain {from}; the mirrors in domain {to} are removed",
            policy.bus
        );
    }
    let stage = migration.check().await?;
    if args.dry_run || stage == Stage::Done {
        return show(&migration, stage, as_json).await;
    }
    if !as_json {
        migration = migration.showing(|step| {
            // Where nobody reads it, the migration goes on.
            drop(say!("{step}"));
        });
    }
    if stage.goes_back() {
        migration.copy().await?;
        copied_and_compared(&mut migration, as_json).await?;
        // What came meanwhile; the rest when it is switched.
        migration.compare().await?;
    }
    let switched = migration.switch(Duration::from_secs(args.drain_seconds)).await?;
    if as_json {
        return say!(
            "{}",
            json_lines(&json!({ "bus": policy.bus, "from": from, "at": to, "switched": switched }))
        );
    }
    for stream in &switched.streams {
        say!("{}", line(stream))?;
    }
    for (subscription, unsettled) in &switched.subscriptions {
        say!(
            "subscription {subscription}: {unsettled} events were delivered and not settled, and are delivered again"
        )?;
    }
    say!(
        "bus {} is in domain {to}; publishing was refused for {} ms, and nothing was delivered for {} ms. What is in domain {from} stays as it is, and takes nothing more",
        policy.bus,
        switched.refused_ms,
        switched.undelivered_ms
    )
}

async fn store(args: &Migrate, url: &Secret, policy: &Policy) -> Result<Store> {
    let mut access = args.how.access()?;
    url.expose().clone_into(&mut access.urls);
    let shown = access.shown();
    let client = fanout_transport::connect(&access, "fanout-migrate")
        .await
        .map_err(|e| {
            let what = bus::why(&e, &shown);
            anyhow::Error::new(e).context(what)
        })?;
    // Each server's own JetStream, whatever the policy says of one of them.
    let policy = Policy {
        jetstream: JetStreamApi::default(),
        ..policy.clone()
    };
    let store = Store::new(client, policy);
    store.answers().await.with_context(|| format!("NATS at {shown}"))?;
    Ok(store)
}

/// Waits until every mirror has nearly what its origin has, and compares meanwhile what is copied.
async fn copied_and_compared(migration: &mut Migration, as_json: bool) -> Result<()> {
    let mut said = std::time::Instant::now();
    loop {
        migration.compare_at_most(STRIDE).await?;
        let streams = migration.streams().await?;
        let left = |until: fn(&StreamReport) -> u64, from: fn(&StreamReport) -> u64| -> u64 {
            let streams = streams.iter().filter(|s| s.messages > 0);
            streams.map(|s| until(s).saturating_sub(from(s)).min(s.messages)).sum()
        };
        let to_copy = left(|s| s.last, |s| s.copied_to);
        let to_compare = left(|s| s.last.min(s.copied_to), |s| s.compared_to);
        if to_copy <= CLOSE && to_compare <= STRIDE {
            return Ok(());
        }
        if said.elapsed() >= EVERY {
            said = std::time::Instant::now();
            if !as_json {
                say!("{to_copy} messages are still to be copied, and {to_compare} to be compared")?;
            }
        }
        if to_compare == 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// So few are copied while publishing is refused.
const CLOSE: u64 = 500;
/// Messages of a stream that are compared before it is looked again at how much there is.
const STRIDE: u64 = 32_768;

async fn show(migration: &Migration, stage: Stage, as_json: bool) -> Result<()> {
    let (from, to) = migration.domains();
    let streams = migration.streams().await?;
    if as_json {
        return say!(
            "{}",
            json_lines(&json!({ "stage": stage.as_str(), "from": from, "to": to, "streams": streams }))
        );
    }
    say!("from domain {from} to domain {to}: {}", stage.as_str())?;
    for stream in &streams {
        say!("{}", line(stream))?;
    }
    Ok(())
}

fn line(stream: &StreamReport) -> String {
    let compared = match stream.compared_to {
        0 => String::new(),
        n => format!(", the same message by message up to {n}"),
    };
    format!(
        "stream {}: {} messages up to {}, copied up to {}{compared}",
        stream.stream, stream.messages, stream.last, stream.copied_to
    )
}
