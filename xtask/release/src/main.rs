//! `fanout-release`: what `cargo xtask release` runs.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use fanout_release::archive::Effort;
use fanout_release::claims::Signer;
use fanout_release::commit::Commit;
use fanout_release::compile::{self, Built};
use fanout_release::oci::Registry;
use fanout_release::release::{Making, check_folder};
use fanout_release::workspace::Workspace;

/// Build what is installed, write it into a folder with checksums, and push it to a registry
///
/// The same commit gives the same bytes, with the same compilers. Who pushes is in FANOUT_REGISTRY_USER and
/// FANOUT_REGISTRY_PASSWORD, or nobody.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask release", bin_name = "cargo xtask release", version)]
struct Args {
    /// Push to this registry, HOST/PATH; without it nothing is pushed
    #[arg(long, value_name = "HOST/PATH")]
    registry: Option<String>,
    /// The folder for files, which is empty or not there [default: target/release-VERSION]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Speak HTTP to the registry: for one on this machine
    #[arg(long, requires = "registry")]
    insecure: bool,
    /// Publish other bytes under tags that are published already
    #[arg(long, requires = "registry")]
    replace: bool,
    /// Release files that differ from the commit
    #[arg(long)]
    allow_dirty: bool,
    /// Sign claims with the seed of an account's key in this file, instead of the key that everybody has
    #[arg(long, value_name = "FILE")]
    account_key: Option<PathBuf>,
    /// Take programs that were built already from this folder; nobody checks how
    #[arg(long, value_name = "DIR", requires = "components")]
    programs: Option<PathBuf>,
    /// Take components that were built already from this folder
    #[arg(long, value_name = "DIR", requires = "programs")]
    components: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let commit = Commit::checked_out(&workspace.root, args.allow_dirty)?;
    let signer = Signer::new(args.account_key.as_deref(), &workspace.version, &commit)?;
    let registry = args
        .registry
        .as_deref()
        .map(|place| Registry::new(place, args.insecure, args.replace));
    let registry = registry.transpose()?;
    let default = || workspace.target.join(format!("release-{}", workspace.version));
    let output = args.output.unwrap_or_else(default);
    // Whatever can go wrong without a compiler does so before minutes of compiling.
    check_folder(&output)?;
    if let Some(registry) = &registry {
        registry.check(workspace.program()?).await?;
    }
    let built = match args.programs.zip(args.components) {
        Some((programs, components)) => Built { programs, components },
        None => compile::everything(&workspace, &commit)?,
    };
    let prefix = registry.as_ref().map(Registry::prefix);
    let release = Making {
        workspace: &workspace,
        commit: &commit,
        signer: &signer,
        built: &built,
        registry: prefix.as_deref(),
        effort: Effort::best(),
    };
    let release = release.make()?;
    release.write(&output)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", output.display()).context("can't print")?;
    if let Some(registry) = registry {
        for artifact in &release.artifacts {
            let pushed = registry.push(artifact).await?;
            writeln!(out, "{pushed}").context("can't print")?;
        }
    }
    Ok(())
}
