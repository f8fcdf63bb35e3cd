//! Where things are: the two workspaces, their target folders, and what a build leaves there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// The target that components are built for.
pub(crate) const WASM_TARGET: &str = "wasm32-wasip2";

/// The profile that components are built with.
pub(crate) const WASM_PROFILE: &str = "component";

/// The repository.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    dev_host_target: PathBuf,
}

impl Workspace {
    /// The repository that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask is not in a repository")?
            .to_owned();
        let chosen = std::env::var_os("CARGO_TARGET_DIR").map(|folder| root.join(folder));
        let dev_host_target = match &chosen {
            Some(folder) => folder.join("dev-host"),
            None => root.join("dev-host/target"),
        };
        Ok(Self {
            target: chosen.unwrap_or_else(|| root.join("target")),
            dev_host_target,
            root,
        })
    }

    /// The repository's folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The dev host's target folder.
    pub(crate) fn dev_host_target(&self) -> &Path {
        &self.dev_host_target
    }

    /// The dev host's manifest.
    pub(crate) fn dev_host_manifest(&self) -> PathBuf {
        self.root.join("dev-host/Cargo.toml")
    }

    /// Tools that are installed for this repository alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// Where failed runs leave their logs.
    pub(crate) fn logs(&self) -> PathBuf {
        self.target.join("logs")
    }

    /// A program that was built for speed.
    pub(crate) fn released(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// The fuzz targets' target folder.
    pub(crate) fn fuzz_target(&self) -> PathBuf {
        self.target.join("fuzz")
    }

    /// Programs of earlier commits.
    pub(crate) fn older(&self) -> PathBuf {
        self.target.join("older")
    }

    /// The bus with guards that can be switched off.
    pub(crate) fn guards(&self) -> PathBuf {
        self.target.join("guards")
    }

    /// Where benches leave their raw samples.
    pub(crate) fn samples(&self) -> PathBuf {
        self.target.join("bench")
    }

    /// The provider.
    pub(crate) fn provider(&self) -> PathBuf {
        self.target.join("debug/fanout-provider")
    }

    /// The fault campaign.
    pub(crate) fn campaign(&self) -> PathBuf {
        self.target.join("debug/fanout-campaign")
    }

    /// The command line.
    pub(crate) fn fanout(&self) -> PathBuf {
        self.target.join("debug/fanout")
    }

    /// The key-value provider.
    pub(crate) fn keyvalue(&self) -> PathBuf {
        self.target.join("debug/fanout-dev-keyvalue")
    }

    /// The dev host.
    pub(crate) fn dev_host(&self) -> PathBuf {
        self.dev_host_target.join("debug/fanout-dev")
    }

    /// The dev host, built for speed.
    pub(crate) fn released_dev_host(&self) -> PathBuf {
        self.dev_host_target.join("release/fanout-dev")
    }

    /// The components.
    pub(crate) fn components(&self) -> PathBuf {
        self.target.join(WASM_TARGET).join(WASM_PROFILE)
    }

    /// The demo on a v2 host.
    pub(crate) fn demo_v2(&self) -> PathBuf {
        self.target.join("debug/fanout-v2")
    }

    /// The demo of places.
    pub(crate) fn demo_places(&self) -> PathBuf {
        self.target.join("debug/fanout-places")
    }

    /// The manifests that the demo on a v2 host deploys.
    pub(crate) fn v2_manifest(&self) -> PathBuf {
        self.root.join("deploy/wasmcloud-v2/payments.yaml")
    }

    /// The manifest that the demo and the end-to-end tests deploy.
    pub(crate) fn local_manifest(&self) -> PathBuf {
        self.root.join("wadm/local.yaml")
    }

    /// cargo, the one that runs this, in the repository's folder.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.current_dir(&self.root);
        command
    }
}
