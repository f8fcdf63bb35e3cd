//! What lies in a registry: manifests that name blobs by their digests. Everything is made here, down to the manifest's bytes, and
//! pushed as it is, so that a digest is known before a registry is asked.

mod artifact;
mod container;
mod layout;
mod push;

use anyhow::{Context as _, Result};
use oci_client::manifest::OciDescriptor;
use olpc_cjson::CanonicalFormatter;
use serde::Serialize;

pub use artifact::{Annotations, component, interfaces, provider};
pub use container::{Filesystem, HEALTH_URL, container};
pub use layout::layout;
pub use push::Registry;

use crate::sums::sha256;

/// The media type of a bill of materials.
const SBOM: &str = "application/vnd.cyclonedx+json";

/// Something in a registry, under a name and a tag.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Its repository below the registry's path, such as `webhook-ingress`.
    pub repository: String,
    /// Its tag, which is the version.
    pub tag: String,
    /// What its manifest is.
    pub media_type: String,
    /// Its manifest, byte for byte.
    pub manifest: Vec<u8>,
    /// What the manifest names.
    pub blobs: Vec<Blob>,
    /// What refers to it: its bill of materials.
    pub referrers: Vec<Self>,
}

/// Bytes in a registry.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What they are.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            bytes,
        }
    }

    /// Their digest, such as `sha256:…`.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.bytes)
    }

    fn descriptor(&self) -> Result<OciDescriptor> {
        descriptor(&self.media_type, &self.bytes)
    }
}

impl Artifact {
    /// The digest of its manifest, by which it is pulled and signed.
    #[must_use]
    pub fn digest(&self) -> String {
        digest(&self.manifest)
    }
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Result<OciDescriptor> {
    Ok(OciDescriptor {
        media_type: media_type.to_owned(),
        digest: digest(bytes),
        size: i64::try_from(bytes.len()).context("a blob is too large")?,
        ..OciDescriptor::default()
    })
}

/// JSON with its keys sorted and without spaces: the same value gives the same bytes, whatever other crates ask of serde_json.
///
/// # Errors
///
/// If it is no JSON.
pub(crate) fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, CanonicalFormatter::new());
    value.serialize(&mut serializer).context("can't write JSON")?;
    Ok(bytes)
}
