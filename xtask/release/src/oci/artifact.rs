//! Artifacts that are no images: components and interfaces as WebAssembly's own media types have them, and a provider's archive as
//! wasmCloud v1 has it.
//!
//! Hosts of wasmCloud v1 (wasmcloud-core 0.21) take a component from one layer `application/wasm`, and a provider from a layer
//! `…archive.layer.v1+par`; `wash` and `wkg` read the configuration `vnd.wasm.config.v0` as well.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use oci_wasm::{COMPONENT_OS, Component, WASM_ARCHITECTURE, WASM_LAYER_MEDIA_TYPE, WASM_MANIFEST_CONFIG_MEDIA_TYPE};
use serde_json::json;
use wasmparser::{Parser, Payload};

use super::{Artifact, Blob, SBOM, canonical, descriptor};
use crate::commit::Commit;
use crate::wit::Package;
use crate::workspace::Part;

const PAR_CONFIG: &str = "application/vnd.wasmcloud.provider.archive.config";
const PAR_LAYER: &str = "application/vnd.wasmcloud.provider.archive.layer.v1+par";
/// What stands for a configuration where there is none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// What every manifest says besides.
#[derive(Clone, Debug)]
pub struct Annotations<'a> {
    /// The version.
    pub version: &'a semver::Version,
    /// The commit.
    pub commit: &'a Commit,
}

impl Annotations<'_> {
    pub(super) fn of(&self, title: &str, description: &str) -> Result<BTreeMap<String, String>> {
        let annotations = [
            ("title", title.to_owned()),
            ("description", description.to_owned()),
            ("version", self.version.to_string()),
            ("revision", self.commit.revision.clone()),
            ("created", self.commit.time()?),
            ("licenses", "Apache-2.0".to_owned()),
        ];
        let named = annotations.map(|(name, value)| (format!("org.opencontainers.image.{name}"), value));
        Ok(named.into_iter().collect())
    }
}

/// A component, with its bill of materials.
///
/// # Errors
///
/// If it is none.
pub fn component(part: &Part, wasm: Vec<u8>, sbom: Vec<u8>, about: &Annotations<'_>) -> Result<Artifact> {
    let of = names(&wasm).with_context(|| format!("{} is no component", part.name))?;
    wasm_artifact(&part.name, &part.description, wasm, of, sbom, about)
}

/// What a component imports and exports. Only the names are read: its types may be newer than what reads them here.
fn names(wasm: &[u8]) -> Result<Component> {
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    imports.push(import?.name.0.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    exports.push(export?.name.0.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(Component {
        exports,
        imports,
        target: None,
    })
}

/// The contract's interfaces: below the namespace, as `wkg` looks for them.
///
/// # Errors
///
/// If they are none.
pub fn interfaces(package: &Package, sbom: Vec<u8>, about: &Annotations<'_>) -> Result<Artifact> {
    let repository = format!("{}/{}", package.namespace, package.name);
    let description = "The contract of an event bus, as a package of WIT";
    let of = Component::from_raw_component(&package.bytes).context("the contract is no package of WIT")?;
    wasm_artifact(&repository, description, package.bytes.clone(), of, sbom, about)
}

fn wasm_artifact(
    repository: &str,
    description: &str,
    wasm: Vec<u8>,
    mut of: Component,
    sbom: Vec<u8>,
    about: &Annotations<'_>,
) -> Result<Artifact> {
    // Of a package they come in any order.
    of.exports.sort();
    of.imports.sort();
    let layer = Blob::new(WASM_LAYER_MEDIA_TYPE, wasm);
    let config = json!({
        "created": about.commit.time()?,
        "author": null,
        "architecture": WASM_ARCHITECTURE,
        "os": COMPONENT_OS,
        "layerDigests": [layer.digest()],
        "component": of,
    });
    let config = Blob::new(WASM_MANIFEST_CONFIG_MEDIA_TYPE, canonical(&config)?);
    artifact(repository, description, config, vec![layer], sbom, about)
}

/// A provider's archive, with its bill of materials.
///
/// # Errors
///
/// If it is too large for a registry.
pub fn provider(part: &Part, par: Vec<u8>, sbom: Vec<u8>, about: &Annotations<'_>) -> Result<Artifact> {
    let config = Blob::new(PAR_CONFIG, b"{}".to_vec());
    let layer = Blob::new(PAR_LAYER, par);
    artifact(&part.name, &part.description, config, vec![layer], sbom, about)
}

/// Any artifact of one configuration and some layers.
pub(super) fn artifact(
    repository: &str,
    description: &str,
    config: Blob,
    layers: Vec<Blob>,
    sbom: Vec<u8>,
    about: &Annotations<'_>,
) -> Result<Artifact> {
    let manifest = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        config: config.descriptor()?,
        layers: layers.iter().map(Blob::descriptor).collect::<Result<_>>()?,
        annotations: Some(about.of(repository, description)?),
        ..OciImageManifest::default()
    };
    let manifest = canonical(&manifest)?;
    let bill = bill(repository, &manifest, sbom, about)?;
    Ok(Artifact {
        repository: repository.to_owned(),
        tag: about.version.to_string(),
        media_type: OCI_IMAGE_MEDIA_TYPE.to_owned(),
        manifest,
        blobs: layers.into_iter().chain([config]).collect(),
        referrers: vec![bill],
    })
}

/// A bill of materials that refers to what it is of.
fn bill(repository: &str, subject: &[u8], sbom: Vec<u8>, about: &Annotations<'_>) -> Result<Artifact> {
    let config = Blob::new(EMPTY, b"{}".to_vec());
    let layer = Blob::new(SBOM, sbom);
    let manifest = OciImageManifest {
        media_type: Some(OCI_IMAGE_MEDIA_TYPE.to_owned()),
        artifact_type: Some(SBOM.to_owned()),
        config: config.descriptor()?,
        layers: vec![layer.descriptor()?],
        subject: Some(descriptor(OCI_IMAGE_MEDIA_TYPE, subject)?),
        annotations: Some(about.of(&format!("{repository}.cdx.json"), "Bill of materials")?),
        ..OciImageManifest::default()
    };
    Ok(Artifact {
        repository: repository.to_owned(),
        tag: String::new(),
        media_type: OCI_IMAGE_MEDIA_TYPE.to_owned(),
        manifest: canonical(&manifest)?,
        blobs: vec![layer, config],
        referrers: Vec::new(),
    })
}
