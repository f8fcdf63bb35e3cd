//! `cargo xtask fuzz`: every fuzz target for a bounded time, on stable Rust.
//!
//! cargo-fuzz asks for a nightly compiler because of the sanitizers. Coverage alone, which is what libFuzzer searches by, is
//! an LLVM pass that stable rustc can be told to run.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::runner::{Beside, Runner};
use crate::workspace::Workspace;

/// Coverage counters at every edge, and comparisons, so that libFuzzer can guess what is compared.
const INSTRUMENT: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// An input may take ten seconds, a gigabyte, and be 16 KiB long.
const LIMITS: [&str; 5] = [
    "-timeout=10",
    "-rss_limit_mb=1024",
    "-max_len=16384",
    "-verbosity=0",
    "-print_final_stats=1",
];

/// How long a run goes on without a word.
const SLICE_S: u32 = 30;

/// For how long each target runs in `cargo xtask test`.
const QUICK_S: u32 = 2;

/// `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// The targets to run; all if none is named
    targets: Vec<String>,
    /// For how long each of them
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

impl Fuzz {
    /// A short run of every target, as a test.
    pub(crate) fn quick() -> Self {
        Self {
            targets: Vec::new(),
            seconds: QUICK_S,
        }
    }

    pub(crate) fn run(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        if !can_build(runner) {
            bail!("libFuzzer is C++ and no C++ compiler was found: install g++ or clang++, or name one in CXX");
        }
        self.run_targets(workspace, runner)
    }

    /// Starts to build every target beside other work. Without a C++ compiler it says so, and nothing is fuzzed.
    pub(crate) fn build_beside<'a>(workspace: &Workspace, runner: &'a Runner) -> Result<Option<Beside<'a>>> {
        if !can_build(runner) {
            runner.step("NOT fuzzing: libFuzzer is C++ and no C++ compiler was found (g++, clang++, or CXX)");
            return Ok(None);
        }
        let build = build(workspace, &host_triple(runner)?, &targets(workspace)?);
        let log = workspace.logs().join("build-fuzz.log");
        runner.start_giving_way(&build, log).map(Some)
    }

    fn run_targets(&self, workspace: &Workspace, runner: &Runner) -> Result<()> {
        let known = targets(workspace)?;
        let chosen = if self.targets.is_empty() { &known } else { &self.targets };
        if let Some(unknown) = chosen.iter().find(|target| !known.contains(target)) {
            bail!("there is no fuzz target {unknown}; there are {}", known.join(", "));
        }
        let triple = host_triple(runner)?;

        runner.step(format!("building {} fuzz targets", chosen.len()));
        runner.run(&mut build(workspace, &triple, chosen))?;

        let binaries = workspace.fuzz_target().join(triple).join("release");
        let left = Mutex::new(chosen.iter());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run_some = || {
            while let Some(target) = next() {
                self.run_target(workspace, runner, target, &binaries.join(target))?;
            }
            Ok(())
        };
        // A target keeps one processor busy.
        let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..at_once).map(|_| scope.spawn(run_some)).collect();
            let ended = runs
                .into_iter()
                .map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic)));
            ended.fold(Ok(()), Result::and)
        })
    }

    /// Runs a target in slices, so that a long run shows that it goes on.
    fn run_target(&self, workspace: &Workspace, runner: &Runner, target: &str, binary: &Path) -> Result<()> {
        // What is learned goes to the first folder; the seeds are only read.
        let corpus = workspace.fuzz_target().join("corpus").join(target);
        let artifacts = workspace.fuzz_target().join("artifacts");
        for folder in [&corpus, &artifacts] {
            std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        }
        let mut done_s = 0;
        while done_s < self.seconds {
            let slice_s = SLICE_S.min(self.seconds - done_s);
            let mut fuzz = Command::new(binary);
            fuzz.arg(format!("-max_total_time={slice_s}"));
            fuzz.args(LIMITS);
            fuzz.arg(format!("-artifact_prefix={}/{target}-", artifacts.display()));
            fuzz.arg(&corpus).arg(folder(workspace).join("seeds").join(target));
            let output = runner.output(fuzz.stderr(Stdio::piped()))?;
            let told = String::from_utf8_lossy(&output.stderr);
            if !output.status.success() {
                let (binary, artifacts) = (binary.display(), artifacts.display());
                bail!("{told}\n{target} failed: the input is in {artifacts}; `{binary} FILE` runs it again");
            }
            done_s += slice_s;
            let inputs = stat(&told, "number_of_executed_units");
            let learned = stat(&told, "new_units_added");
            let seconds = self.seconds;
            runner.step(format!(
                "{target}: {inputs} inputs, {learned} went a new way; {done_s} of {seconds} s"
            ));
        }
        Ok(())
    }
}

fn build(workspace: &Workspace, triple: &str, chosen: &[String]) -> Command {
    let mut build = workspace.cargo();
    build.args(["build", "--locked", "--release", "--target", triple, "--manifest-path"]);
    build
        .arg(folder(workspace).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(workspace.fuzz_target());
    for target in chosen {
        build.args(["--bin", target]);
    }
    // With a target named, build scripts and macros are built without these.
    build.env("RUSTFLAGS", INSTRUMENT);
    build
}

/// One of the figures that libFuzzer ends with.
fn stat<'a>(told: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix("stat::")?.strip_prefix(name)?.strip_prefix(':');
    told.lines().find_map(value).map_or("?", str::trim)
}

/// Each file in `fuzz_targets/` is one.
fn targets(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = folder(workspace).join("fuzz_targets");
    let files = folder
        .read_dir()
        .with_context(|| format!("can't read {}", folder.display()))?;
    let mut targets = Vec::new();
    for file in files {
        let path = file.with_context(|| format!("can't read {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            targets.push(name.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root().join("tests/fuzz")
}

fn can_build(runner: &Runner) -> bool {
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let answer = runner.output(Command::new(compiler).arg("--version"));
    answer.is_ok_and(|output| output.status.success())
}

fn host_triple(runner: &Runner) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = runner.read(Command::new(rustc).arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc does not say which machine it is for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_found_among_what_libfuzzer_says() {
        let told = "#12 DONE\nstat::number_of_executed_units: 270157\nstat::new_units_added:          1430\n";
        assert_eq!(stat(told, "number_of_executed_units"), "270157");
        assert_eq!(stat(told, "new_units_added"), "1430");
        assert_eq!(stat(told, "peak_rss_mb"), "?");
    }

    #[test]
    fn every_target_is_in_the_manifest_and_has_seeds() {
        let workspace = Workspace::find().unwrap();
        let manifest = std::fs::read_to_string(folder(&workspace).join("Cargo.toml")).unwrap();
        for target in targets(&workspace).unwrap() {
            assert!(
                manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")),
                "{target}"
            );
            let seeds = folder(&workspace).join("seeds").join(&target);
            assert!(
                seeds.read_dir().is_ok_and(|mut seeds| seeds.next().is_some()),
                "{target}"
            );
        }
    }
}
