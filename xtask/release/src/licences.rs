//! The texts of the licences of all that is linked in: permissive licences ask for no more than that they go along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::sbom::Packages;
use crate::tree::Tree;

/// What files with a licence, or a notice that goes along with one, begin with.
const BEGINNINGS: [&str; 5] = ["licen", "copying", "copyright", "notice", "unlicense"];

/// The largest text that is read.
const MAX_BYTES: u64 = 1 << 20;

/// One document with each text once, under the packages that it is of.
///
/// # Errors
///
/// If a package is unknown, or a text can't be read.
pub fn texts(tree: &Tree, packages: &Packages, own: &str) -> Result<String> {
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for package in tree.needs.keys() {
        let known = packages.get(package)?;
        let found = files(&known.folder)?;
        let name = format!("{} {}", package.name, package.version);
        if found.is_empty() {
            without.push(format!(
                "{name}: {}",
                known.licence.as_deref().unwrap_or("no licence is named")
            ));
        }
        for text in found {
            texts.entry(text).or_default().push(name.clone());
        }
    }
    // By packages, so that a text that changes moves no other.
    let mut by_packages: Vec<_> = texts.into_iter().map(|(text, packages)| (packages, text)).collect();
    by_packages.sort();
    let mut document = format!("{own}\n\nWhat is linked in, and under which licences.\n");
    for (packages, text) in by_packages {
        let (line, packages) = ("=".repeat(80), packages.join(", "));
        document.push_str(&format!("\n{line}\n{packages}\n{line}\n\n{}\n", text.trim_end()));
    }
    if !without.is_empty() {
        let line = "=".repeat(80);
        document.push_str(&format!(
            "\n{line}\nWithout a text of their own\n{line}\n\n{}\n",
            without.join("\n")
        ));
    }
    Ok(document)
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.context("can't read a package's folder")?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let metadata = entry.metadata().context("can't read a package's folder")?;
        if metadata.is_file() && metadata.len() <= MAX_BYTES && BEGINNINGS.iter().any(|b| name.starts_with(b)) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let read = |path: PathBuf| std::fs::read(&path).with_context(|| format!("can't read {}", path.display()));
    paths
        .into_iter()
        .map(|path| read(path).map(|bytes| String::from_utf8_lossy(&bytes).replace("\r\n", "\n")))
        .collect()
}
