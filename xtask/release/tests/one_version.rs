//! One version everywhere: crates, contract, manifests and pages.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fanout_release::manifests::Manifest;
use fanout_release::workspace::Workspace;

/// Every version that stands behind a marker in a text.
fn versions<'a>(text: &'a str, marker: &str) -> Vec<&'a str> {
    let behind = text.split(marker).skip(1);
    let version = |rest: &'a str| {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        rest[..end].trim_end_matches('.')
    };
    behind
        .map(version)
        .filter(|version| version.matches('.').count() == 2)
        .collect()
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Decisions are of their time.
        if path.is_dir() && !path.ends_with("adr") && !path.ends_with("target") {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
}

#[test]
fn everything_has_the_workspaces_version() {
    let workspace = Workspace::find().unwrap();
    let (root, version) = (&workspace.root, workspace.version.to_string());
    let mut places = 0;
    let mut check = |path: &Path, found: &[&str]| {
        for found in found {
            assert_eq!(*found, version, "{}", path.display());
        }
        places += found.len();
    };

    for manifest in [
        "Cargo.toml",
        "dev-host/Cargo.toml",
        "dev-host/runtime/Cargo.toml",
        "tests/fuzz/Cargo.toml",
    ] {
        let path = root.join(manifest);
        let document: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        let package = document
            .get("package")
            .or_else(|| document.get("workspace")?.get("package"));
        check(&path, &[package.unwrap()["version"].as_str().unwrap()]);
    }

    let mut texts = vec![root.join("README.md")];
    files(&root.join("docs"), "md", &mut texts);
    for folder in ["wit", "example-components", "dev-host/runtime"] {
        files(&root.join(folder), "wit", &mut texts);
    }
    let interfaces = [
        "handler",
        "batch-handler",
        "backfill-handler",
        "publisher",
        "subscriber",
        "inbox",
        "status",
    ];
    let mut markers = vec![
        "fanout:bus@".to_owned(),
        "/fanout/bus:".to_owned(),
        "fanout-bus-".to_owned(),
    ];
    markers.extend(interfaces.map(|name| format!("fanout:bus/{name}@")));
    for part in &workspace.parts {
        let name = &part.name;
        markers.extend([format!("/{name}:"), format!("{name}_"), format!("{name}-")]);
    }
    for path in texts {
        let text = fs::read_to_string(&path).unwrap();
        for marker in &markers {
            check(&path, &versions(&text, marker));
        }
    }

    let manifests = Manifest::all(&workspace).unwrap();
    assert!(manifests.len() > 4, "the manifests are found");
    for manifest in manifests {
        assert_eq!(manifest.problems(&workspace), Vec::<String>::new());
        check(Path::new(&manifest.path), &versions(&manifest.text, "version: v"));
    }

    let changes = fs::read_to_string(root.join("CHANGELOG.md")).unwrap();
    let newest = changes.lines().find_map(|line| {
        line.strip_prefix("## [")?
            .split(']')
            .next()
            .filter(|v| *v != "Unreleased")
    });
    assert_eq!(
        newest,
        Some(version.as_str()),
        "CHANGELOG.md tells of this version first"
    );
    assert!(places > 30, "versions are found: {places}");
}

#[test]
fn what_the_manifests_name_is_released() {
    let workspace = Workspace::find().unwrap();
    let mut named = BTreeSet::new();
    for manifest in Manifest::all(&workspace).unwrap() {
        let ours = manifest
            .images()
            .filter_map(|image| image.strip_prefix(&workspace.images));
        named.extend(ours.map(|image| image.trim_start_matches('/').split(':').next().unwrap().to_owned()));
    }
    for name in [
        "fanout-provider",
        "webhook-ingress",
        "entitlements",
        "invoicing",
        "analytics",
    ] {
        assert!(named.contains(name), "{name} is in {named:?}");
    }
    for name in named {
        assert!(workspace.parts.iter().any(|part| part.name == name), "{name} is a part");
    }
}
