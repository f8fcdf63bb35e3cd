//! The manifests that name images: under one prefix, of one version, and nothing that is not released.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;

/// The folders that hold them.
const FOLDERS: [&str; 2] = ["wadm", "deploy"];

/// A manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Where it lies in the repository.
    pub path: String,
    /// What stands in it.
    pub text: String,
}

impl Manifest {
    /// All of the repository that name images in a registry, in the order of their paths.
    ///
    /// # Errors
    ///
    /// If one can't be read.
    pub fn all(workspace: &Workspace) -> Result<Vec<Self>> {
        let mut files = Vec::new();
        for folder in FOLDERS {
            yaml(&workspace.root.join(folder), &mut files)?;
        }
        files.sort();
        let mut manifests = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
            let path = file
                .strip_prefix(&workspace.root)
                .context("a manifest is in the repository")?;
            let path = path.to_string_lossy().into_owned();
            let manifest = Self { path, text };
            if manifest.images().next().is_some() {
                manifests.push(manifest);
            }
        }
        Ok(manifests)
    }

    /// The images that it takes from a registry.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let images = self.text.lines().filter_map(image);
        images.filter(|image| !image.contains("://"))
    }

    /// What is wrong with its images.
    #[must_use]
    pub fn problems(&self, workspace: &Workspace) -> Vec<String> {
        let Workspace {
            images: prefix,
            version,
            ..
        } = workspace;
        let mut problems = Vec::new();
        for image in self.images() {
            let path = &self.path;
            let (repository, tag) = split(image);
            let name = repository.rsplit('/').next().unwrap_or_default();
            let is_ours = workspace.parts.iter().any(|part| part.name == name);
            match repository.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')) {
                None if is_ours => problems.push(format!("{path}: {image} is not below {prefix}")),
                None => {}
                Some(_) if !is_ours => problems.push(format!("{path}: {image} is not released by this repository")),
                Some(_) if tag != version.to_string() => {
                    problems.push(format!("{path}: {image} is not of version {version}"));
                }
                Some(_) => {}
            }
        }
        problems
    }

    /// The same with the images of another registry, `HOST/PATH`.
    #[must_use]
    pub fn with_images_of(&self, workspace: &Workspace, registry: &str) -> String {
        let below = format!("{}/", workspace.images);
        let mut text: Vec<_> = self.text.lines().map(str::to_owned).collect();
        for line in &mut text {
            if image(line).is_some_and(|image| image.starts_with(&below)) {
                *line = line.replacen(&below, &format!("{registry}/"), 1);
            }
        }
        text.join("\n") + "\n"
    }
}

/// The image that a line of YAML names.
fn image(line: &str) -> Option<&str> {
    let named = line.trim_start().trim_start_matches("- ").strip_prefix("image:")?;
    let named = named.split(" #").next().unwrap_or_default().trim();
    Some(named.trim_matches(['"', '\'']))
}

/// The repository and the tag. A colon before the last slash is a port's.
fn split(image: &str) -> (&str, &str) {
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    match image[name..].split_once(':') {
        Some((short, tag)) => (&image[..name + short.len()], tag),
        None => (image, ""),
    }
}

fn yaml(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))? {
        let path = entry.context("can't read a folder")?.path();
        if path.is_dir() {
            yaml(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Kind, Part};

    #[test]
    fn images_are_found_judged_and_moved() {
        let workspace = Workspace {
            root: PathBuf::new(),
            target: PathBuf::new(),
            version: semver::Version::new(0, 2, 0),
            images: "registry.example/org".into(),
            parts: vec![Part {
                name: "one".into(),
                package: "one".into(),
                description: String::new(),
                kind: Kind::Component,
                file: "one.wasm".into(),
            }],
        };
        let text = "  image: registry.example/org/one:0.2.0 # ours\n- image: \"other:5000/theirs:1\"\nimage: file:///x.wasm\nname: image\n";
        let manifest = Manifest {
            path: "m".into(),
            text: text.into(),
        };
        let images: Vec<_> = manifest.images().collect();
        assert_eq!(images, ["registry.example/org/one:0.2.0", "other:5000/theirs:1"]);
        assert_eq!(manifest.problems(&workspace), Vec::<String>::new());
        let moved = manifest.with_images_of(&workspace, "localhost:5000/a");
        assert_eq!(moved, text.replace("registry.example/org/one", "localhost:5000/a/one"));
        for (image, problem) in [
            ("elsewhere/one:0.2.0", "is not below"),
            ("registry.example/org/two:0.2.0", "is not released"),
            ("registry.example/org/one:0.1.0", "is not of version"),
            ("registry.example/org/one", "is not of version"),
        ] {
            let manifest = Manifest {
                path: "m".into(),
                text: format!("image: {image}\n"),
            };
            let problems = manifest.problems(&workspace);
            assert!(
                problems.len() == 1 && problems[0].contains(problem),
                "{image}: {problems:?}"
            );
        }
    }
}
