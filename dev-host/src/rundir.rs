//! The folder of one run: the server's store, the packed parts, the host's provider cache, the logs.
//!
//! The embedded host keeps its copies of providers under `$TMPDIR`, and a program can set its own environment only
//! through `unsafe`. So `fanout-dev` makes the folder, and then replaces itself by itself with `TMPDIR` inside it:
//! same process id, same standard streams. Nothing of a run is ever outside this folder.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// `process id:folder`. The id keeps a variable that was inherited by mistake from naming a folder to remove.
const VARIABLE: &str = "FANOUT_DEV_RUN";

/// Said to the host, wadm and (by the host) the providers, unless the user says otherwise. Without the second, a
/// `RUST_BACKTRACE=1` in a shell makes wadm print sixty lines for each retry of its own.
const DEFAULTS: [(&str, &str); 2] = [
    (
        "RUST_LOG",
        "info,async_nats=warn,cranelift=warn,wadm=warn,wasmtime=warn,wrpc_transport=warn",
    ),
    ("RUST_LIB_BACKTRACE", "0"),
];

/// The folder of this run.
#[derive(Debug)]
pub(crate) struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The folder that this process was started with; if there is none yet, makes one and starts this process anew,
    /// so that it does not return.
    pub(crate) fn adopt_or_restart() -> Result<Self> {
        match std::env::var(VARIABLE).ok().and_then(|value| own_folder(&value)) {
            Some(root) => Ok(Self { root }),
            None => Err(restart()?),
        }
    }

    /// The folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that the parts say.
    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The server's store.
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The packed providers and the components, as the manifest refers to them.
    pub(crate) fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// Moves the logs to where they outlive the run, and removes the rest.
    pub(crate) fn keep_logs(self, wanted: Option<&Path>) -> Result<PathBuf> {
        let name = self.root.file_name().context("the run's folder has no name")?;
        let kept = match wanted {
            Some(folder) => folder.join(name),
            None => self.root.with_extension("logs"),
        };
        std::fs::create_dir_all(&kept).with_context(|| format!("can't make {}", kept.display()))?;
        for entry in std::fs::read_dir(self.logs()).context("can't read the logs' folder")? {
            let entry = entry.context("can't read the logs' folder")?;
            std::fs::copy(entry.path(), kept.join(entry.file_name()))
                .with_context(|| format!("can't keep {}", entry.path().display()))?;
        }
        self.remove()?;
        Ok(kept)
    }

    /// Removes all of it.
    pub(crate) fn remove(self) -> Result<()> {
        match std::fs::remove_dir_all(&self.root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("can't remove {}", self.root.display()))
            }
            _ => Ok(()),
        }
    }
}

fn own_folder(value: &str) -> Option<PathBuf> {
    let (id, root) = value.split_once(':')?;
    (id.parse() == Ok(std::process::id())).then(|| PathBuf::from(root))
}

fn restart() -> Result<anyhow::Error> {
    let root = tempfile::Builder::new()
        .prefix("fanout-")
        .tempdir()
        .context("can't make a temporary folder")?
        .keep();
    let run = RunDir { root };
    let error = match run.start_anew() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    run.remove()?;
    Ok(error)
}

impl RunDir {
    fn start_anew(&self) -> Result<std::convert::Infallible> {
        let temporary = self.root.join("tmp");
        for folder in [&temporary, &self.logs(), &self.store(), &self.parts()] {
            std::fs::create_dir(folder).with_context(|| format!("can't make {}", folder.display()))?;
        }
        let Some(root) = self.root.to_str() else {
            bail!("the temporary folder's path is not UTF-8: {}", self.root.display());
        };
        let program = std::env::current_exe().context("can't find this program")?;
        let mut arguments = std::env::args_os();
        let mut command = Command::new(program);
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command
            .args(arguments)
            .env(VARIABLE, format!("{}:{root}", std::process::id()))
            .env("TMPDIR", &temporary);
        for (name, value) in DEFAULTS {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        // Only a failure returns.
        Err(command.exec()).context("can't start this program anew")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_named_for_another_process_is_not_adopted() {
        let own = std::process::id();
        assert_eq!(own_folder(&format!("{own}:/tmp/run")), Some(PathBuf::from("/tmp/run")));
        assert_eq!(own_folder(&format!("{}:/tmp/run", own + 1)), None);
        assert_eq!(own_folder("/tmp/run"), None);
        assert_eq!(own_folder(""), None);
    }
}
