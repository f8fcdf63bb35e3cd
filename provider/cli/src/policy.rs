//! `check`, `explain`, `size`, `plan` and `apply`.

use anyhow::{Result, bail};
use fanout_plan::account;
use fanout_plan::check::{self, Note, Severity};
use fanout_plan::cost::{Needs, cost, needs};
use fanout_plan::explain::{Load, explain as explained, show_bytes};
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::size::{self, Workload};
use fanout_plan::status::ReportedProblem;
use fanout_plan::step::{Failures, Part, Step};
use fanout_plan::{Policy, Problem, Timestamp};
use fanout_provider::jetstream::Store;
use serde_json::json;

use crate::args;
use crate::bus::{self, Refused};
use crate::terminal::{error_line, json_lines, printable, say, table};

/// The store as a verb read it that needs none.
pub(crate) struct Inspection {
    pub(crate) observed: Observed,
    /// What time it is for the store; for this machine, where none is named.
    pub(crate) now: Timestamp,
    /// The store, and its servers; `None` where none is named.
    store: Option<(Store, String)>,
}

impl Inspection {
    /// Observes the store that is named, if one is.
    pub(crate) async fn of(args: &args::Store, policy: &Policy) -> Result<Self> {
        let Some(connection) = args.nats.if_named()? else {
            return Ok(Self {
                observed: Observed::default(),
                now: now(),
                store: None,
            });
        };
        let servers = connection.access.shown();
        let store = bus::connect(connection, policy.clone()).await?;
        let observed = store.observe().await?;
        let now = store.read_time(&observed).await?;
        let store = Some((store, servers));
        Ok(Self { observed, now, store })
    }

    /// Says which store it was, beside what a verb printed.
    pub(crate) fn report(&self) {
        match self.servers() {
            Some(servers) => error_line(format_args!("read the store at {}", printable(servers))),
            None => error_line(format_args!("read no store: name one with --nats, or in NATS_URL")),
        }
    }

    /// The servers of the store.
    pub(crate) fn servers(&self) -> Option<&str> {
        self.store.as_ref().map(|(_, servers)| servers.as_str())
    }
}

pub(crate) async fn check(args: &args::Explain, json: bool) -> Result<()> {
    let policy = bus::policy(&args.store.policy)?;
    let load = Load {
        events_per_second: args.rate,
        event_bytes: args.event_bytes,
    };
    // Of a live store what it holds is judged; without one, what the policy would make.
    let inspection = Inspection::of(&args.store, &policy).await?;
    if let Some((store, _)) = &inspection.store {
        store.fits_the_server().map_err(|p| Refused(vec![p]))?;
    }
    let observed = &inspection.observed;
    let plan = planner::plan(&policy, Asked::default(), observed, inspection.now).map_err(Refused)?;
    // What the store has otherwise is a difference, which `plan` shows.
    let is_new = |i: &usize| {
        let name = policy.subscriptions.keys().nth(*i);
        name.is_none_or(|name| !observed.registry.contains_key(name))
    };
    let of_the_policy = plan.refused.into_iter().filter(|(i, _)| is_new(i)).map(|(_, p)| p);
    let cannot_be_had = of_the_policy.chain(consumers_too_many(&policy, observed)?);
    let (topology, registry, steps) = match inspection.store {
        Some(_) => (
            observed.topology.clone(),
            observed.registry.clone(),
            Some(plan.steps.len()),
        ),
        None => (
            planner::desired(&policy, observed).map_err(Refused)?,
            plan.registry,
            None,
        ),
    };
    let between_places = plan.places.values().chain(&plan.notices).map(|problem| Note {
        severity: Severity::Warning,
        about: "places".to_owned(),
        message: problem.to_string(),
    });
    let mut notes = check::check(&policy, &topology, &registry, load);
    notes.extend(between_places);
    let faults = notes.iter().filter(|n| n.severity == Severity::Fault).count();
    if json {
        let notes: Vec<_> = notes
            .iter()
            .map(|n| json!({ "severity": n.severity.to_string(), "about": n.about, "message": n.message }))
            .collect();
        let shown = json!({ "bus": policy.bus, "legal": true, "notes": notes, "steps_to_the_policy": steps,
            "store": inspection.servers() });
        say!("{}", json_lines(&shown))?;
    } else {
        let file = args.store.policy.policy.display().to_string();
        say!("{}: a legal policy of bus {}", printable(&file), policy.bus)?;
        if let Some(steps) = steps.filter(|n| *n > 0) {
            say!("the store differs from it: {steps} steps, see `fanout plan`")?;
        }
        for n in &notes {
            say!("{}: {}: {}", n.severity, printable(&n.about), printable(&n.message))?;
        }
        inspection.report();
    }
    refused(cannot_be_had)?;
    if faults > 0 {
        bail!("{faults} faults on bus {}", policy.bus);
    }
    Ok(())
}

