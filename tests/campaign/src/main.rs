//! `fanout-campaign`: a bus under random faults, round after round, and a checker that holds each round's history to the
//! promises.
//!
//! A round is a world of its own: one or three nats-servers, two instances of the bus, an edge, programs that publish and are
//! given events, and a schedule of faults that a seed decides. A round whose history breaks a law is run again with fewer
//! faults, until it can't be made smaller, and the command that repeats it is printed.
//!
//! Deliberately absent: any judgement (the checker's), and any launcher of servers (the tests').

mod churn;
mod cluster;
mod device;
mod disk;
mod ending;
mod faults;
mod instance;
mod programs;
mod recorder;
mod report;
mod round;
mod rules;
mod schedule;
mod shrink;
mod world;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, ValueEnum};
use fanout_campaign_checker::history::{Durability, Ordering};
use tokio::signal::unix::{SignalKind, signal};

use crate::disk::Disk;
use crate::report::Summary;
use crate::schedule::{Kind, Means, Schedule};

/// Faults on a bus, and whether it kept its promises
#[derive(Debug, Parser)]
#[command(name = "cargo xtask campaign")]
struct Args {
    /// Decides the first round; each round after it has the next seed
    #[arg(long)]
    seed: Option<u64>,
    /// Rounds are begun for so long; without it there is one
    #[arg(long)]
    minutes: Option<u64>,
    /// Only these faults, with commas between; all that this machine lets be done, if none is named
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Servers, and copies of everything
    #[arg(long, default_value_t = 3, value_parser = parse_replicas)]
    replicas: usize,
    /// What a receipt proves
    #[arg(long, default_value = "acknowledged")]
    durability: Proves,
    /// What keeps its order; without it the seed decides
    #[arg(long)]
    ordering: Option<Kept>,
    /// Steps of a round; one in four has two faults at once
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Each publisher publishes so many events, instead of as many as it can while faults go on
    #[arg(long)]
    events: Option<u64>,
    /// Do what this schedule says, instead of deciding one
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Rounds that may be run to find fewer faults that break a law too
    #[arg(long, default_value_t = 12)]
    shrink: usize,
    /// Run no round: make and end so many connections, and a tenth as many subscriptions, cut fetches and links, and see that
    /// nothing stays
    #[arg(long, value_name = "N")]
    churn: Option<u64>,
    /// Where rounds are kept
    #[arg(long, default_value = "target/campaign")]
    out: PathBuf,
    /// Put the tables of all rounds that are kept into this page, and run none
    #[arg(long, value_name = "PAGE")]
    page: Option<PathBuf>,
}

/// As a policy writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Proves {
    Acknowledged,
    OnDisk,
}

/// As a policy writes it.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kept {
    None,
    Key,
}

fn parse_replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("write 1 or 3".to_owned()),
    }
}

/// As `eprintln!`, which panics once nobody reads standard error.
fn say(text: impl AsRef<str>) {
    drop(writeln!(std::io::stderr(), "{}", text.as_ref()));
}

#[tokio::main]
async fn main() -> ExitCode {
    // Given up, a round ends its processes and unmounts its disks.
    let done = tokio::select! {
        done = run(Args::parse()) => done,
        signal = interrupted() => signal.and_then(|signal| bail!("interrupted by {signal}")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Waits for whoever wants it to end.
async fn interrupted() -> Result<&'static str> {
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed.map(|()| "SIGINT")?,
        _ = terminated.recv() => "SIGTERM",
    })
}

