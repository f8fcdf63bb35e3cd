//! `check`, `explain`, `plan` and `apply`.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use fanout_plan::check::{self, Severity};
use fanout_plan::cost::cost;
use fanout_plan::explain::{Load, explain as explained};
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::step::Step;
use fanout_plan::{Policy, Problem};
use serde_json::json;

use crate::args;
use crate::bus::{self, Refused};

pub(crate) async fn check(args: &args::Explain, json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy.policy)?;
    let load = Load {
        events_per_second: args.rate,
        event_bytes: args.event_bytes,
    };
    // Of a live store what it holds is judged; without one, what the policy would make.
    let (topology, registry, steps) = match &args.nats {
        Some(nats) => {
            let store = bus::connect(nats, policy.clone()).await?;
            store.fits_the_server().map_err(|p| Refused(vec![p]))?;
            let observed = store.observe().await?;
            let plan = planner::plan(&policy, Asked::default(), &observed, now()).map_err(Refused)?;
            (observed.topology, observed.registry, Some(plan.steps.len()))
        }
        None => {
            let nothing = Observed::default();
            let plan = planner::plan(&policy, Asked::default(), &nothing, now()).map_err(Refused)?;
            (
                planner::desired(&policy, &nothing).map_err(Refused)?,
                plan.registry,
                None,
            )
        }
    };
    let notes = check::check(&policy, &topology, &registry, load);
    let faults = notes.iter().filter(|n| n.severity == Severity::Fault).count();
    if json {
        let notes: Vec<_> = notes
            .iter()
            .map(|n| json!({ "severity": n.severity.to_string(), "about": n.about, "message": n.message }))
            .collect();
        println!(
            "{:#}",
            json!({ "bus": policy.bus, "legal": true, "notes": notes, "steps_to_the_policy": steps })
        );
    } else {
        println!("{}: a legal policy of bus {}", args.policy.policy.display(), policy.bus);
        if let Some(steps) = steps.filter(|n| *n > 0) {
            println!("the store differs from it: {steps} steps, see `fanout plan`");
        }
        for n in &notes {
            println!("{}: {}: {}", n.severity, n.about, n.message);
        }
    }
    if faults > 0 {
        bail!("{faults} faults on bus {}", policy.bus);
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
    show(&policy, &observed, &plan.steps, json);
    refused(plan.refused)
}

/// Plans that are applied one after another until nothing is left to do: a second follows from what the first retired.
const ROUNDS: usize = 4;

pub(crate) async fn apply(args: &args::Apply, json: bool) -> Result<()> {
    let mut policy = bus::policy(&args.store.policy.policy)?;
    policy.allow_loss.extend(args.accept_loss.iter().cloned());
    let store = bus::connect(&args.store.nats, policy.clone()).await?;
    store.fits_the_server().map_err(|p| Refused(vec![p]))?;
    let before = store.observe().await?;
    let mut plan = planner::plan(&policy, Asked::default(), &before, now()).map_err(Refused)?;
    let mut taken = Vec::new();
    for _ in 0..ROUNDS {
        for step in &plan.steps {
            store.apply(step).await?;
            if !json {
                println!("{} {step}", sign(step));
            }
        }
        if plan.steps.is_empty() {
            break;
        }
        taken.append(&mut plan.steps);
        // What was retired just now may turn out to have nothing for a subscription.
        plan = planner::plan(&policy, Asked::default(), &store.observe().await?, now()).map_err(Refused)?;
    }
    if json {
        show(&policy, &before, &taken, true);
    } else {
        println!("{}", summary(&taken));
    }
    refused(plan.refused)
}

/// Subscriptions that the policy declares and can't have.
fn refused(refused: BTreeMap<usize, Problem>) -> Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    Err(Refused(refused.into_values().collect()).into())
}

fn show(policy: &Policy, observed: &Observed, steps: &[Step], json: bool) {
    if json {
        let steps: Vec<_> = steps
            .iter()
            .map(|s| json!({ "sign": sign(s), "step": s.to_string(), "cost": cost(policy, observed, s) }))
            .collect();
        println!("{:#}", json!({ "steps": steps }));
        return;
    }
    for step in steps {
        println!("{} {step}", sign(step));
        if let Some(cost) = cost(policy, observed, step) {
            println!("    {cost}");
        }
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
