//! A release in a real registry: pushed, pulled by what pulls it, the same bytes.
//!
//! The registry is Debian's `docker-registry` on the loopback, which `cargo xtask test` finds or unpacks
//! (`FANOUT_DOCKER_REGISTRY`); where there is none, that is said.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout_release::oci::{Artifact, Registry};
use fanout_release::release::Release;
use fanout_release::workspace::{Kind, Workspace};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use provider_archive::ProviderArchive;
use serde_json::Value;
use support::{make, of_the_tests, on_path, run, skipped, stand_ins};
use wasmcloud_core::oci::{OciArtifactCacheUpdate, OciFetcher};
use wasmcloud_core::{RegistryConfig, RegistryType};

const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// A registry that runs, in a folder of its own.
struct Running {
    child: Child,
    address: String,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    async fn start(folder: &Path) -> Option<Self> {
        let named = std::env::var_os("FANOUT_DOCKER_REGISTRY").map(PathBuf::from);
        let program = named.or_else(|| on_path("docker-registry"))?;
        // A port that was free a moment ago: the registry takes no listener of somebody else's.
        let address = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let config = folder.join("config.yml");
        let store = folder.join("store");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            store.display()
        );
        fs::write(&config, text).unwrap();
        let log = folder.join("log");
        let output = File::create(&log).unwrap();
        let child = Command::new(&program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let mut running = Self { child, address, log };
        running.wait().await;
        Some(running)
    }

    async fn wait(&mut self) {
        let deadline = Instant::now() + STARTS_WITHIN;
        let url = format!("http://{}/v2/", self.address);
        loop {
            let said = || fs::read_to_string(&self.log).unwrap_or_default();
            if reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return;
            }
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the registry ended: {}",
                said()
            );
            assert!(Instant::now() < deadline, "the registry does not answer: {}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn place(&self) -> String {
        format!("{}/team", self.address)
    }

    fn reference(&self, artifact: &Artifact) -> Reference {
        let repository = format!("team/{}", artifact.repository);
        Reference::with_tag(self.address.clone(), repository, artifact.tag.clone())
    }
}

fn client(running: &Running) -> Client {
    Client::new(ClientConfig {
        protocol: ClientProtocol::HttpsExcept(vec![running.address.clone()]),
        ..ClientConfig::default()
    })
}

fn artifact<'a>(release: &'a Release, repository: &str) -> &'a Artifact {
    release
        .artifacts
        .iter()
        .find(|artifact| artifact.repository == repository)
        .unwrap()
}

async fn push(running: &Running, release: &Release, replace: bool) -> anyhow::Result<Vec<String>> {
    let registry = Registry::new(&running.place(), true, replace)?;
    let mut pushed = Vec::new();
    for artifact in &release.artifacts {
        pushed.push(registry.push(artifact).await?);
    }
    Ok(pushed)
}

#[tokio::test]
async fn what_is_pushed_is_pulled_byte_for_byte_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let Some(running) = Running::start(folder.path()).await else {
        return skipped("a registry", "there is no docker-registry, and apt could not get it");
    };
    let workspace = Workspace::find().unwrap();
    let built = of_the_tests(&workspace, folder.path());
    let release = make(&workspace, &built, Some(&running.place()));
    let pushed = push(&running, &release, false).await.unwrap();
    assert_eq!(pushed.len(), workspace.parts.len() + 1, "each part, and the contract");

    let client = client(&running);
    for (artifact, pushed) in release.artifacts.iter().zip(&pushed) {
        let reference = running.reference(artifact);
        assert!(
            pushed.ends_with(&format!("{}@{}", artifact.tag, artifact.digest())),
            "{pushed}"
        );
        let accepted = [OCI_IMAGE_MEDIA_TYPE];
        let (manifest, digest) = client
            .pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &accepted)
            .await
            .unwrap();
        assert_eq!(
            (manifest.as_ref(), digest),
            (artifact.manifest.as_slice(), artifact.digest()),
            "{reference}"
        );
        for blob in &artifact.blobs {
            let mut bytes = Vec::new();
            client
                .pull_blob(&reference, blob.digest().as_str(), &mut bytes)
                .await
                .unwrap();
            assert!(bytes == blob.bytes, "a blob of {reference}");
        }
        bill_is_listed(&client, &running, artifact).await;
    }

    the_image_runs(&client, &running, artifact(&release, "fanout"), folder.path()).await;
    hosts_of_v1_pull(&workspace, &running, &release, folder.path()).await;
    wash_pulls(&running, &release, folder.path());
}

/// By the tag that is made of the digest, as registries without a list of referrers have it.
async fn bill_is_listed(client: &Client, running: &Running, artifact: &Artifact) {
    let mut reference = running.reference(artifact);
    let tag = artifact.digest().replace(':', "-");
    reference = Reference::with_tag(reference.registry().to_owned(), reference.repository().to_owned(), tag);
    let accepted = [OCI_IMAGE_INDEX_MEDIA_TYPE];
    let (index, _) = client
        .pull_manifest_raw(&reference, &RegistryAuth::Anonymous, &accepted)
        .await
        .unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["manifests"][0]["artifactType"], "application/vnd.cyclonedx+json");
    let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let by_digest = Reference::with_digest(
        reference.registry().to_owned(),
        reference.repository().to_owned(),
        digest,
    );
    let accepted = [OCI_IMAGE_MEDIA_TYPE];
    let (bill, _) = client
        .pull_manifest_raw(&by_digest, &RegistryAuth::Anonymous, &accepted)
        .await
        .unwrap();
    let bill: Value = serde_json::from_slice(&bill).unwrap();
    assert_eq!(bill["subject"]["digest"], artifact.digest());
}