/// Says whether every law held.
async fn run(args: Args) -> Result<bool> {
    if let Some(page) = &args.page {
        put_tables(page, &report::tables(&report::all(&args.out)?))?;
        return Ok(true);
    }
    if let Some(many) = args.churn {
        return churn::run(many).await;
    }
    let named = !args.faults.is_empty();
    let wanted = if named {
        &args.faults[..]
    } else {
        Kind::value_variants()
    };
    // Nothing is mounted for faults that need no disk.
    let needs_disks = args.replay.is_some() || wanted.iter().any(|kind| kind.needs_a_disk());
    let needs_devices = args.replay.is_some() || wanted.iter().any(|kind| kind.needs_a_device());
    let means = Means {
        disks: needs_disks && Disk::are_possible(false),
        devices: needs_devices && Disk::are_possible(true),
        clocks: instance::faketime().is_some(),
        older_bus: instance::older_bus().is_some(),
        older_server: cluster::older_server().is_some(),
    };
    if needs_disks && !means.disks {
        say("no filesystem of its own can be mounted here: no power loss, no full disk, no flipped bit");
    }
    if needs_devices && !means.devices {
        say("no device can be served to the kernel here: no slow and no failing disk");
    }
    if !means.clocks {
        say("FANOUT_FAKETIME names no libfaketime: no clock is stepped");
    }
    if !means.older_bus {
        say("FANOUT_OLDER names no older fanout: no upgrade of the bus");
    }
    if !means.older_server {
        say("FANOUT_NATS_SERVER_OLDER names no older nats-server: no upgrade");
    }
    let durability = match args.durability {
        Proves::Acknowledged => Durability::Acknowledged,
        Proves::OnDisk => Durability::OnDisk,
    };
    let kinds: Vec<_> = wanted
        .iter()
        .copied()
        .filter(|kind| kind.is_possible(means, args.replicas, durability, named))
        .collect();
    if kinds.is_empty() && args.replay.is_none() {
        bail!("none of these faults can be done here");
    }
    let first = args.seed.unwrap_or_else(|| u64::from(std::process::id()) << 16);
    let began = Instant::now();
    for seed in first.. {
        let schedule = match &args.replay {
            Some(file) => Schedule::read(file)?,
            None => {
                let mut decided = Schedule::decide(seed, args.steps, &kinds, (args.replicas, durability));
                match args.ordering {
                    None => {}
                    Some(Kept::None) => decided.ordering = Ordering::None,
                    Some(Kept::Key) => decided.ordering = Ordering::Key,
                }
                decided
            }
        };
        if !one(&args, &schedule, means).await? {
            return Ok(false);
        }
        let is_over = args
            .minutes
            .is_none_or(|minutes| began.elapsed() > Duration::from_secs(60 * minutes));
        if is_over || args.replay.is_some() {
            break;
        }
    }
    Ok(true)
}

/// A round; where it breaks a law, also the search for a smaller one.
async fn one(args: &Args, schedule: &Schedule, means: Means) -> Result<bool> {
    let name = format!("r{}-{:?}-{}", schedule.replicas, schedule.durability, schedule.seed).to_lowercase();
    let folder = args.out.join(&name);
    say(format!(
        "round {name}: {} steps, {} faults",
        schedule.steps.len(),
        schedule.faults()
    ));
    if held(args, schedule, &folder, means).await? {
        return Ok(true);
    }
    if args.shrink > 0 {
        say("again with fewer faults");
        let smaller = args.out.join("smaller");
        let fails = async |tried: &Schedule| {
            say(format!("{} steps of {}", tried.steps.len(), schedule.steps.len()));
            Ok(!held(args, tried, &smaller, means).await?)
        };
        let smallest = shrink::shrink(schedule, args.shrink, fails).await?;
        let file = folder.join("smallest.json");
        smallest.write(&file)?;
        say(format!(
            "{} of {} steps break a law too",
            smallest.steps.len(),
            schedule.steps.len()
        ));
        say(format!("cargo xtask campaign --replay {}", file.display()));
    }
    Ok(false)
}

/// By how much a wall clock and a monotonic one differ after minutes on a machine whose clock nobody sets.
const WALL_CLOCK_DRIFTS: Duration = Duration::from_secs(1);

async fn held(args: &Args, schedule: &Schedule, folder: &Path, means: Means) -> Result<bool> {
    let outcome = round::run(schedule, folder, means, args.events).await?;
    let (seconds, server) = (outcome.took.as_secs(), nats_server_version()?);
    let summary = Summary::of(schedule, &outcome.history, &outcome.violations, seconds, &server);
    summary.write(folder)?;
    say(summary.line());
    if outcome.wall_clock_was_set_by > WALL_CLOCK_DRIFTS {
        say(format!(
            "  the machine's clock was set by {} s during the round: a server remembers ids, and lets events go, by that clock",
            outcome.wall_clock_was_set_by.as_secs()
        ));
    }
    for violation in &outcome.violations {
        say(format!("  VIOLATION {violation}"));
    }
    if outcome.violations.is_empty() {
        return Ok(true);
    }
    say(format!(
        "cargo xtask campaign --replay {}",
        folder.join("schedule.json").display()
    ));
    Ok(false)
}

fn nats_server_version() -> Result<String> {
    let binary = std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into());
    let output = Command::new(binary)
        .arg("--version")
        .output()
        .context("can't ask nats-server for its version")?;
    let version = String::from_utf8_lossy(&output.stdout)
        .trim()
        .trim_start_matches("nats-server: v")
        .to_owned();
    Ok(version)
}

/// Between the two marks of a page.
fn put_tables(page: &Path, tables: &str) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- tables -->\n", "<!-- /tables -->"];
    let text = std::fs::read_to_string(page).with_context(|| format!("can't read {}", page.display()))?;
    let (before, rest) = text.split_once(MARKS[0]).context("the page has no place for tables")?;
    let (_, after) = rest.split_once(MARKS[1]).context("the page has no end of its tables")?;
    Ok(std::fs::write(
        page,
        format!("{before}{}{tables}{}{after}", MARKS[0], MARKS[1]),
    )?)
}
