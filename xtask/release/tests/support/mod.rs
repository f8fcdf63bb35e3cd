//! What the tests of a release share: programs and components that stand in for those that are compiled for minutes.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fanout_release::archive::Effort;
use fanout_release::claims::Signer;
use fanout_release::commit::Commit;
use fanout_release::compile::Built;
use fanout_release::release::{Making, Release};
use fanout_release::wit;
use fanout_release::workspace::{Kind, Workspace};

/// The commit that the tests release.
pub fn commit() -> Commit {
    Commit {
        revision: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        seconds: 1_764_000_000,
    }
}

/// A script for the program, a text for the provider, the contract's own package for each component.
pub fn stand_ins(workspace: &Workspace, folder: &Path) -> Built {
    let script = "#!/bin/sh\ncase \"$1\" in\ncompletions) echo \"# completions for $2\" ;;\n\
                  manual-pages) echo '{\"fanout.1\":\".TH fanout 1\"}' ;;\n*) echo fanout stands in ;;\nesac\n";
    let wasm = wit::encode(&workspace.root.join("wit")).unwrap().bytes;
    let built = Built {
        programs: folder.to_owned(),
        components: folder.to_owned(),
    };
    for part in &workspace.parts {
        let bytes = match part.kind {
            Kind::Program => script.as_bytes(),
            Kind::Provider => b"a provider",
            Kind::Component => wasm.as_slice(),
        };
        let path = built.path(part);
        fs::write(&path, bytes).unwrap();
        make_executable(&path);
    }
    built
}

/// The program and the components of the tests, as `cargo xtask test` built them; a script for the provider. The program has no
/// symbols, where there is a `strip`.
pub fn of_the_tests(workspace: &Workspace, folder: &Path) -> Built {
    let beside = |variable: &str, below: &str| {
        let named = std::env::var_os(variable).map(PathBuf::from);
        named.unwrap_or_else(|| workspace.target.join(below))
    };
    let (program, provider) = (workspace.program().unwrap(), workspace.provider().unwrap());
    let found = beside("FANOUT_BIN", &format!("debug/{}", program.file));
    let to = folder.join(&program.file);
    let stripped = Command::new("strip").arg("-o").arg(&to).arg(&found).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(&found, &to).unwrap_or_else(|e| panic!("build it first: {}: {e}", found.display()));
    }
    fs::write(
        folder.join(&provider.file),
        format!("#!/bin/sh\necho {} stands in\n", provider.name),
    )
    .unwrap();
    Built {
        programs: folder.to_owned(),
        components: beside("FANOUT_COMPONENTS", "wasm32-wasip2/component"),
    }
}

/// A release in little time: nothing is made smaller.
pub fn make(workspace: &Workspace, built: &Built, registry: Option<&str>) -> Release {
    let commit = commit();
    let signer = Signer::new(None, &workspace.version, &commit).unwrap();
    let making = Making {
        workspace,
        commit: &commit,
        signer: &signer,
        built,
        registry,
        effort: Effort::none(),
    };
    making.make().unwrap()
}

/// The file of a release whose name ends so.
pub fn file<'a>(release: &'a Release, ending: &str) -> &'a [u8] {
    let mut found = release.files.iter().filter(|(name, _)| name.ends_with(ending));
    let (_, bytes) = found
        .next()
        .unwrap_or_else(|| panic!("no file ends with {ending}: {:?}", release.files.keys()));
    assert!(found.next().is_none(), "several files end with {ending}");
    bytes
}

pub fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub fn has(program: &str) -> bool {
    on_path(program).is_some()
}

pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Says what is not tried here. Past the capture of tests that pass: nobody would see it there.
pub fn skipped(what: &str, why: &str) {
    drop(writeln!(std::io::stderr(), "skipped: {what}: {why}"));
}