/// Partitions that can't have the consumers of the policy's subscriptions. A running bus goes on without those; whoever
/// asks beforehand is told.
fn consumers_too_many(policy: &Policy, observed: &Observed) -> Result<Vec<Problem>> {
    let desired = planner::desired(policy, observed).map_err(Refused)?;
    let account = observed.account.as_ref();
    Ok(account.map_or_else(Vec::new, |account| account::consumers(policy, account, &desired)))
}

pub(crate) async fn size(args: &args::Size, json: bool) -> Result<()> {
    let explain = &args.load;
    let policy = bus::policy(&explain.store.policy)?;
    let inspection = Inspection::of(&explain.store, &policy).await?;
    let desired = planner::desired(&policy, &inspection.observed).map_err(Refused)?;
    let workload = Workload {
        load: Load {
            events_per_second: explain.rate,
            event_bytes: explain.event_bytes,
        },
        tenants: args.tenants,
        event_types: args.event_types,
        connections: args.connections,
    };
    let size = size::size(&policy, &desired, workload);
    let totals = ["disk", "memory", "files"].map(|of| (of, size.total(of)));
    if json {
        let figures: Vec<_> = size
            .figures
            .iter()
            .map(|f| json!({ "of": f.of, "what": f.what, "formula": f.formula, "amount": f.amount }))
            .collect();
        let [disk, memory, files] = totals.map(|(_, amount)| amount);
        let shown = json!({
            "bus": policy.bus, "servers": policy.retention.replicas, "figures": figures,
            "disk_bytes": disk, "memory_bytes": memory, "files": files, "streams": size.total("streams"),
            "consumers": size.total("consumers"), "store": inspection.servers(),
        });
        return say!("{}", json_lines(&shown));
    }
    let shown = |of: &str, amount: u64| match of {
        "disk" | "memory" => show_bytes(amount),
        _ => amount.to_string(),
    };
    let parts = size.figures.iter().filter(|f| f.amount > 0);
    let parts = parts.map(|f| {
        [
            f.of.to_owned(),
            f.what.clone(),
            shown(f.of, f.amount),
            f.formula.clone(),
        ]
    });
    let all = totals.map(|(of, amount)| [of.to_owned(), "in all".to_owned(), shown(of, amount), String::new()]);
    say!(
        "each of {} servers of bus {} needs",
        policy.retention.replicas,
        policy.bus
    )?;
    say!("{}", table(["OF", "WHAT", "AMOUNT", "HOW"], 2..3, parts.chain(all)))?;
    inspection.report();
    Ok(())
}

pub(crate) async fn explain(args: &args::Explain, json: bool) -> Result<()> {
    let policy = bus::policy(&args.store.policy)?;
    let inspection = Inspection::of(&args.store, &policy).await?;
    let load = Load {
        events_per_second: args.rate,
        event_bytes: args.event_bytes,
    };
    let desired = planner::desired(&policy, &inspection.observed).map_err(Refused)?;
    let parts = explained(&policy, &desired, load);
    let (mirrors, retiring) = match &inspection.store {
        Some((store, _)) => {
            let layout = inspection.observed.topology.layout();
            (store.with_layout(layout).mirrors().await?, store.retiring().await)
        }
        None => (Vec::new(), Vec::new()),
    };
    if json {
        let parts: Vec<_> = parts
            .iter()
            .map(|p| json!({ "kind": p.kind, "name": p.name, "why": p.why, "rule": p.rule, "cost": p.cost }))
            .collect();
        let shown = json!({ "bus": policy.bus, "parts": parts, "mirrors": mirrors, "retiring": retiring, "store": inspection.servers() });
        return say!("{}", json_lines(&shown));
    }
    say!("bus {} on {}", policy.bus, policy.subject)?;
    for p in parts {
        say!(
            "\n{} {}\n  why   {}\n  rule  {}\n  cost  {}",
            p.kind,
            printable(&p.name),
            printable(&p.why),
            p.rule,
            p.cost
        )?;
    }
    for mirror in &mirrors {
        say!("\nmirror of {}", crate::status::mirrored(mirror))?;
    }
    for place in &retiring {
        say!("\n{place}")?;
    }
    inspection.report();
    Ok(())
}

pub(crate) async fn plan(args: &args::Store, json: bool) -> Result<()> {
    let policy = bus::policy(&args.policy)?;
    let inspection = Inspection::of(args, &policy).await?;
    let observed = &inspection.observed;
    let plan = planner::plan(&policy, Asked::default(), observed, inspection.now).map_err(Refused)?;
    let notices: Vec<_> = plan.places.values().chain(&plan.notices).collect();
    show(
        &policy,
        observed,
        &plan.steps,
        json.then(|| (inspection.servers(), &*notices)),
    )?;
    if !json {
        notice(&notices);
        inspection.report();
    }
    let limits = consumers_too_many(&policy, observed)?;
    let all = plan.refused.into_values().chain(plan.stuck.into_values()).chain(limits);
    refused(all)
}

/// Says what of the other places can't be mirrored yet: the next plan mirrors it.
fn notice(notices: &[&Problem]) {
    for problem in notices {
        error_line(format_args!("{}", printable(&problem.to_string())));
    }
}

