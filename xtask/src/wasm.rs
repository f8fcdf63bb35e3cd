//! The wasm target of the compiler in use.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::runner::Runner;
use crate::workspace::WASM_TARGET;

/// Makes sure that the compiler can build components.
pub(crate) fn ensure(runner: &Runner) -> Result<()> {
    if has_target(runner)? {
        return Ok(());
    }
    runner.step(format!("installing the Rust target {WASM_TARGET}"));
    runner
        .run(Command::new("rustup").args(["target", "add", WASM_TARGET]))
        .with_context(|| {
            format!(
                "components need the Rust target {WASM_TARGET}, and rustup could not add it; \
                 if your Rust comes from elsewhere, install its {WASM_TARGET} standard library"
            )
        })
}

fn has_target(runner: &Runner) -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = runner.read(Command::new(rustc).args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(WASM_TARGET)
        .join("lib")
        .is_dir())
}
