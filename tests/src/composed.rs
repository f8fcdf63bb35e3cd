//! Components composed to one by the command `wac plug`: what a component imports comes from those that export it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Composes a component with others that serve what it imports, in the file `to`. `FANOUT_WAC` names the command.
pub fn plug(socket: &Path, plugs: &[PathBuf], to: &Path) -> Result<()> {
    let wac =
        std::env::var_os("FANOUT_WAC").context("FANOUT_WAC is not set: `cargo xtask` finds or builds what it names")?;
    let mut command = Command::new(&wac);
    command.arg("plug").arg(socket);
    for plug in plugs {
        command.arg("--plug").arg(plug);
    }
    let output = command.arg("--output").arg(to).output();
    let output = output.with_context(|| format!("can't run {}", wac.display()))?;
    ensure!(
        output.status.success(),
        "{} was not composed: {}",
        socket.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
