//! Compiles what is released, so that no path of this machine is in it and the programs need no library of the system.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::commit::Commit;
use crate::workspace::{Kind, Part, Workspace, cargo, read};

/// What components are compiled for, and how.
pub const WASM_TARGET: &str = "wasm32-wasip2";
const WASM_PROFILE: &str = "component";

/// What programs are compiled for: this machine's architecture, without a C library of the system.
#[must_use]
pub fn program_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Where programs and components lie.
#[derive(Clone, Debug)]
pub struct Built {
    /// The folder with programs.
    pub programs: PathBuf,
    /// The folder with components.
    pub components: PathBuf,
}

impl Built {
    /// The bytes of a part.
    ///
    /// # Errors
    ///
    /// If it was not built.
    pub fn read(&self, part: &Part) -> Result<Vec<u8>> {
        let path = self.path(part);
        std::fs::read(&path).with_context(|| format!("{} is not built: can't read {}", part.name, path.display()))
    }

    /// Where a part lies.
    #[must_use]
    pub fn path(&self, part: &Part) -> PathBuf {
        match part.kind {
            Kind::Program | Kind::Provider => self.programs.join(&part.file),
            Kind::Component => self.components.join(&part.file),
        }
    }
}

/// Compiles everything, into a folder of its own: other flags would have other builds begin anew.
///
/// # Errors
///
/// If a compiler is missing or fails, or if what it made has a path of this machine in it.
pub fn everything(workspace: &Workspace, commit: &Commit) -> Result<Built> {
    let target = program_target();
    for needed in [target.as_str(), WASM_TARGET] {
        ensure_target(needed)?;
    }
    let folder = workspace.target.join("release-build");
    let paths = Paths::of(workspace, &folder)?;
    let mut programs = command(workspace, commit, &folder, &target, &paths);
    programs
        .args(["--profile", "release"])
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    let compiler = c_compiler();
    let underscored = target.replace('-', "_");
    programs.env(format!("CC_{underscored}"), compiler);
    programs.env(format!("CFLAGS_{underscored}"), paths.c_flags());
    let mut components = command(workspace, commit, &folder, WASM_TARGET, &paths);
    components.args(["--profile", WASM_PROFILE]);
    for part in &workspace.parts {
        let command = match part.kind {
            Kind::Program | Kind::Provider => &mut programs,
            Kind::Component => &mut components,
        };
        command.args(["--package", &part.package]);
    }
    for mut command in [components, programs] {
        let status = command.status().context("can't run cargo")?;
        ensure!(status.success(), "cargo build ended with {status}");
    }
    let built = Built {
        programs: folder.join(&target).join("release"),
        components: folder.join(WASM_TARGET).join(WASM_PROFILE),
    };
    for part in &workspace.parts {
        let bytes = built.read(part)?;
        paths.check(&part.name, &bytes)?;
        if part.kind != Kind::Component {
            ensure!(is_static(&bytes), "{} is not linked statically", part.name);
        }
    }
    Ok(built)
}

