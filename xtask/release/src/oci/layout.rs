//! An image as one file, which `docker load`, `podman load` and `skopeo` read: a tar of the OCI image layout.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Artifact, canonical};
use crate::archive::Archive;

/// Writes an image as a file. `name` is what it is called once it is loaded.
///
/// # Errors
///
/// If it is too large for a tar archive.
pub fn layout(artifact: &Artifact, name: &str, seconds: u64) -> Result<Vec<u8>> {
    let mut tar = Archive::new(seconds);
    let mut blob = |digest: &str, bytes: &[u8]| -> Result<()> {
        let hex = digest.strip_prefix("sha256:").context("digests are SHA-256")?;
        tar.file(format!("blobs/sha256/{hex}"), 0o644, bytes);
        Ok(())
    };
    for each in &artifact.blobs {
        blob(&each.digest(), &each.bytes)?;
    }
    blob(&artifact.digest(), &artifact.manifest)?;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
        "manifests": [{
            "mediaType": artifact.media_type,
            "digest": artifact.digest(),
            "size": artifact.manifest.len(),
            "annotations": {
                "org.opencontainers.image.ref.name": artifact.tag,
                // What docker calls it.
                "io.containerd.image.name": format!("{name}:{}", artifact.tag),
            },
        }],
    });
    tar.file("index.json", 0o644, canonical(&index)?);
    tar.file(
        "oci-layout",
        0o644,
        canonical(&json!({ "imageLayoutVersion": "1.0.0" }))?,
    );
    tar.tar()
}
