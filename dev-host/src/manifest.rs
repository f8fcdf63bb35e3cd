//! A wadm manifest with placeholders, and the versions of it that a run deploys.
//!
//! Placeholders are `@NAME@`. One that is left over is an error: a host that is asked for `file://@PARTS@/x.wasm`
//! says only that it can't find a file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use wadm_client::ManifestLoader as _;
use wadm_types::{
    Component, ConfigProperty, LinkProperty, Manifest, Properties, TraitProperty, VERSION_ANNOTATION_KEY,
};

use crate::links::{Link, default_name};

/// The server's address: filled in once the server runs.
const SERVER: &str = "NATS_ADDRESS";

/// The application of a run.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    manifest: Manifest,
    text: String,
    version: u32,
}

impl Application {
    /// Reads a manifest and fills in its placeholders.
    pub(crate) async fn read(path: &Path, values: &[(&str, &str)]) -> Result<Self> {
        let text = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("can't read the manifest {}", path.display()))?;
        let filled = fill(&text, values).with_context(|| format!("in the manifest {}", path.display()))?;
        let manifest = filled
            .as_bytes()
            .load_manifest()
            .await
            .with_context(|| format!("the manifest {} is not one", path.display()))?;
        let mut application = Self {
            manifest,
            text: filled,
            version: 0,
        };
        application.next_version();
        Ok(application)
    }

    /// Its name in wadm.
    pub(crate) fn name(&self) -> &str {
        &self.manifest.metadata.name
    }

    /// The manifest as it is to be deployed.
    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Says where the run's server is, to whatever asks for it.
    pub(crate) fn tell_server(&mut self, address: &str) -> Result<()> {
        let text = serde_json::to_string(&self.manifest).context("the manifest can't be written")?;
        let told = text.replace(&format!("@{SERVER}@"), address);
        self.manifest = serde_json::from_str(&told).context("the manifest can't be read again")?;
        Ok(())
    }

    /// Makes it the next version, with `instances` instances of a component. Returns how many it had.
    pub(crate) fn scale(&mut self, component: &str, instances: usize) -> Result<usize> {
        let traits = self
            .manifest
            .spec
            .components
            .iter_mut()
            .filter(|candidate| candidate.name == component)
            .filter_map(|candidate| candidate.traits.as_mut())
            .flatten();
        for candidate in traits {
            if let TraitProperty::SpreadScaler(scaler) = &mut candidate.properties {
                let before = std::mem::replace(&mut scaler.instances, instances);
                self.next_version();
                return Ok(before);
            }
        }
        bail!("the manifest has no component {component} with a spreadscaler")
    }

    /// The configuration of a provider.
    pub(crate) fn provider_settings(&mut self, provider: &str) -> Result<BTreeMap<String, String>> {
        let config = self.provider_config(provider)?;
        let values = config.iter().flat_map(|config| config.properties.iter().flatten());
        Ok(values.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Gives a provider another configuration. Nothing else changes.
    pub(crate) fn configure(&mut self, provider: &str, settings: BTreeMap<String, String>) -> Result<()> {
        let config = self.provider_config(provider)?;
        let name = config.first().map_or_else(|| provider.to_owned(), |c| c.name.clone());
        *config = vec![ConfigProperty {
            name,
            properties: Some(settings.into_iter().collect()),
        }];
        Ok(())
    }

    fn provider_config(&mut self, provider: &str) -> Result<&mut Vec<ConfigProperty>> {
        let components = self.manifest.spec.components.iter_mut();
        for component in components.filter(|component| component.name == provider) {
            if let Properties::Capability { properties } = &mut component.properties {
                return Ok(&mut properties.config);
            }
        }
        bail!("the manifest has no provider {provider}")
    }

    /// True when the manifest has this text in it, such as a file's name or an address.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// True when a component of the manifest has this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.manifest.components().any(|component| id_of(component) == Some(id))
    }

    /// Its links, with ids as wadm gives them.
    pub(crate) fn links(&self) -> Vec<Link> {
        let id = |name: &str| {
            let component = self.manifest.components().find(|component| component.name == name);
            component
                .and_then(id_of)
                .map_or_else(|| self.generated_id(name), str::to_owned)
        };
        let links = self.manifest.components().flat_map(|source| {
            let traits = source.traits.iter().flatten();
            traits.filter_map(move |candidate| match &candidate.properties {
                TraitProperty::Link(link) => Some((&source.name, link)),
                _ => None,
            })
        });
        let link = |(source, link): (&String, &LinkProperty)| Link {
            source: id(source),
            target: id(&link.target.name),
            name: link.name.clone().unwrap_or_else(default_name),
            namespace: link.namespace.clone(),
            package: link.package.clone(),
        };
        links.map(link).collect()
    }

    /// wadm 0.21: the application and the component, in lower case and with underscores.
    fn generated_id(&self, component: &str) -> String {
        let plain = |name: &str| {
            name.to_lowercase()
                .replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
        };
        format!("{}-{}", plain(self.name()), plain(component))
    }

    fn next_version(&mut self) {
        self.version += 1;
        self.manifest
            .metadata
            .annotations
            .insert(VERSION_ANNOTATION_KEY.to_owned(), format!("v0.0.{}", self.version));
    }
}

fn id_of(component: &Component) -> Option<&str> {
    match &component.properties {
        Properties::Component { properties } => properties.id.as_deref(),
        Properties::Capability { properties } => properties.id.as_deref(),
    }
}

