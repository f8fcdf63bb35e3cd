//! Everything that is released of one commit, in memory, and then in a folder.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::archive::{Archive, Effort, gzip};
use crate::claims::Signer;
use crate::commit::Commit;
use crate::compile::{Built, WASM_TARGET, program_target, rustc_version};
use crate::deb::{self, Control};
use crate::manifests::Manifest;
use crate::oci::{self, Annotations, Artifact, Filesystem};
use crate::sbom::{Packages, sbom, without_code};
use crate::sums::sha256sums;
use crate::tree::Tree;
use crate::workspace::{Kind, Part, Workspace, read};
use crate::{licences, par, wit};

/// The name of the file of checksums.
pub const SUMS: &str = "SHA256SUMS";

/// What is released.
#[derive(Clone, Debug, Default)]
pub struct Release {
    /// Files, by name. `SHA256SUMS` is not among them.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What is pushed.
    pub artifacts: Vec<Artifact>,
}

/// How a release is made.
#[derive(Debug)]
pub struct Making<'a> {
    /// The repository.
    pub workspace: &'a Workspace,
    /// The commit.
    pub commit: &'a Commit,
    /// What signs claims.
    pub signer: &'a Signer,
    /// What was compiled.
    pub built: &'a Built,
    /// Where images are pushed, if anywhere: manifests name them there.
    pub registry: Option<&'a str>,
    /// How hard gzip tries.
    pub effort: Effort,
}

/// What is linked into the programs, or into the components.
struct Linked {
    tree: Tree,
    packages: Packages,
    rustc: String,
}

