//! The contract as a package of WIT in its binary form, as `wkg` publishes and fetches it.

use std::path::Path;

use anyhow::{Context as _, Result};
use wit_parser::{Resolve, UnresolvedPackageGroup};

/// A package of WIT.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its namespace, such as `fanout`.
    pub namespace: String,
    /// Its name, such as `bus`.
    pub name: String,
    /// Its version.
    pub version: semver::Version,
    /// Its binary form.
    pub bytes: Vec<u8>,
}

/// Encodes the package in a folder.
///
/// # Errors
///
/// If it is none, or needs packages that are not in it, or has no version.
pub fn encode(folder: &Path) -> Result<Package> {
    let group = UnresolvedPackageGroup::parse_dir(folder).with_context(|| format!("in {}", folder.display()))?;
    let mut resolve = Resolve::default();
    let id = resolve
        .push_group(group)
        .with_context(|| format!("in {}", folder.display()))?;
    let bytes = wit_component::encode(&resolve, id).context("can't encode the package of WIT")?;
    let name = &resolve.packages[id].name;
    Ok(Package {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        version: name.version.clone().context("the package of WIT has no version")?,
        bytes,
    })
}