async fn the_image_runs(client: &Client, running: &Running, image: &Artifact, folder: &Path) {
    let mut layer = Vec::new();
    let reference = running.reference(image);
    client
        .pull_blob(&reference, image.blobs[0].digest().as_str(), &mut layer)
        .await
        .unwrap();
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(layer.as_slice())
        .read_to_end(&mut tar)
        .unwrap();
    let root = folder.join("image");
    tar::Archive::new(tar.as_slice()).unpack(&root).unwrap();
    let program = root.join("usr/bin/fanout");
    let said = run(Command::new(&program).arg("--version"));
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        format!("fanout {}\n", image.tag)
    );
    // What its health check runs, where nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    let health = Command::new(&program)
        .arg("ready")
        .env("FANOUT_READY_URL", url)
        .output()
        .unwrap();
    assert_eq!(
        health.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&health.stderr)
    );
}

/// With the code that a host of wasmCloud v1 pulls with.
async fn hosts_of_v1_pull(workspace: &Workspace, running: &Running, release: &Release, folder: &Path) {
    let config = RegistryConfig::builder()
        .reg_type(RegistryType::Oci)
        .allow_insecure(true)
        .build()
        .unwrap();
    let fetcher = OciFetcher::from(&config);
    fs::create_dir(folder.join("cache")).unwrap();
    let fetch = async |artifact: &Artifact, media_type: &str| {
        let image = running.reference(artifact).whole();
        let (path, _) = fetcher
            .fetch_path(
                folder.join("cache"),
                image,
                vec![media_type],
                OciArtifactCacheUpdate::Update,
            )
            .await
            .unwrap();
        path
    };
    for part in workspace.of_kind(Kind::Component) {
        let artifact = artifact(release, &part.name);
        let path = fetch(artifact, "application/wasm").await;
        assert!(fs::read(path).unwrap() == artifact.blobs[0].bytes, "{}", part.name);
    }
    let provider = artifact(release, &workspace.provider().unwrap().name);
    let path = fetch(provider, "application/vnd.wasmcloud.provider.archive.layer.v1+par").await;
    let par = ProviderArchive::try_load_file(path).await.unwrap();
    let binary = folder.join("provider");
    fs::write(
        &binary,
        par.target_bytes(&format!("{}-linux", std::env::consts::ARCH)).unwrap(),
    )
    .unwrap();
    support::make_executable(&binary);
    let said = run(Command::new(&binary).arg("--version"));
    assert_eq!(said.stdout, b"fanout-provider stands in\n");
}

/// `wash` of wasmCloud v2, where there is one.
fn wash_pulls(running: &Running, release: &Release, folder: &Path) {
    let Some(wash) = std::env::var_os("FANOUT_WASH")
        .map(PathBuf::from)
        .or_else(|| on_path("wash"))
    else {
        return skipped("wash oci pull", "there is no wash here");
    };
    let component = artifact(release, "invoicing");
    let to = folder.join("invoicing.wasm");
    let image = running.reference(component).whole();
    run(Command::new(wash)
        .args(["oci", "pull", "--insecure", &image])
        .arg(&to)
        .env("HOME", folder));
    assert!(fs::read(&to).unwrap() == component.blobs[0].bytes);
}

#[tokio::test]
async fn a_version_is_published_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(running) = Running::start(folder.path()).await else {
        return skipped("a registry", "there is no docker-registry, and apt could not get it");
    };
    let workspace = Workspace::find().unwrap();
    let built = stand_ins(&workspace, folder.path());
    let release = make(&workspace, &built, None);
    let first = push(&running, &release, false).await.unwrap();
    assert_eq!(
        push(&running, &release, false).await.unwrap(),
        first,
        "the same again is no harm"
    );

    fs::write(built.path(workspace.provider().unwrap()), "another provider").unwrap();
    let other = make(&workspace, &built, None);
    let refused = push(&running, &other, false).await.unwrap_err().to_string();
    assert!(
        refused.contains("is published with other bytes") && refused.contains("--replace"),
        "{refused}"
    );
    let replaced = push(&running, &other, true).await.unwrap();
    assert_ne!(replaced, first);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named() {
    let workspace = Workspace::find().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let release = make(&workspace, &stand_ins(&workspace, folder.path()), None);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let registry = Registry::new(&format!("{address}/team"), true, false).unwrap();
    let error = format!("{:#}", registry.push(&release.artifacts[0]).await.unwrap_err());
    assert!(error.contains(&address.to_string()), "{error}");
    let early = format!("{:#}", registry.check(workspace.program().unwrap()).await.unwrap_err());
    assert!(early.contains("FANOUT_REGISTRY_USER"), "{early}");
    for wrong in ["/team", "host/Team", "host/te am", "https://host/team"] {
        assert!(Registry::new(wrong, true, false).is_err(), "{wrong}");
    }
}
