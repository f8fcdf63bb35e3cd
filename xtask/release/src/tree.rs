//! What is linked into a part: cargo's tree of normal dependencies, for the target and the features that it is built with.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Part, Workspace, cargo, read};

/// A package of one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Which package needs which, without what is needed only to build or to test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// Each package, and what it needs.
    pub needs: BTreeMap<Crate, BTreeSet<Crate>>,
}

impl Tree {
    /// The tree of parts that are built by one command: features are those that all of them ask for.
    ///
    /// # Errors
    ///
    /// If cargo can't make it.
    pub fn of<'a>(workspace: &Workspace, parts: impl IntoIterator<Item = &'a Part>, target: &str) -> Result<Self> {
        let mut command = cargo();
        command
            .current_dir(&workspace.root)
            // What proc macros need is linked into the compiler, not into the part.
            .args([
                "tree",
                "--quiet",
                "--locked",
                "--edges",
                "normal,no-proc-macro",
                "--prefix",
                "depth",
            ])
            .args(["--format", "{p}", "--target", target]);
        for part in parts {
            command.args(["--package", &part.package]);
        }
        Self::parse(&read(&mut command)?)
    }

    /// Lines such as `3serde v1.0.228` or `0fanout-cli v0.2.0 (/a/path) (*)`, the number being the depth.
    fn parse(text: &str) -> Result<Self> {
        let mut tree = Self::default();
        let mut above: Vec<Crate> = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let digits = line.bytes().take_while(u8::is_ascii_digit).count();
            let (depth, rest) = line.split_at(digits);
            let depth: usize = depth.parse().with_context(|| format!("cargo tree says {line:?}"))?;
            let mut words = rest.split(' ');
            let (Some(name), Some(version)) = (words.next(), words.next().and_then(|v| v.strip_prefix('v'))) else {
                bail!("cargo tree says {line:?}");
            };
            let found = Crate {
                name: name.to_owned(),
                version: version.to_owned(),
            };
            if depth > above.len() {
                bail!("cargo tree leaves a depth out before {line:?}");
            }
            above.truncate(depth);
            if let Some(parent) = above.last() {
                tree.needs.entry(parent.clone()).or_default().insert(found.clone());
            }
            tree.needs.entry(found.clone()).or_default();
            above.push(found);
        }
        Ok(tree)
    }

    /// The part of the tree that one package is linked with, the package included.
    ///
    /// # Errors
    ///
    /// If it is not in the tree.
    pub fn below(&self, package: &str) -> Result<(Crate, Self)> {
        let root = self.needs.keys().find(|c| c.name == package);
        let root = root
            .with_context(|| format!("{package} is not in its own tree"))?
            .clone();
        let mut below = Self::default();
        let mut waiting = vec![root.clone()];
        while let Some(next) = waiting.pop() {
            let needs = self.needs.get(&next).cloned().unwrap_or_default();
            waiting.extend(needs.iter().filter(|c| !below.needs.contains_key(c)).cloned());
            below.needs.insert(next, needs);
        }
        Ok((root, below))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_read_and_cut_at_one_package() {
        let text = "0app v0.2.0 (/somewhere)\n1left v1.0.0\n2leaf v0.1.0+meta\n1right v2.0.0\n2left v1.0.0 (*)\n\n0other v0.2.0 (/elsewhere)\n1alone v3.0.0\n";
        let tree = Tree::parse(text).unwrap();
        assert_eq!(tree.needs.len(), 6);
        let (root, below) = tree.below("app").unwrap();
        assert_eq!(root.version, "0.2.0");
        let names: Vec<_> = below.needs.keys().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["app", "leaf", "left", "right"]);
        let right = below.needs.iter().find(|(c, _)| c.name == "right").unwrap().1;
        assert_eq!(right.first().unwrap().name, "left");
        assert!(tree.below("nobody").is_err());
        for broken in ["app v1", "0app", "0a v1.0.0\n2b v1.0.0"] {
            assert!(Tree::parse(broken).is_err(), "{broken}");
        }
    }
}