fn fill(text: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut filled = text.to_owned();
    for (name, value) in values {
        filled = filled.replace(&format!("@{name}@"), value);
    }
    match left_over(&filled) {
        Some(name) => bail!("the placeholder @{name}@ has no value"),
        None => Ok(filled),
    }
}

fn left_over(text: &str) -> Option<&str> {
    let between_signs = text.split('@').skip(1);
    between_signs
        .into_iter()
        .filter(|name| *name != SERVER)
        .find(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: shop
  annotations:
    version: v9.9.9
spec:
  components:
    - name: ingress
      type: component
      properties:
        image: file://@PARTS@/ingress.wasm
      traits:
        - type: spreadscaler
          properties:
            instances: 5
        - type: link
          properties:
            target: { name: bus }
            namespace: fanout
            package: bus
            interfaces: [publisher]
    - name: bus
      type: capability
      properties:
        image: file://@PARTS@/bus.par
        id: bus
      traits:
        - type: link
          properties:
            target: { name: ingress }
            namespace: fanout
            package: bus
            interfaces: [handler]
"#;

    async fn application() -> Application {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("manifest.yaml");
        std::fs::write(&path, TEXT).expect("written");
        Application::read(&path, &[("PARTS", "/parts")])
            .await
            .expect("a manifest")
    }

    #[test]
    fn every_placeholder_needs_a_value() {
        let error = fill("a @PARTS@ b @OTHER_ONE@", &[("PARTS", "/p")]).expect_err("one has no value");
        assert_eq!(error.to_string(), "the placeholder @OTHER_ONE@ has no value");
        let filled = fill("image: x@sha256:1, me@example.com @P@", &[("P", "/p")]).expect("filled");
        assert_eq!(filled, "image: x@sha256:1, me@example.com /p");
    }

    #[tokio::test]
    async fn the_server_is_told_where_it_is_asked_for() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/host.yaml");
        let mut application = Application::read(&path, &[("PARTS", "/parts")])
            .await
            .expect("a manifest");
        let before = application.links();
        application.tell_server("127.0.0.1:4242").expect("told");
        let settings = application.provider_settings("messaging").expect("it has messaging");
        assert_eq!(settings.get("cluster_uris").map(String::as_str), Some("127.0.0.1:4242"));
        let text = serde_json::to_string(application.manifest()).expect("JSON");
        assert!(!text.contains('@'), "{text}");
        assert_eq!(application.links(), before);
    }

    #[tokio::test]
    async fn each_change_is_a_new_version() {
        let mut application = application().await;
        assert_eq!(application.manifest().version(), "v0.0.1");
        assert_eq!(application.scale("ingress", 0).expect("scaled"), 5);
        assert_eq!(application.manifest().version(), "v0.0.2");
        assert_eq!(application.scale("ingress", 5).expect("scaled"), 0);
        assert_eq!(application.manifest().version(), "v0.0.3");
        assert!(application.scale("bus", 1).is_err(), "it has no spreadscaler");
        assert!(application.scale("nothing", 1).is_err());
    }

    #[tokio::test]
    async fn the_manifests_of_the_repository_are_valid() {
        for name in [
            "local.yaml",
            "payments.yaml",
            "payments-tcp.yaml",
            "payments-unix.yaml",
            "payments-tls.yaml",
            "payments-quic.yaml",
            "../tests/bench/host.yaml",
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wadm").join(name);
            let validated = wadm_types::validation::validate_manifest_file(path).await;
            let (_, failures) = validated.expect("a manifest");
            assert_eq!(failures, [], "{name}");
        }
    }

    #[tokio::test]
    async fn only_the_bus_s_configuration_changes_with_the_transport() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wadm/local.yaml");
        let text = std::fs::read_to_string(&path).expect("a manifest");
        let names: Vec<_> = std::iter::successors(Some(text.as_str()), |rest| {
            let name = left_over(rest)?;
            rest.split_once(&format!("@{name}@")).map(|(_, rest)| rest)
        })
        .filter_map(left_over)
        .map(str::to_owned)
        .collect();
        let values: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        let before = Application::read(&path, &values).await.expect("a manifest");
        let mut after = before.clone();
        let policy = after.provider_settings("bus").expect("it has a bus");
        assert_eq!(policy.get("bus").map(String::as_str), Some("payments"));
        let edge = BTreeMap::from([("role".to_owned(), "edge".to_owned())]);
        after.configure("bus", edge.clone()).expect("it has a bus");
        assert_ne!(before.manifest, after.manifest);
        assert_eq!(after.provider_settings("bus").expect("it has a bus"), edge);
        after.configure("bus", policy).expect("it has a bus");
        assert_eq!(before.manifest, after.manifest, "and nothing else did");
        assert!(after.configure("ingress", BTreeMap::new()).is_err());
    }

    #[tokio::test]
    async fn links_are_between_ids() {
        let application = application().await;
        assert_eq!(application.name(), "shop");
        let links: Vec<_> = application.links().iter().map(Link::to_string).collect();
        assert_eq!(
            links,
            [
                "shop-ingress -> bus (fanout:bus, name default)",
                "bus -> shop-ingress (fanout:bus, name default)",
            ]
        );
        assert!(application.has("bus"));
        assert!(!application.has("keyvalue"));
        assert!(application.mentions("file:///parts/bus.par"));
    }
}