impl Making<'_> {
    /// Makes everything.
    ///
    /// # Errors
    ///
    /// If a part was not built, a manifest names what is not released, or anything is not what it should be.
    pub fn make(&self) -> Result<Release> {
        self.check()?;
        let mut release = Release::default();
        self.programs(&mut release)?;
        self.components(&mut release)?;
        self.contract(&mut release)?;
        for manifest in Manifest::all(self.workspace)? {
            let registry = self.registry.unwrap_or(&self.workspace.images);
            let text = manifest.with_images_of(self.workspace, registry);
            release.add(format!("manifests/{}", manifest.path), text)?;
        }
        // The same in every registry.
        let mut digests: Vec<_> = release
            .artifacts
            .iter()
            .map(|artifact| format!("{}:{}@{}\n", artifact.repository, artifact.tag, artifact.digest()))
            .collect();
        digests.sort();
        release.add("images.txt".to_owned(), digests.concat())?;
        Ok(release)
    }

    fn check(&self) -> Result<()> {
        let manifests = Manifest::all(self.workspace)?;
        let problems: Vec<_> = manifests
            .iter()
            .flat_map(|manifest| manifest.problems(self.workspace))
            .collect();
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(())
    }

    fn programs(&self, release: &mut Release) -> Result<()> {
        let Workspace { version, .. } = self.workspace;
        let arch = std::env::consts::ARCH;
        let (program, provider) = (self.workspace.program()?, self.workspace.provider()?);
        let linked = self.linked([program, provider], &program_target())?;
        let about = self.about();

        let (bytes, bill) = (self.built.read(program)?, linked.bill(program, self.commit)?);
        let licences = linked.licences(program, self.workspace)?;
        let generated = Generated::by(&self.built.path(program))?;
        let tree = self.tree(&bytes, &generated, &bill, &licences)?;
        let name = format!("{}-{version}-{arch}-linux", program.name);
        release.add(format!("{name}.tar.gz"), tree.tar_gz(self.effort)?)?;
        let (name_of_deb, deb) = self.deb(program, &bytes, &generated, &bill, &licences)?;
        release.add(name_of_deb, deb)?;
        release.add(format!("{name}.cdx.json"), bill.clone())?;
        let files = Filesystem {
            program: &bytes,
            licences: &licences,
        };
        let image = oci::container(program, files, arch, bill, &about, self.effort)?;
        let registry = self.registry.unwrap_or(&self.workspace.images);
        // What docker calls it is where it is pushed.
        let layout = oci::layout(&image, &format!("{registry}/{}", program.name), self.commit.seconds)?;
        release.add(format!("{}-{version}-{arch}.oci.tar", program.name), layout)?;
        release.artifacts.push(image);

        let (bytes, bill) = (self.built.read(provider)?, linked.bill(provider, self.commit)?);
        let par = par::pack(provider, &bytes, arch, self.signer, self.commit.seconds, self.effort)?;
        let name = format!("{}-{version}-{arch}-linux", provider.name);
        release.add(format!("{name}.par.gz"), par.clone())?;
        release.add(format!("{name}.cdx.json"), bill.clone())?;
        release.artifacts.push(oci::provider(provider, par, bill, &about)?);
        Ok(())
    }

    fn components(&self, release: &mut Release) -> Result<()> {
        let parts: Vec<_> = self.workspace.of_kind(Kind::Component).collect();
        let linked = self.linked(parts.iter().copied(), WASM_TARGET)?;
        for part in parts {
            let wasm = self.signer.component(part, &self.built.read(part)?)?;
            let bill = linked.bill(part, self.commit)?;
            let name = format!("{}-{}", part.name, self.workspace.version);
            release.add(format!("{name}.wasm"), wasm.clone())?;
            release.add(format!("{name}.cdx.json"), bill.clone())?;
            release.artifacts.push(oci::component(part, wasm, bill, &self.about())?);
        }
        Ok(())
    }

    fn contract(&self, release: &mut Release) -> Result<()> {
        let Workspace { version, .. } = self.workspace;
        let package = wit::encode(&self.workspace.root.join("wit"))?;
        ensure!(
            package.version == *version,
            "wit/ has version {}, and everything else {version}",
            package.version
        );
        let name = format!("{}-{}-{version}", package.namespace, package.name);
        let bill = without_code(
            &name,
            "The contract of an event bus, as a package of WIT",
            version,
            self.commit,
        )?;
        release.add(format!("{name}.wasm"), package.bytes.clone())?;
        release.add(format!("{name}.cdx.json"), bill.clone())?;
        release.artifacts.push(oci::interfaces(&package, bill, &self.about())?);
        Ok(())
    }

    fn about(&self) -> Annotations<'_> {
        Annotations {
            version: &self.workspace.version,
            commit: self.commit,
        }
    }

    fn linked<'a>(&self, parts: impl IntoIterator<Item = &'a Part>, target: &str) -> Result<Linked> {
        Ok(Linked {
            tree: Tree::of(self.workspace, parts, target)?,
            packages: Packages::read(self.workspace, target)?,
            rustc: rustc_version()?,
        })
    }

    /// The tarball: whatever the `.deb` has, in one folder, and the servers' configuration.
    fn tree(&self, program: &[u8], generated: &Generated, bill: &[u8], licences: &str) -> Result<Archive> {
        let mut archive = Archive::new(self.commit.seconds);
        let top = format!("fanout-{}", self.workspace.version);
        let mut add = |path: &str, mode, bytes: &[u8]| archive.file(format!("{top}/{path}"), mode, bytes);
        add("bin/fanout", 0o755, program);
        for (path, bytes) in &generated.0 {
            add(&format!("share/{path}"), 0o644, bytes);
        }
        add("LICENSES.txt", 0o644, licences.as_bytes());
        add("fanout.cdx.json", 0o644, bill);
        for file in [
            "README.md",
            "CHANGELOG.md",
            "SECURITY.md",
            "docs/install.md",
            "docs/policy.example.toml",
        ] {
            add(file, 0o644, &self.workspace.read(file)?);
        }
        for folder in ["deploy/nats", "deploy/prometheus", "deploy/systemd"] {
            for file in files(&self.workspace.root, folder)? {
                add(&file, 0o644, &self.workspace.read(&file)?);
            }
        }
        Ok(archive)
    }

    fn deb(
        &self,
        part: &Part,
        program: &[u8],
        generated: &Generated,
        bill: &[u8],
        licences: &str,
    ) -> Result<(String, Vec<u8>)> {
        let mut data = Archive::of_debian(self.commit.seconds);
        data.file("usr/bin/fanout", 0o755, program);
        for (path, bytes) in &generated.0 {
            // Debian's pages are compressed, and its zsh looks elsewhere.
            let (path, bytes) = match path.strip_prefix("zsh/site-functions/") {
                Some(name) => (format!("zsh/vendor-completions/{name}"), bytes.clone()),
                None if path.starts_with("man/") => (format!("{path}.gz"), gzip(bytes, self.effort)?),
                None => (path.clone(), bytes.clone()),
            };
            data.file(format!("usr/share/{path}"), 0o644, bytes);
        }
        for (file, to) in [
            (
                "deploy/systemd/fanout@.service",
                "usr/lib/systemd/system/fanout@.service",
            ),
            ("deploy/systemd/fanout.sysusers", "usr/lib/sysusers.d/fanout.conf"),
            ("README.md", "usr/share/doc/fanout/README.md"),
            ("docs/install.md", "usr/share/doc/fanout/install.md"),
            ("docs/policy.example.toml", "usr/share/doc/fanout/policy.example.toml"),
        ] {
            data.file(to, 0o644, self.workspace.read(file)?);
        }
        let changes = gzip(&self.workspace.read("CHANGELOG.md")?, self.effort)?;
        data.file("usr/share/doc/fanout/changelog.gz", 0o644, changes);
        data.file("usr/share/doc/fanout/copyright", 0o644, licences);
        data.file("usr/share/doc/fanout/fanout.cdx.json", 0o644, bill);
        data.folder("etc/fanout");
        let mut scripts = Vec::new();
        for name in ["postinst", "prerm", "postrm"] {
            scripts.push((name, self.workspace.read(&format!("deploy/debian/{name}"))?));
        }
        let control = Control {
            package: "fanout",
            version: &self.workspace.version,
            arch: std::env::consts::ARCH,
            summary: "event bus that you own, on NATS JetStream",
            description: &format!(
                "{}.\n\nIt stores every tenant's events, delivers them to whoever subscribed, and keeps what\n\
                 could not be handled. It needs a nats-server 2.11 or newer, with JetStream, on any machine.",
                part.description
            ),
            scripts,
        };
        Ok((
            control.file_name()?,
            deb::pack(&control, &data, self.commit.seconds, self.effort)?,
        ))
    }
}

