//! The files of a release: the same bytes each time, and each readable by the tool that it is for.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use fanout_release::release::{Release, SUMS};
use fanout_release::sums::sha256;
use fanout_release::workspace::{Kind, Workspace};
use provider_archive::ProviderArchive;
use serde_json::Value;
use support::{file, has, make, run, skipped, stand_ins};
use wascap::wasm::extract_claims;

/// What most tests look at: it is made once.
fn stood_in() -> &'static (Workspace, Release) {
    static MADE: OnceLock<(Workspace, Release)> = OnceLock::new();
    MADE.get_or_init(stand_in)
}

fn stand_in() -> (Workspace, Release) {
    let workspace = Workspace::find().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let built = stand_ins(&workspace, folder.path());
    let release = make(&workspace, &built, None);
    (workspace, release)
}

#[test]
fn the_same_commit_gives_the_same_bytes() {
    let (_, one) = stood_in();
    // Of another folder, and at another time.
    let (_, other) = &stand_in();
    assert_eq!(one.sums(), other.sums());
    assert_eq!(one.files, other.files);
    let manifests = |release: &Release| -> Vec<_> {
        release
            .artifacts
            .iter()
            .map(|a| (a.repository.clone(), a.digest()))
            .collect()
    };
    assert_eq!(manifests(one), manifests(other));
}

#[test]
fn no_file_has_a_path_of_this_machine_in_it() {
    let (workspace, release) = stood_in();
    let root = workspace.root.to_str().unwrap().as_bytes();
    let home = std::env::home_dir().unwrap();
    let cargo = home.join(".cargo");
    for (name, bytes) in &release.files {
        for path in [root, cargo.to_str().unwrap().as_bytes()] {
            let is_there = bytes.windows(path.len()).any(|window| window == path);
            assert!(!is_there, "{name} has {} in it", String::from_utf8_lossy(path));
        }
    }
}

#[test]
fn sums_are_those_of_the_files_and_a_folder_is_written_once() {
    let (_, release) = stood_in();
    let folder = tempfile::tempdir().unwrap();
    release.write(folder.path()).unwrap();
    let sums = fs::read_to_string(folder.path().join(SUMS)).unwrap();
    assert_eq!(sums.lines().count(), release.files.len());
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        assert_eq!(sha256(&fs::read(folder.path().join(name)).unwrap()), sum, "{name}");
    }
    if has("sha256sum") {
        run(Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", SUMS])
            .current_dir(folder.path()));
    }
    let again = release.write(folder.path()).unwrap_err().to_string();
    assert!(again.contains("--output"), "{again}");
}

#[tokio::test]
async fn a_host_of_wasmcloud_v1_reads_the_provider_and_its_claims() {
    let (workspace, release) = stood_in();
    let par = ProviderArchive::try_load(file(release, ".par.gz")).await.unwrap();
    let platform = format!("{}-linux", std::env::consts::ARCH);
    assert_eq!(par.targets(), [platform.as_str()]);
    assert_eq!(par.target_bytes(&platform).unwrap(), b"a provider");
    let claims = par.claims().unwrap();
    let metadata = claims.metadata.unwrap();
    assert_eq!(
        metadata.name.as_deref(),
        Some(workspace.provider().unwrap().name.as_str())
    );
    assert_eq!(metadata.ver, Some(workspace.version.to_string()));
    assert_eq!(claims.issued_at, support::commit().seconds);
    let token = par.claims_token().unwrap();
    let valid = wascap::jwt::validate_token::<wascap::jwt::CapabilityProvider>(&token.jwt).unwrap();
    assert!(valid.signature_valid && !valid.expired && !valid.cannot_use_yet);
}

#[test]
fn a_component_is_the_one_that_was_built_and_its_claims() {
    let (workspace, release) = stood_in();
    let built = fanout_release::wit::encode(&workspace.root.join("wit")).unwrap().bytes;
    let mut subjects = Vec::new();
    for part in workspace.of_kind(Kind::Component) {
        let wasm = file(
            release,
            &format!("/{}-{}.wasm", part.name, workspace.version).replace('/', ""),
        );
        assert!(wasm.starts_with(&built), "claims are added behind it");
        let token = extract_claims(wasm).unwrap().unwrap();
        assert_eq!(token.claims.name(), part.name);
        subjects.push(token.claims.subject);
    }
    let count = subjects.len();
    subjects.sort();
    subjects.dedup();
    assert!(count > 3 && subjects.len() == count, "each has a subject of its own");
}

