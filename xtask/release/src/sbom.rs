//! What a part is made of, as CycloneDX 1.6: each crate that is linked in, with its checksum and licence, and who needs whom.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::commit::Commit;
use crate::sums::sha256;
use crate::tree::{Crate, Tree};
use crate::workspace::{Part, Workspace, cargo, read};

/// What cargo knows of the packages that parts are made of.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    known: BTreeMap<Crate, Known>,
}

/// What cargo knows of one package.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Its licence, as an SPDX expression.
    pub(crate) licence: Option<String>,
    /// Its folder on this machine, which goes into nothing that is released.
    pub(crate) folder: PathBuf,
    repository: Option<String>,
    /// SHA-256 of its archive in the registry; a package of this repository has none.
    checksum: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    repository: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

impl Packages {
    /// Reads what cargo and the lock file say, for a target.
    ///
    /// # Errors
    ///
    /// If cargo can't say it.
    pub fn read(workspace: &Workspace, target: &str) -> Result<Self> {
        let mut command = cargo();
        command.current_dir(&workspace.root);
        command.args([
            "metadata",
            "--quiet",
            "--locked",
            "--format-version",
            "1",
            "--filter-platform",
            target,
        ]);
        let metadata: Metadata =
            serde_json::from_str(&read(&mut command)?).context("cargo metadata has another form")?;
        let lock = String::from_utf8(workspace.read("Cargo.lock")?).context("Cargo.lock is not text")?;
        let lock: Lock = toml::from_str(&lock).context("Cargo.lock has another form")?;
        let mut known: BTreeMap<_, _> = metadata
            .packages
            .into_iter()
            .map(|package| {
                let folder = package.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
                let known = Known {
                    // Before SPDX expressions, crates.io took a slash for "or".
                    licence: package.license.map(|licence| licence.replace('/', " OR ")),
                    folder,
                    repository: package.repository,
                    checksum: None,
                };
                let (name, version) = (package.name, package.version);
                (Crate { name, version }, known)
            })
            .collect();
        for Locked {
            name,
            version,
            checksum,
        } in lock.package
        {
            if let Some(known) = known.get_mut(&Crate { name, version }) {
                known.checksum = checksum;
            }
        }
        Ok(Self { known })
    }

    pub(crate) fn get(&self, package: &Crate) -> Result<&Known> {
        self.known
            .get(package)
            .with_context(|| format!("cargo metadata does not know {} {}", package.name, package.version))
    }
}

/// What the Rust standard library, which is linked into every part, is called.
const STANDARD_LIBRARY: &str = "rust-std";

/// The bill of materials of one part, as JSON.
///
/// # Errors
///
/// If a crate of the tree is unknown.
pub fn sbom(part: &Part, tree: &Tree, packages: &Packages, rustc: &str, commit: &Commit) -> Result<Vec<u8>> {
    let (root, below) = tree.below(&part.package)?;
    let mut components = vec![json!({
        "type": "library",
        "bom-ref": STANDARD_LIBRARY,
        "name": STANDARD_LIBRARY,
        "version": rustc,
        "licenses": [{ "expression": "MIT OR Apache-2.0" }],
    })];
    for package in below.needs.keys().filter(|package| **package != root) {
        components.push(component("library", package, packages.get(package)?));
    }
    let mut main = component("application", &root, packages.get(&root)?);
    main["name"] = part.name.clone().into();
    main["description"] = part.description.clone().into();
    let dependencies: Vec<_> = below
        .needs
        .iter()
        .map(|(package, needs)| {
            let mut on: Vec<_> = needs.iter().map(reference).collect();
            if *package == root {
                on.push(STANDARD_LIBRARY.to_owned());
            }
            json!({ "ref": reference(package), "dependsOn": on })
        })
        .collect();
    document(&main, components, dependencies, commit)
}

