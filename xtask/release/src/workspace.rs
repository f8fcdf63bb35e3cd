//! The repository, as cargo describes it: its version, what is released of it, and where images are found.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The repository.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its folder.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// The one version of everything.
    pub version: semver::Version,
    /// What the images' names in manifests begin with, such as `ghcr.io/example-org`.
    pub images: String,
    /// What is released, by name.
    pub parts: Vec<Part>,
}

/// One thing that is released.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The name of its image, and of its files.
    pub name: String,
    /// The package that it is built from.
    pub package: String,
    /// What it says of itself in one line.
    pub description: String,
    /// What it is.
    pub kind: Kind,
    /// The file that cargo makes.
    pub file: String,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A program that people run: it is in the tarball, the `.deb` and an image of its own.
    Program,
    /// A program that a wasmCloud v1 host runs, out of an archive.
    Provider,
    /// A WebAssembly component.
    Component,
}

#[derive(Deserialize)]
struct Metadata {
    workspace_root: PathBuf,
    target_directory: PathBuf,
    packages: Vec<Package>,
    metadata: Option<OfWorkspace>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: semver::Version,
    description: Option<String>,
    metadata: Option<OfPackage>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct OfWorkspace {
    release: Images,
}

#[derive(Deserialize)]
struct Images {
    images: String,
}

#[derive(Deserialize)]
struct OfPackage {
    release: Option<Released>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Released {
    kind: Kind,
}

impl Workspace {
    /// Reads the repository that this program was built from.
    ///
    /// # Errors
    ///
    /// If cargo can't describe it, or if a package that is released has another version than the rest.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
        let mut command = cargo();
        command.args([
            "metadata",
            "--locked",
            "--no-deps",
            "--format-version",
            "1",
            "--manifest-path",
        ]);
        let output = read(command.arg(manifest))?;
        let metadata: Metadata = serde_json::from_str(&output).context("cargo metadata has another form")?;
        Self::from_metadata(metadata)
    }

    fn from_metadata(metadata: Metadata) -> Result<Self> {
        let images = metadata
            .metadata
            .context("Cargo.toml has no [workspace.metadata.release]")?;
        let mut version = None;
        let mut parts = Vec::new();
        for package in metadata.packages {
            let Some(released) = package.metadata.and_then(|metadata| metadata.release) else {
                continue;
            };
            let agreed = version.get_or_insert_with(|| package.version.clone());
            if *agreed != package.version {
                bail!("{} is {}, and others are {agreed}", package.name, package.version);
            }
            let of_kind = |kind: &str| package.targets.iter().find(|t| t.kind.iter().any(|k| k == kind));
            let (name, file) = match released.kind {
                Kind::Program | Kind::Provider => {
                    let bin = of_kind("bin").with_context(|| format!("{} has no program", package.name))?;
                    (bin.name.clone(), bin.name.clone())
                }
                Kind::Component => {
                    let library = of_kind("cdylib").with_context(|| format!("{} is no cdylib", package.name))?;
                    (package.name.clone(), format!("{}.wasm", library.name.replace('-', "_")))
                }
            };
            parts.push(Part {
                name,
                description: package.description.unwrap_or_default(),
                package: package.name,
                kind: released.kind,
                file,
            });
        }
        parts.sort();
        Ok(Self {
            root: metadata.workspace_root,
            target: metadata.target_directory,
            version: version.context("no package has [package.metadata.release]")?,
            images: images.release.images,
            parts,
        })
    }

    /// The parts of a kind, by name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.kind == kind)
    }

    /// The one program that is installed.
    ///
    /// # Errors
    ///
    /// If there is none, or if there are several.
    pub fn program(&self) -> Result<&Part> {
        self.only(Kind::Program)
    }

    /// The one provider.
    ///
    /// # Errors
    ///
    /// If there is none, or if there are several.
    pub fn provider(&self) -> Result<&Part> {
        self.only(Kind::Provider)
    }

    fn only(&self, kind: Kind) -> Result<&Part> {
        let mut parts = self.of_kind(kind);
        match (parts.next(), parts.next()) {
            (Some(part), None) => Ok(part),
            (first, _) => bail!(
                "{} packages are released as {kind:?}, and one is expected",
                if first.is_some() { "several" } else { "no" }
            ),
        }
    }

    /// A file of the repository.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub fn read(&self, file: &str) -> Result<Vec<u8>> {
        std::fs::read(self.root.join(file)).with_context(|| format!("can't read {file}"))
    }
}

/// cargo, the one that runs this.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command and returns what it printed; what it says on standard error is for the user.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("can't run {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} printed something that is not text"))
}