/// Plans that are applied one after another until nothing is left to do: a second follows from what the first retired.
const ROUNDS: usize = 4;

pub(crate) async fn apply(args: &args::Apply, json: bool) -> Result<()> {
    let mut policy = bus::policy(&args.store.policy)?;
    policy.allow_loss.extend(args.accept_loss.iter().cloned());
    let connection = args.store.nats.connection()?;
    let servers = connection.access.shown();
    let store = bus::connect(connection, policy.clone()).await?;
    store.fits_the_server().map_err(|p| Refused(vec![p]))?;
    let before = store.observe().await?;
    let began = store.read_time(&before).await?;
    let mut plan = planner::plan(&policy, Asked::default(), &before, began).map_err(Refused)?;
    let is_new = before.topology.streams.is_empty() && before.topology.buckets.is_empty();
    let limits = consumers_too_many(&policy, &before)?;
    if is_new && !limits.is_empty() {
        return Err(Refused(limits).into());
    }
    let mut taken = Vec::new();
    // What is begun is finished, also when nobody reads about it.
    let mut said = Ok(());
    let mut failures = Failures::default();
    for _ in 0..ROUNDS {
        let mut made = Vec::new();
        let carried_out = store
            .carry_out(&plan.steps, failures, true, |step| {
                made.push(step.clone());
                if !json && said.is_ok() {
                    said = say!("{} {}", sign(step), printable(&step.to_string()));
                }
            })
            .await;
        let is_last = made.is_empty();
        taken.append(&mut made);
        let failed = carried_out?.failures.into_parts();
        if is_new && let Some(problem) = failed.iter().find_map(|(part, p)| of_the_bus(part).then_some(p)) {
            return Err(undone(&store, taken, problem.clone()).await);
        }
        // What one round could not have, the next does not try again.
        failures = Failures::giving_up(failed);
        if is_last {
            break;
        }
        // What was retired just now may turn out to have nothing for a subscription.
        let observed = store.observe().await?;
        let now = store.read_time(&observed).await?;
        plan = planner::plan(&policy, Asked::default(), &observed, now).map_err(Refused)?;
    }
    said?;
    let notices: Vec<_> = plan.places.values().chain(&plan.notices).collect();
    if json {
        show(&policy, &before, &taken, Some((Some(&servers), &notices)))?;
    } else {
        notice(&notices);
        say!("{}", summary(&taken))?;
    }
    let failed = failures.into_parts().into_values().chain(plan.stuck.into_values());
    refused(plan.refused.into_values().chain(failed))
}

/// Whether the bus as a whole is not there without a part.
fn of_the_bus(part: &Part) -> bool {
    !matches!(part, Part::Subscription(_) | Part::Place(_))
}

/// A bus that was not there before is not left half made: what a server's own limit refuses can't be known beforehand.
async fn undone(store: &Store, made: Vec<Step>, problem: Problem) -> anyhow::Error {
    let refused = Refused(vec![problem]);
    match store.unmake(&made).await {
        Ok(()) => refused.into(),
        Err(left) => {
            anyhow::Error::new(refused).context(format!("what was made before could not be removed again: {left}"))
        }
    }
}

/// What can't be had: subscriptions that the policy declares, and what the store refused.
fn refused(refused: impl Iterator<Item = Problem>) -> Result<()> {
    let all: Vec<_> = refused.collect();
    if all.is_empty() {
        Ok(())
    } else {
        Err(Refused(all).into())
    }
}

/// As text, or as JSON with the store that was read.
fn show(policy: &Policy, observed: &Observed, steps: &[Step], json: Option<(Option<&str>, &[&Problem])>) -> Result<()> {
    let all = needs(&planner::desired(policy, observed).map_err(Refused)?);
    if let Some((store, notices)) = json {
        let notices: Vec<_> = notices.iter().map(|p| ReportedProblem::from((*p).clone())).collect();
        let steps: Vec<_> = steps
            .iter()
            .map(|s| json!({ "sign": sign(s), "step": s.to_string(), "cost": cost(policy, observed, s) }))
            .collect();
        let shown = json!({
            "steps": steps,
            "notices": notices,
            "store": store,
            "needs": { "streams": all.streams, "disk_bytes": all.disk, "memory_bytes": all.memory },
        });
        return say!("{}", json_lines(&shown));
    }
    for step in steps {
        say!("{} {}", sign(step), printable(&step.to_string()))?;
        if let Some(cost) = cost(policy, observed, step) {
            say!("    {}", printable(&cost))?;
        }
    }
    say!("{}", summary(steps))?;
    if steps.is_empty() {
        return Ok(());
    }
    let Needs { streams, disk, memory } = all;
    say!(
        "    the whole bus takes {streams} streams, and at most {} of disk and {} of memory on each of {} servers",
        show_bytes(disk),
        show_bytes(memory),
        policy.retention.replicas
    )
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

pub(crate) fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}
