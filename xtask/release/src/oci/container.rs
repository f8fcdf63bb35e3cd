//! The image of `fanout`: one static program, from scratch, run by nobody in particular.

use anyhow::{Context as _, Result};
use oci_client::manifest::{IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE};
use serde_json::json;

use super::artifact::artifact;
use super::{Annotations, Artifact, Blob, canonical};
use crate::archive::{Archive, Effort, gzip};
use crate::sums::sha256;
use crate::workspace::Part;

/// The user and the group that it runs as: what images without a user of their own have settled on.
const USER: u32 = 65_532;

/// Where the image's own health check asks, unless the variable `FANOUT_READY_URL` says otherwise.
pub const HEALTH_URL: &str = "http://127.0.0.1:7780";

const PROGRAM: &str = "/usr/bin/fanout";
const POLICY: &str = "/etc/fanout/policy.toml";

/// What is in it.
#[derive(Clone, Copy, Debug)]
pub struct Filesystem<'a> {
    /// The program, which needs no other file.
    pub program: &'a [u8],
    /// The licences of all that is in it.
    pub licences: &'a str,
}

/// The image, with its bill of materials.
///
/// # Errors
///
/// If the architecture has no name in images.
pub fn container(
    part: &Part,
    files: Filesystem<'_>,
    arch: &str,
    sbom: Vec<u8>,
    about: &Annotations<'_>,
    effort: Effort,
) -> Result<Artifact> {
    let mut root = Archive::new(about.commit.seconds);
    root.file(PROGRAM.trim_start_matches('/'), 0o755, files.program);
    root.folder("etc/fanout");
    root.file(
        "etc/passwd",
        0o644,
        format!("fanout:x:{USER}:{USER}:fanout:/:/usr/bin/fanout\n"),
    );
    root.file("etc/group", 0o644, format!("fanout:x:{USER}:\n"));
    root.file("licenses/LICENSE", 0o644, files.licences);
    let tar = root.tar()?;
    let layer = Blob::new(IMAGE_LAYER_GZIP_MEDIA_TYPE, gzip(&tar, effort)?);
    let nanoseconds = |seconds: u64| seconds * 1_000_000_000;
    let config = json!({
        "created": about.commit.time()?,
        "architecture": architecture(arch)?,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": [format!("FANOUT_READY_URL={HEALTH_URL}")],
            "Entrypoint": [PROGRAM],
            "Cmd": ["serve", "--policy", POLICY],
            "WorkingDir": "/",
            "Labels": about.of(&part.name, &part.description)?,
            // Docker's, beyond the image specification: others leave it alone.
            "Healthcheck": {
                "Test": ["CMD", PROGRAM, "ready"],
                "Interval": nanoseconds(10),
                "Timeout": nanoseconds(5),
                "StartPeriod": nanoseconds(30),
                "Retries": 3,
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&tar))] },
        "history": [{ "created": about.commit.time()?, "created_by": "cargo xtask release" }],
    });
    let config = Blob::new(IMAGE_CONFIG_MEDIA_TYPE, canonical(&config)?);
    artifact(&part.name, &part.description, config, vec![layer], sbom, about)
}

fn architecture(arch: &str) -> Result<&'static str> {
    let known = [("x86_64", "amd64"), ("aarch64", "arm64")];
    let found = known.iter().find(|(rust, _)| *rust == arch);
    found
        .map(|(_, oci)| *oci)
        .with_context(|| format!("the name of the architecture {arch} in images is not known here"))
}
