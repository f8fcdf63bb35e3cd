//! One round: a world, its programs, a schedule of faults, its end, and what the checker says.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fanout_campaign_checker::history::What;
use fanout_campaign_checker::{History, Violation, check};
use tokio_util::sync::CancellationToken;

use crate::ending;
use crate::faults;
use crate::programs::{Current, Operator, Programs};
use crate::recorder::Recorder;
use crate::rules::RECOVERY;
use crate::schedule::{Means, Schedule};
use crate::world::World;

/// What came of a round.
pub(crate) struct Outcome {
    pub(crate) history: History,
    pub(crate) violations: Vec<Violation>,
    pub(crate) took: Duration,
    /// How far the machine's wall clock was set meanwhile.
    pub(crate) wall_clock_was_set_by: Duration,
}

/// Runs a round in a folder, which keeps its schedule, history and logs.
pub(crate) async fn run(schedule: &Schedule, folder: &Path, means: Means, events: Option<u64>) -> Result<Outcome> {
    let began = Instant::now();
    std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    schedule.write(&folder.join("schedule.json"))?;
    let history = folder.join("history.jsonl");
    let recorder = Arc::new(Recorder::begin(&history)?);
    let stores = tempfile::tempdir()?;
    let mut world = World::start(schedule, stores.path(), Arc::clone(&recorder), means).await?;
    let done = in_world(&mut world, schedule, events, folder).await;
    recorder.flush()?;
    let wall_clock_was_set_by = Duration::from_micros(recorder.wall_clock_was_set_by());
    keep_logs(&world, folder);
    drop(world);
    done?;
    let history = History::read(&std::fs::read_to_string(&history)?).map_err(anyhow::Error::msg)?;
    Ok(Outcome {
        violations: check(&history),
        history,
        took: began.elapsed(),
        wall_clock_was_set_by,
    })
}

async fn in_world(world: &mut World, schedule: &Schedule, events: Option<u64>, folder: &Path) -> Result<()> {
    let guest = Current::default();
    let operator = Operator::new(
        Arc::clone(&world.recorder),
        world.cluster.urls(),
        &world.policy,
        guest.clone(),
    );
    let mut programs = Programs::start(world, schedule.seed, events, guest).await?;
    let stop = CancellationToken::new();
    let looking_after = tokio::spawn(operator.clone().run(schedule.seed, stop.clone()));
    for step in &schedule.steps {
        faults::take(world, step).await?;
    }
    // Long enough for the last recovery to be judged.
    match events {
        Some(_) => programs.published().await,
        None => tokio::time::sleep(RECOVERY).await,
    }
    stop.cancel();
    looking_after.await?;
    programs.stop_publishing().await;
    world.recorder.tell("campaign", What::Quiet);
    let js = async_nats::jetstream::new(world.admin.clone());
    let status = ending::drained(&operator, &js).await;
    programs.stop().await;
    let status = status.context("the bus has no status at the end")?;
    ending::keep_consumers(world, &status, folder).await?;
    ending::tell(world, &operator, &status).await
}

/// For whoever looks for what went wrong.
fn keep_logs(world: &World, folder: &Path) {
    for (i, node) in world.cluster.servers.iter().enumerate() {
        drop(std::fs::write(folder.join(format!("s{i}.log")), node.nats.log()));
    }
    for instance in &world.buses {
        let log = instance
            .served
            .as_ref()
            .map(fanout_tests::Served::log)
            .unwrap_or_default();
        drop(std::fs::write(folder.join(format!("{}.log", instance.name)), log));
    }
    let edge = world
        .edge
        .providers
        .first()
        .map(fanout_tests::Provider::log)
        .unwrap_or_default();
    drop(std::fs::write(folder.join("edge.log"), edge));
}
