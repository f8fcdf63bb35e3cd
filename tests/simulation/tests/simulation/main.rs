//! The transport's sessions, the client with its leases, and what an edge makes of both, against a fake bus on a simulated
//! network: links that are cut, one way too, or hold everything back; a bus, a relay and programs that crash; a bus that
//! leaves; answers that come late, twice, or before those of earlier calls.
//!
//! One seed decides everything: hosts, faults, choices of programs, and (in place of the C library's) what is random and
//! what time it is. So each seed is run in a process of its own. Without variables, some seeds are run; with
//! `FANOUT_SEEDS=10000` as many, from `FANOUT_FIRST_SEED` on; with `FANOUT_SEED=7` that one, which tells what happened.
//!
//! What is held to: a receipt means stored, once, and a refusal that it is not; every call ends by its deadline; an outcome
//! is what is known of the handler; an answer is that of its call; no first delivery goes back in an order; who has a
//! delivery whose lease is over knows it; what was accepted is delivered once the faults have ended; and all permits, calls,
//! connections and bytes come back.

use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

mod bus;
mod caller;
mod dice;
mod edge;
mod history;
mod net;
mod publisher;
mod relay;
mod store;
mod worker;
mod world;

/// Seeds, where nobody says how many.
const SEEDS: u64 = 200;
/// Of each hundred seeds, this many are run twice: they have to tell the same.
const TWICE: u64 = 2;

/// A seed's process is looked at this often, and killed after this many looks: two minutes.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 6_000;

/// Set by a panic of any task.
static PANICKED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    if let Some(seed) = variable("FANOUT_SEED") {
        return one(seed);
    }
    // As another test's name: `cargo test NAME` runs all files of tests.
    if let Some(filter) = std::env::args().skip(1).find(|arg| !arg.starts_with('-'))
        && !"simulation".contains(&filter)
    {
        return ExitCode::SUCCESS;
    }
    let first = variable("FANOUT_FIRST_SEED").unwrap_or(1);
    many(first, variable("FANOUT_SEEDS").unwrap_or(SEEDS))
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is no number")))
}

/// Runs one seed in this process.
fn one(seed: u64) -> ExitCode {
    // Every message between hosts with `turmoil=trace`.
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .without_time()
            .init();
    }
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::Relaxed);
        told(panic);
    }));
    mad_turmoil::rand::set_rng(rand::SeedableRng::seed_from_u64(seed));
    let clocks = mad_turmoil::time::SimClocksGuard::init();
    let history = world::simulate(seed);
    drop(clocks);
    for line in history.lines() {
        println!("{line}");
    }
    let violations = history.violations();
    if violations.is_empty() && !PANICKED.load(Ordering::Relaxed) {
        return ExitCode::SUCCESS;
    }
    for violation in violations {
        println!("{violation}");
    }
    ExitCode::FAILURE
}

/// Runs many, as many at a time as there are processors.
fn many(first: u64, count: u64) -> ExitCode {
    let next = AtomicU64::new(first);
    let failed = AtomicU64::new(0);
    let at_a_time = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let fails = fails(seed);
                    if let Some(why) = &fails {
                        failed.fetch_add(1, Ordering::Relaxed);
                        eprintln!(
                            "{why}\nseed {seed} fails; again: FANOUT_SEED={seed} cargo test --workspace --test simulation"
                        );
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("simulation: {count} seeds from {first} on, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Why a seed fails.
fn fails(seed: u64) -> Option<String> {
    let (succeeds, told) = told(seed);
    if !succeeds {
        let of_use = told.lines().rev().take(40).collect::<Vec<_>>();
        return Some(of_use.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    if seed % 100 < TWICE && self::told(seed).1 != told {
        return Some(format!(
            "BROKEN: seed {seed} does not decide everything: twice is not the same"
        ));
    }
    None
}

/// Runs a seed in a process of its own; what it tells.
fn told(seed: u64) -> (bool, String) {
    let this = std::env::current_exe().expect("this program is a file");
    let mut process = Command::new(this)
        .env("FANOUT_SEED", seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program can be started");
    let (told, warned) = (process.stdout.take(), process.stderr.take());
    std::thread::scope(|scope| {
        let told = scope.spawn(|| read(told));
        let warned = scope.spawn(|| read(warned));
        let succeeds = ends_well(&mut process);
        let told = [told, warned].map(|reading| reading.join().expect("reading does not panic"));
        match succeeds {
            Some(succeeds) => (succeeds, told.concat()),
            None => (
                false,
                format!("{}BROKEN: it ends within {} s\n", told.concat(), LOOKS / 50),
            ),
        }
    })
}

/// Whether a process succeeds; `None` for one that does not end in time, and is killed.
fn ends_well(process: &mut Child) -> Option<bool> {
    // There is no clock to go by here: it is the simulation's.
    for _ in 0..LOOKS {
        if let Some(status) = process.try_wait().expect("it is a child of this process") {
            return Some(status.success());
        }
        std::thread::sleep(LOOK);
    }
    process.kill().expect("it is a child of this process");
    process.wait().expect("it is a child of this process");
    None
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    pipe.expect("it was asked for")
        .read_to_end(&mut bytes)
        .expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}