impl Linked {
    fn bill(&self, part: &Part, commit: &Commit) -> Result<Vec<u8>> {
        sbom(part, &self.tree, &self.packages, &self.rustc, commit)
    }

    fn licences(&self, part: &Part, workspace: &Workspace) -> Result<String> {
        let own = String::from_utf8(workspace.read("LICENSE")?).context("LICENSE is not text")?;
        let (_, below) = self.tree.below(&part.package)?;
        licences::texts(&below, &self.packages, own.trim_end())
    }
}

/// What the program writes of itself: completions and manual pages, below `share/`.
struct Generated(BTreeMap<String, Vec<u8>>);

impl Generated {
    fn by(program: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for (shell, file) in [
            ("bash", "bash-completion/completions/fanout"),
            ("zsh", "zsh/site-functions/_fanout"),
            ("fish", "fish/vendor_completions.d/fanout.fish"),
        ] {
            let script = read(Command::new(program).args(["completions", shell]))?;
            files.insert(file.to_owned(), script.into_bytes());
        }
        let pages = read(Command::new(program).args(["manual-pages", "--json"]))?;
        let pages: BTreeMap<String, String> = serde_json::from_str(&pages).context("manual pages have another form")?;
        ensure!(
            pages.contains_key("fanout.1"),
            "the program has no manual page of itself"
        );
        files.extend(
            pages
                .into_iter()
                .map(|(name, text)| (format!("man/man1/{name}"), text.into_bytes())),
        );
        Ok(Self(files))
    }
}

impl Release {
    fn add(&mut self, name: String, bytes: impl Into<Vec<u8>>) -> Result<()> {
        if self.files.contains_key(&name) {
            bail!("two files are called {name}");
        }
        self.files.insert(name, bytes.into());
        Ok(())
    }

    /// `SHA256SUMS`, of every file.
    #[must_use]
    pub fn sums(&self) -> String {
        sha256sums(self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())))
    }

    /// Writes every file, and their checksums, into a folder that is empty or not there.
    ///
    /// # Errors
    ///
    /// If the folder has anything in it, or can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        check_folder(folder)?;
        let sums = self.sums();
        let sums = (SUMS, sums.as_bytes());
        for (name, bytes) in self
            .files
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .chain([sums])
        {
            let path = folder.join(name);
            let above = path.parent().context("a file is in a folder")?;
            std::fs::create_dir_all(above).with_context(|| format!("can't make {}", above.display()))?;
            std::fs::write(&path, bytes).with_context(|| format!("can't write {}", path.display()))?;
        }
        Ok(())
    }
}

/// Says whether a release can be written into a folder: one is never mixed with another.
///
/// # Errors
///
/// If the folder has anything in it.
pub fn check_folder(folder: &Path) -> Result<()> {
    let is_empty = match std::fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => true,
    };
    ensure!(
        is_empty,
        "{} has files in it: name another folder with --output",
        folder.display()
    );
    Ok(())
}

/// The files of a folder of the repository, by path.
fn files(root: &Path, folder: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(root.join(folder)).with_context(|| format!("can't read {folder}"))?;
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("can't read {folder}"))?;
        if entry.path().is_file() {
            files.push(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    files.sort();
    Ok(files)
}