/// The bill of materials of what has no code in it, such as a package of interfaces.
///
/// # Errors
///
/// If the commit's time is none.
pub fn without_code(name: &str, description: &str, version: &semver::Version, commit: &Commit) -> Result<Vec<u8>> {
    let main = json!({
        "type": "data",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version.to_string(),
        "description": description,
        "licenses": [{ "expression": "Apache-2.0" }],
    });
    document(&main, Vec::new(), Vec::new(), commit)
}

fn document(main: &Value, components: Vec<Value>, dependencies: Vec<Value>, commit: &Commit) -> Result<Vec<u8>> {
    let mut document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": commit.time()?,
            "tools": { "components": [{
                "type": "application",
                "name": env!("CARGO_PKG_NAME"),
                "version": env!("CARGO_PKG_VERSION"),
            }] },
            "component": main,
            "properties": [{ "name": "git:revision", "value": commit.revision }],
        },
        "components": components,
        "dependencies": dependencies,
    });
    // A serial number is to be unique to the document, and the same for the same document.
    let digest = sha256(&crate::oci::canonical(&document)?);
    document["serialNumber"] = format!("urn:uuid:{}", uuid(&digest)).into();
    let mut bytes = crate::oci::canonical(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A UUID of version 8 (RFC 9562): the first bits of a digest.
fn uuid(digest: &str) -> String {
    format!(
        "{}-{}-8{}-8{}-{}",
        &digest[..8],
        &digest[8..12],
        &digest[13..16],
        &digest[17..20],
        &digest[20..32]
    )
}

fn component(kind: &str, package: &Crate, known: &Known) -> Value {
    let mut component = json!({
        "type": kind,
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
    });
    if let Some(licence) = &known.licence {
        component["licenses"] = json!([{ "expression": licence }]);
    }
    if let Some(checksum) = &known.checksum {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        // Only what the registry has can be found there.
        component["purl"] = reference(package).into();
    }
    if let Some(repository) = &known.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    component
}

/// A package URL, in which `+` is written as `%2B`.
fn reference(package: &Crate) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version.replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::workspace::Kind;

    #[test]
    fn a_bill_names_what_is_linked_in_and_is_the_same_each_time() {
        let named = |name: &str, version: &str| Crate {
            name: name.into(),
            version: version.into(),
        };
        let (app, lib) = (named("app", "0.2.0"), named("lib", "1.0.0+meta"));
        let tree = Tree {
            needs: BTreeMap::from([
                (app.clone(), BTreeSet::from([lib.clone()])),
                (lib.clone(), BTreeSet::new()),
            ]),
        };
        let known = Known {
            licence: Some("MIT".into()),
            checksum: Some("ab".into()),
            ..Known::default()
        };
        let packages = Packages {
            known: BTreeMap::from([(app, Known::default()), (lib, known)]),
        };
        let part = Part {
            name: "shown".into(),
            package: "app".into(),
            description: String::new(),
            kind: Kind::Program,
            file: "shown".into(),
        };
        let commit = Commit {
            revision: "c0ffee".into(),
            seconds: 1_700_000_000,
        };
        let bill = sbom(&part, &tree, &packages, "1.95.0", &commit).unwrap();
        assert_eq!(bill, sbom(&part, &tree, &packages, "1.95.0", &commit).unwrap());
        let bill: Value = serde_json::from_slice(&bill).unwrap();
        assert_eq!(bill["metadata"]["component"]["name"], "shown");
        assert_eq!(bill["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        assert_eq!(bill["components"][1]["purl"], "pkg:cargo/lib@1.0.0%2Bmeta");
        assert_eq!(bill["components"][1]["hashes"][0]["content"], "ab");
        assert_eq!(
            bill["dependencies"][0]["dependsOn"],
            json!(["pkg:cargo/lib@1.0.0%2Bmeta", STANDARD_LIBRARY])
        );
        let serial = bill["serialNumber"].as_str().unwrap();
        assert_eq!(serial.len(), "urn:uuid:".len() + 36);
    }
}