#[test]
fn the_package_of_the_contract_is_the_contract() {
    let (workspace, release) = stood_in();
    let wasm = file(release, &format!("fanout-bus-{}.wasm", workspace.version));
    let decoded = wit_component::decode(wasm).unwrap();
    let package = &decoded.resolve().packages[decoded.package()];
    assert_eq!(package.name.to_string(), format!("fanout:bus@{}", workspace.version));
    let interfaces: Vec<_> = package.interfaces.keys().map(String::as_str).collect();
    for name in [
        "publisher",
        "subscriber",
        "inbox",
        "status",
        "handler",
        "batch-handler",
        "backfill-handler",
        "types",
    ] {
        assert!(interfaces.contains(&name), "{name} is not in {interfaces:?}");
    }
}

/// What a tar archive holds, by path, without `./` before and `/` after it.
fn unpacked(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (path.trim_start_matches("./").trim_end_matches('/').to_owned(), bytes)
    });
    entries.collect()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn the_image_is_a_layout_whose_digests_hold() {
    let (workspace, release) = stood_in();
    let layout = unpacked(file(release, ".oci.tar"));
    for (path, bytes) in &layout {
        if let Some(digest) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(sha256(bytes), digest);
        }
    }
    let json = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    let blob = |descriptor: &Value| -> &[u8] {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let bytes = &layout[&format!("blobs/sha256/{digest}")];
        assert_eq!(descriptor["size"], bytes.len());
        bytes
    };
    assert_eq!(json(&layout["oci-layout"])["imageLayoutVersion"], "1.0.0");
    let index = json(&layout["index.json"]);
    let tag = &index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(*tag, workspace.version.to_string());
    let manifest = json(blob(&index["manifests"][0]));
    let config = json(blob(&manifest["config"]));
    let tar = gunzip(blob(&manifest["layers"][0]));
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&tar)));
    let run = &config["config"];
    assert_eq!(run["User"], "65532:65532");
    assert_eq!(run["Entrypoint"][0], "/usr/bin/fanout");
    assert_eq!(run["Healthcheck"]["Test"][2], "ready");
    let root = unpacked(&tar);
    assert!(root["usr/bin/fanout"].starts_with(b"#!/bin/sh"));
    assert!(root.contains_key("etc/fanout") && root.contains_key("licenses/LICENSE"));
    assert!(!root.contains_key("bin/sh"), "from scratch");
}

#[test]
fn a_bill_has_what_is_linked_in_and_nothing_else() {
    let (workspace, release) = stood_in();
    let bill: Value = serde_json::from_slice(file(
        release,
        &format!("fanout-{}-{}-linux.cdx.json", workspace.version, std::env::consts::ARCH),
    ))
    .unwrap();
    let components = bill["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    for linked in ["ring", "async-nats", "tokio", "fanout-plan", "rust-std"] {
        assert!(named(linked).is_some(), "{linked} is linked in");
    }
    // Of tests, of builds, and of compilers.
    for not in [
        "proptest",
        "expect-test",
        "tempfile",
        "cc",
        "syn",
        "serde_derive",
        "clap_derive",
    ] {
        assert!(named(not).is_none(), "{not} is not linked in");
    }
    for component in components {
        let name = component["name"].as_str().unwrap();
        let is_ours = name.starts_with("fanout-") || name == "rust-std" || name.starts_with("webhook-");
        assert_eq!(
            component["hashes"][0]["content"].as_str().map(str::len),
            (!is_ours).then_some(64),
            "{name}"
        );
        assert!(
            component["licenses"][0]["expression"].is_string(),
            "{name} has a licence"
        );
    }
    // Whoever is needed is there.
    let mut known: Vec<_> = components.iter().map(|component| &component["bom-ref"]).collect();
    known.push(&bill["metadata"]["component"]["bom-ref"]);
    for dependency in bill["dependencies"].as_array().unwrap() {
        assert!(known.contains(&&dependency["ref"]), "{dependency}");
        for on in dependency["dependsOn"].as_array().unwrap() {
            assert!(known.contains(&on), "{on}");
        }
    }
    // One for each part, and for the contract.
    let bills = release.files.keys().filter(|name| name.ends_with(".cdx.json")).count();
    assert_eq!(bills, workspace.parts.len() + 1);
}