fn command(workspace: &Workspace, commit: &Commit, folder: &Path, target: &str, paths: &Paths) -> Command {
    let mut command = cargo();
    command
        .current_dir(&workspace.root)
        .args(["build", "--locked", "--target", target, "--target-dir"])
        .arg(folder)
        // Beside the flags of .cargo/config.toml, which a variable would take the place of.
        .args(["--config", &format!("target.{target}.rustflags={}", paths.rust_flags())])
        .env("SOURCE_DATE_EPOCH", commit.seconds.to_string())
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// The paths of this machine, and what stands for each in what is released.
#[derive(Debug)]
struct Paths(Vec<(String, &'static str)>);

impl Paths {
    fn of(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let home = |variable: &str, default: &str| {
            let named = std::env::var_os(variable).map(PathBuf::from);
            named.or_else(|| std::env::home_dir().map(|home| home.join(default)))
        };
        let mut paths = Vec::new();
        let known = [
            (Some(folder.to_owned()), "/build"),
            (Some(workspace.root.clone()), "/fanout"),
            (home("CARGO_HOME", ".cargo"), "/cargo"),
            (home("RUSTUP_HOME", ".rustup"), "/rustup"),
        ];
        for (path, stands_for) in known {
            let path = path.context("there is no home folder")?;
            paths.push((
                path.to_str().context("a folder's name is not text")?.to_owned(),
                stands_for,
            ));
        }
        Ok(Self(paths))
    }

    /// As an array of TOML. Of prefixes that match, rustc takes the last.
    fn rust_flags(&self) -> String {
        let flags = self
            .0
            .iter()
            .rev()
            .map(|(path, to)| format!("--remap-path-prefix={path}={to}"));
        toml::Value::Array(flags.map(toml::Value::String).collect()).to_string()
    }

    fn c_flags(&self) -> String {
        let flags = self
            .0
            .iter()
            .rev()
            .map(|(path, to)| format!("-ffile-prefix-map={path}={to}"));
        flags.collect::<Vec<_>>().join(" ")
    }

    fn check(&self, name: &str, bytes: &[u8]) -> Result<()> {
        for (path, _) in &self.0 {
            let is_there = bytes.windows(path.len()).any(|window| window == path.as_bytes());
            ensure!(!is_there, "{name} has a path of this machine in it: {path}");
        }
        Ok(())
    }
}

/// A compiler of C for the programs' target. What is compiled with it uses no C library, so that any compiler for this machine
/// will do where there is none of its own.
fn c_compiler() -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    ["musl-gcc", "gcc", "clang"].into_iter().find(has).unwrap_or("cc")
}

fn ensure_target(target: &str) -> Result<()> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let sysroot = read(Command::new(rustc).args(["--print", "sysroot"]))?;
    if Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir()
    {
        return Ok(());
    }
    let status = Command::new("rustup").args(["target", "add", target]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        _ => bail!("a release needs the Rust target {target}, and rustup could not add it"),
    }
}

/// The compiler that compiles, such as `1.95.0`.
///
/// # Errors
///
/// If it does not say so.
pub fn rustc_version() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = read(Command::new(rustc).arg("--version"))?;
    let version = said.split(' ').nth(1).context("rustc says no version")?;
    Ok(version.to_owned())
}

/// Whether a program of 64-bit ELF asks for no loader: it has no program header `PT_INTERP`.
#[must_use]
pub fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, bytes: usize| {
        let field = elf.get(at..at + bytes)?;
        Some(
            field
                .iter()
                .rev()
                .fold(0_usize, |number, byte| number << 8 | usize::from(*byte)),
        )
    };
    let is_elf = elf.starts_with(b"\x7fELF\x02\x01");
    let (Some(begin), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else {
        return false;
    };
    let mut headers = (0..count).map(|i| number(begin + i * size, 4));
    is_elf && headers.all(|kind| kind.is_some_and(|kind| kind != PT_INTERP as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_asks_for_a_loader_is_not_static() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&own), "tests are linked with the system's C library");
        assert!(!is_static(b"#!/bin/sh\n"));
        // One program header, of this kind, behind the file's own.
        let program = |kind: u8| {
            let mut elf = vec![0; 64 + 56];
            elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
            (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, kind);
            elf
        };
        assert!(is_static(&program(1)));
        assert!(!is_static(&program(3)));
        assert!(!is_static(&program(1)[..66]), "a file that ends early");
    }

    #[test]
    fn a_path_of_this_machine_is_mapped_and_found() {
        let paths = Paths(vec![
            ("/home/me/bus/target".into(), "/build"),
            ("/home/me/bus".into(), "/fanout"),
        ]);
        let flags = paths.rust_flags();
        assert_eq!(
            flags, r#"["--remap-path-prefix=/home/me/bus=/fanout", "--remap-path-prefix=/home/me/bus/target=/build"]"#,
            "of prefixes that match, the last counts"
        );
        assert!(paths.check("x", b"panicked at /fanout/provider/src/main.rs").is_ok());
        let found = paths
            .check("x", b"panicked at /home/me/bus/provider/src/main.rs")
            .unwrap_err();
        assert!(found.to_string().contains("/home/me/bus"), "{found}");
    }
}
