//! `check`, `explain`, `plan` and `apply`.

use anyhow::Result;
use fanout_plan::explain::{Load, explain as explained};
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::step::Step;
use fanout_provider::jetstream::Store;
use serde_json::json;

use crate::args;
use crate::bus::{self, Refused};

pub(crate) fn check(args: &args::PolicyFile, json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy)?;
    if json {
        println!("{}", json!({ "bus": policy.bus, "legal": true }));
    } else {
        println!("{}: a legal policy of bus {}", args.policy.display(), policy.bus);
    }
    Ok(())
}

pub(crate) async fn explain(args: &args::Explain, json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy.policy)?;
    let observed = match &args.nats {
        Some(nats) => bus::connect(nats, policy.clone()).await?.observe().await?,
        None => Observed::default(),
    };
    let load = Load {
        events_per_second: args.rate,
        event_bytes: args.event_bytes,
    };
    let desired = planner::desired(&policy, &observed).map_err(Refused)?;
    let parts = explained(&policy, &desired, load);
    if json {
        let parts: Vec<_> = parts
            .iter()
            .map(|p| json!({ "kind": p.kind, "name": p.name, "why": p.why, "rule": p.rule, "cost": p.cost }))
            .collect();
        println!("{:#}", json!({ "bus": policy.bus, "parts": parts }));
        return Ok(());
    }
    println!("bus {} on {}", policy.bus, policy.subject);
    for p in parts {
        println!(
            "\n{} {}\n  why   {}\n  rule  {}\n  cost  {}",
            p.kind, p.name, p.why, p.rule, p.cost
        );
    }
    Ok(())
}

pub(crate) async fn plan(args: &args::Plan, json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy.policy)?;
    let observed = match &args.nats {
        Some(nats) => bus::connect(nats, policy.clone()).await?.observe().await?,
        None => Observed::default(),
    };
    let plan = planner::plan(&policy, Asked::default(), &observed, now()).map_err(Refused)?;
    show(&plan.steps, json);
    Ok(())
}

pub(crate) async fn apply(args: &args::Apply, json: bool) -> Result<()> {
    let store: Store = bus::store(&args.store).await?;
    store.fits_the_server().map_err(|p| Refused(vec![p]))?;
    let observed = store.observe().await?;
    let plan = planner::plan(store.policy(), Asked::default(), &observed, now()).map_err(Refused)?;
    for step in &plan.steps {
        store.apply(step).await?;
        if !json {
            println!("{} {step}", sign(step));
        }
    }
    if json {
        show(&plan.steps, true);
    } else {
        println!("{}", summary(&plan.steps));
    }
    Ok(())
}

fn show(steps: &[Step], json: bool) {
    if json {
        let steps: Vec<_> = steps
            .iter()
            .map(|s| json!({ "sign": sign(s), "step": s.to_string() }))
            .collect();
        println!("{:#}", json!({ "steps": steps }));
        return;
    }
    for step in steps {
        println!("{} {step}", sign(step));
    }
    println!("{}", summary(steps));
}

/// As in a diff.
fn sign(step: &Step) -> char {
    match step {
        Step::CreateStream(_) | Step::CreateBucket(_) | Step::CreateConsumer(_) | Step::Remember(_) => '+',
        Step::UpdateStream(_)
        | Step::RetireStream(_)
        | Step::BindStream(_)
        | Step::UpdateBucket(_)
        | Step::UpdateConsumer(_) => '~',
        Step::DeleteStream(_) | Step::DeleteConsumer { .. } | Step::Forget(_) => '-',
    }
}

fn summary(steps: &[Step]) -> String {
    if steps.is_empty() {
        return "nothing to do: the store is as the policy says".to_owned();
    }
    let count = |wanted| steps.iter().filter(|s| sign(s) == wanted).count();
    format!(
        "{} to make, {} to change, {} to remove",
        count('+'),
        count('~'),
        count('-')
    )
}

/// Nanoseconds since the Unix epoch.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}