#[test]
fn the_deb_is_unpacked_and_installed_into_another_root() {
    let (workspace, release) = stood_in();
    if !has("dpkg-deb") {
        return skipped("the .deb", "there is no dpkg-deb here");
    }
    let folder = tempfile::tempdir().unwrap();
    release.write(folder.path()).unwrap();
    let name = release.files.keys().find(|name| name.ends_with(".deb")).unwrap();
    let deb = folder.path().join(name);
    let field = |name: &str| {
        let output = run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg(name));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(field("Package"), "fanout");
    assert_eq!(field("Version"), workspace.version.to_string());
    assert_eq!(field("Depends"), "", "a static program needs nothing");

    let root = folder.path().join("unpacked");
    run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(&root));
    check_root(&root);

    if std::env::var("USER").is_ok_and(|user| user != "root") || !has("dpkg") || !is_root() {
        return skipped("dpkg --install", "only root installs");
    }
    let root = folder.path().join("installed");
    for folder in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(folder)).unwrap();
    }
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    let dpkg = |arguments: &[&str]| {
        let mut command = Command::new("dpkg");
        command
            .arg(format!("--root={}", root.display()))
            .arg("--force-script-chrootless")
            .args(arguments);
        String::from_utf8(run(&mut command).stdout).unwrap()
    };
    dpkg(&["--install", deb.to_str().unwrap()]);
    check_root(&root);
    assert!(dpkg(&["--status", "fanout"]).contains("Status: install ok installed"));
    dpkg(&["--remove", "fanout"]);
    assert!(!root.join("usr/bin/fanout").exists());
}

fn is_root() -> bool {
    let output = run(Command::new("id").arg("-u"));
    output.stdout == b"0\n"
}

fn check_root(root: &Path) {
    let said = run(Command::new(root.join("usr/bin/fanout")).arg("--version"));
    assert_eq!(said.stdout, b"fanout stands in\n");
    for file in [
        "usr/lib/systemd/system/fanout@.service",
        "usr/lib/sysusers.d/fanout.conf",
        "usr/share/man/man1/fanout.1.gz",
        "usr/share/bash-completion/completions/fanout",
        "usr/share/zsh/vendor-completions/_fanout",
        "usr/share/doc/fanout/copyright",
        "usr/share/doc/fanout/changelog.gz",
        "usr/share/doc/fanout/fanout.cdx.json",
    ] {
        assert!(root.join(file).is_file(), "{file}");
    }
    assert!(root.join("etc/fanout").is_dir());
}

#[test]
fn the_tarball_has_one_folder_and_runs() {
    let (workspace, release) = stood_in();
    let folder = tempfile::tempdir().unwrap();
    let tarball = gunzip(file(release, "-linux.tar.gz"));
    tar::Archive::new(tarball.as_slice()).unpack(folder.path()).unwrap();
    let top = folder.path().join(format!("fanout-{}", workspace.version));
    run(Command::new(top.join("bin/fanout")).arg("--version"));
    let licences = fs::read_to_string(top.join("LICENSES.txt")).unwrap();
    assert!(
        licences.contains("Apache License") && licences.contains("ring 0.17"),
        "the licences of what is linked in"
    );
    assert!(top.join("deploy/systemd/fanout@.service").is_file());
}

#[test]
fn manifests_name_the_registry_that_is_pushed_to() {
    let workspace = Workspace::find().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let built = stand_ins(&workspace, folder.path());
    let release = make(&workspace, &built, Some("127.0.0.1:5000/team"));
    let manifest = String::from_utf8(release.files["manifests/wadm/payments.yaml"].clone()).unwrap();
    assert!(!manifest.contains(&workspace.images));
    let provider = format!("image: 127.0.0.1:5000/team/fanout-provider:{}", workspace.version);
    assert!(manifest.contains(&provider), "{manifest}");
    assert!(
        manifest.contains("image: ghcr.io/wasmcloud/"),
        "what is not ours stays where it is"
    );
}
