//! WorkloadDeployments (`runtime.wasmcloud.dev/v1alpha1`), as far as they are used here, and what is asked of them here.
//!
//! A field that is not listed is an error, so that a manifest has no word that means nothing. The rules are ours, made after the
//! operator of wasmCloud 2.10: its schema is not read here, and decides in a cluster.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// A document of a manifest.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadDeployment {
    api_version: String,
    kind: String,
    /// Its name.
    pub metadata: Metadata,
    /// What it runs.
    pub spec: DeploymentSpec,
}

/// What a thing is called.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// How many of what.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeploymentSpec {
    /// How many hosts run it.
    #[serde(default = "one")]
    pub replicas: i32,
    #[serde(default)]
    deploy_policy: Option<String>,
    #[serde(default)]
    kubernetes: Option<Kubernetes>,
    /// What they run.
    pub template: Template,
}

fn one() -> i32 {
    1
}

/// What belongs to Kubernetes alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kubernetes {
    service: Reference,
}

/// A workload.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Its parts.
    pub spec: Workload,
}

/// Components that run on one host and call each other.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Which hosts may run it.
    #[serde(default)]
    pub host_selector: BTreeMap<String, String>,
    /// Called, each call by itself.
    pub components: Vec<Part>,
    /// Runs for as long as the workload does.
    #[serde(default)]
    pub service: Option<Part>,
    /// What the host serves and calls.
    #[serde(default)]
    pub host_interfaces: Vec<HostInterface>,
    /// Folders.
    #[serde(default)]
    pub volumes: Vec<Volume>,
}

/// A component or a service.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Part {
    /// Its name; a service has none.
    #[serde(default)]
    pub name: Option<String>,
    /// What it is.
    pub image: String,
    #[serde(default)]
    image_pull_policy: Option<String>,
    #[serde(default)]
    image_pull_secret: Option<Reference>,
    /// How many instances of it are kept.
    #[serde(default)]
    pub pool_size: i32,
    /// How often an instance is called.
    #[serde(default)]
    pub max_invocations: i32,
    /// How often a service is started again.
    #[serde(default)]
    pub max_restarts: Option<i32>,
    /// What it is given.
    #[serde(default)]
    pub local_resources: LocalResources,
}

/// What a part is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalResources {
    /// Its environment.
    #[serde(default)]
    pub environment: Layers,
    /// Whom it may send requests to.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
    /// Folders.
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMount>,
}

/// Settings, of which the later ones count.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Layers {
    /// From config maps.
    #[serde(default)]
    pub config_from: Vec<Reference>,
    /// From secrets.
    #[serde(default)]
    pub secret_from: Vec<Reference>,
    /// As they stand there.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// Another thing of the same namespace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Its name.
    pub name: String,
}

/// An interface of the host.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostInterface {
    /// Such as `wasi`.
    pub namespace: String,
    /// Such as `http`.
    pub package: String,
    /// Such as `incoming-handler`.
    pub interfaces: Vec<String>,
    /// Its version, if it matters.
    #[serde(default)]
    pub version: Option<String>,
    /// What the host is told.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// A folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// It lasts as long as the workload.
    pub ephemeral: Empty,
}

/// Nothing more to say.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Where a folder is seen.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeMount {
    /// The folder's name.
    pub name: String,
    /// Its path.
    pub mount_path: String,
}

/// Reads every document of a manifest.
///
/// # Errors
/// Which one is not legal, and why.
pub fn read(text: &str) -> Result<Vec<WorkloadDeployment>> {
    let mut deployments: Vec<WorkloadDeployment> = Vec::new();
    for document in serde_norway::Deserializer::from_str(text) {
        let after = deployments.last().map_or("the first document".to_owned(), |last| {
            format!("the document after {}", last.metadata.name)
        });
        let deployment =
            WorkloadDeployment::deserialize(document).with_context(|| format!("{after} is no WorkloadDeployment"))?;
        deployment
            .check()
            .with_context(|| format!("WorkloadDeployment {}", deployment.metadata.name))?;
        deployments.push(deployment);
    }
    Ok(deployments)
}

impl WorkloadDeployment {
    /// The rules that a type does not say.
    fn check(&self) -> Result<()> {
        let Self {
            api_version,
            kind,
            metadata,
            spec,
        } = self;
        ensure!(
            api_version == "runtime.wasmcloud.dev/v1alpha1" && kind == "WorkloadDeployment",
            "it is another kind"
        );
        ensure!(is_name(&metadata.name), "its name is no DNS label");
        ensure!(
            metadata
                .labels
                .values()
                .chain(spec.template.labels.values())
                .all(|label| label.len() <= 63),
            "a label is too long"
        );
        ensure!(spec.replicas >= 0, "replicas is negative");
        if let Some(policy) = &spec.deploy_policy {
            ensure!(
                matches!(policy.as_str(), "RollingUpdate" | "Recreate"),
                "deployPolicy is {policy:?}"
            );
        }
        if let Some(kubernetes) = &spec.kubernetes {
            ensure!(is_name(&kubernetes.service.name), "its Service has no name");
        }
        spec.template.spec.check()
    }
}

impl Workload {
    fn check(&self) -> Result<()> {
        let mut names = BTreeSet::new();
        for component in &self.components {
            let name = component.name.as_deref().context("a component has no name")?;
            ensure!(names.insert(name), "two components are called {name}");
            ensure!(
                component.max_restarts.is_none(),
                "{name}: only a service is started again"
            );
            self.check_part(component).with_context(|| name.to_owned())?;
        }
        if let Some(service) = &self.service {
            ensure!(
                service.name.is_none() && service.pool_size == 0,
                "a service has neither a name nor a pool"
            );
            ensure!(
                service.max_restarts.is_some_and(|restarts| restarts >= 0),
                "a service says how often it is started again"
            );
            self.check_part(service).context("the service")?;
        }
        ensure!(self.host_interfaces.len() <= 64, "more than 64 host interfaces");
        let mut packages = BTreeSet::new();
        for HostInterface {
            namespace,
            package,
            interfaces,
            version,
            ..
        } in &self.host_interfaces
        {
            let of = format!("the host interface {namespace}:{package}");
            ensure!(packages.insert((namespace, package)), "{of} is there twice");
            ensure!(
                (1..=128).contains(&namespace.len()) && (1..=128).contains(&package.len()),
                "{of} has no name"
            );
            ensure!(!interfaces.is_empty(), "{of} names no interface");
            ensure!(
                version.as_ref().is_none_or(|version| version.len() <= 64),
                "{of} has no version"
            );
        }
        Ok(())
    }

    fn check_part(&self, part: &Part) -> Result<()> {
        ensure!(part.pool_size >= 0 && part.max_invocations >= 0, "a number is negative");
        if let Some(policy) = &part.image_pull_policy {
            ensure!(
                matches!(policy.as_str(), "Always" | "IfNotPresent" | "Never"),
                "imagePullPolicy is {policy:?}"
            );
        }
        ensure!(
            part.image_pull_secret
                .as_ref()
                .is_none_or(|secret| is_name(&secret.name)),
            "imagePullSecret has no name"
        );
        for host in &part.local_resources.allowed_hosts {
            ensure!(is_allowed_host(host), "allowedHosts: {host:?} is no host");
        }
        for mount in &part.local_resources.volume_mounts {
            ensure!(
                self.volumes.iter().any(|volume| volume.name == mount.name),
                "there is no volume {}",
                mount.name
            );
        }
        let environment = &part.local_resources.environment;
        ensure!(
            environment
                .config_from
                .iter()
                .chain(&environment.secret_from)
                .all(|from| is_name(&from.name)),
            "a config map or a secret has no name"
        );
        Ok(())
    }
}

/// `*`, or a host with a scheme before it, a port behind it, `*.` in front, none of them or all.
fn is_allowed_host(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let (scheme, rest) = text
        .split_once("://")
        .map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
    let legal_scheme = scheme.is_none_or(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c))
    });
    let rest = if scheme.is_some() {
        rest.strip_suffix('/').unwrap_or(rest)
    } else {
        rest
    };
    let (host, port) = rest
        .split_once(':')
        .map_or((rest, None), |(host, port)| (host, Some(port)));
    let legal_port =
        port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()));
    let host = host.strip_prefix("*.").unwrap_or(host);
    legal_scheme
        && legal_port
        && host
            .split('.')
            .all(|label| is_label(label, char::is_ascii_alphanumeric))
}

fn is_name(name: &str) -> bool {
    name.split('.')
        .all(|label| is_label(label, |c| c.is_ascii_lowercase() || c.is_ascii_digit()))
}

fn is_label(label: &str, letter: impl Fn(&char) -> bool) -> bool {
    let ends = [label.chars().next(), label.chars().next_back()];
    label.len() <= 63
        && ends.iter().all(|end| end.as_ref().is_some_and(&letter))
        && label.chars().all(|c| letter(&c) || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGAL: &str = "\
apiVersion: runtime.wasmcloud.dev/v1alpha1
kind: WorkloadDeployment
metadata: { name: a }
spec:
  template:
    spec:
      components:
        - name: one
          image: ghcr.io/example-org/one:0.1.0
          localResources: { allowedHosts: [\"https://bus.example.com:7780\"] }
      hostInterfaces:
        - { namespace: wasi, package: logging, interfaces: [logging] }
";

    #[test]
    fn a_legal_one_is_read() {
        let read = read(&format!("{LEGAL}---\n{}", LEGAL.replace("name: a", "name: b"))).expect("legal");
        let names: Vec<_> = read
            .iter()
            .map(|deployment| deployment.metadata.name.as_str())
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(read[0].spec.replicas, 1);
    }

    #[test]
    fn what_breaks_a_rule_is_refused() {
        for (what, with, named) in [
            ("kind: WorkloadDeployment", "kind: Workload", "another kind"),
            ("name: a ", "name: A ", "DNS label"),
            ("- name: one\n          image", "- image", "no name"),
            ("image: ghcr.io", "imag: ghcr.io", "imag"),
            (
                "https://bus.example.com:7780",
                "https://bus.example.com/path",
                "no host",
            ),
            ("https://bus.example.com:7780", "*example.com", "no host"),
            ("interfaces: [logging]", "interfaces: []", "names no interface"),
            ("spec:\n  template", "spec:\n  replicas: -1\n  template", "negative"),
        ] {
            let text = LEGAL.replacen(what, with, 1);
            assert_ne!(text, LEGAL, "{what}");
            let error = format!("{:#}", read(&text).expect_err(named));
            assert!(error.contains(named), "{error}");
        }
    }
    const PAYMENTS: &str = include_str!("../../../deploy/wasmcloud-v2/payments.yaml");

    #[test]
    fn a_runner_of_leases_has_a_folder_for_its_attempts_and_no_end_of_restarts() {
        let mut with_leases = Vec::new();
        for deployment in read(PAYMENTS).expect("legal") {
            let name = &deployment.metadata.name;
            let workload = &deployment.spec.template.spec;
            let Some(service) = &workload.service else {
                continue;
            };
            assert_eq!(service.max_restarts, Some(i32::MAX), "{name}");
            let resources = &service.local_resources;
            let variable = |key: &str| resources.environment.config.get(key).map(String::as_str);
            if variable("FANOUT_NEED") == Some("queue") {
                continue;
            }
            let folder = variable("FANOUT_ATTEMPTS");
            let mounts = &resources.volume_mounts;
            assert!(
                mounts.iter().any(|mount| Some(mount.mount_path.as_str()) == folder),
                "{name}: {folder:?} is in no volume"
            );
            with_leases.push(name.clone());
        }
        assert_eq!(with_leases, ["invoicing", "analytics"]);
    }

    #[test]
    fn what_the_manifests_name_is_there_or_told_of() {
        let services: Vec<_> =
            serde_norway::Deserializer::from_str(include_str!("../../../deploy/wasmcloud-v2/services.yaml"))
                .map(|document| serde_norway::Value::deserialize(document).expect("YAML"))
                .map(|service| service["metadata"]["name"].as_str().map(str::to_owned))
                .collect();
        let told = include_str!("../../../docs/wasmcloud-v2.md");
        for deployment in read(PAYMENTS).expect("legal") {
            let name = deployment.metadata.name;
            let service = deployment.spec.kubernetes.map(|kubernetes| kubernetes.service.name);
            assert!(services.contains(&service), "{name}: there is no Service {service:?}");
            assert!(told.contains(&format!("[callers.{name}]")), "{name} has no caller");
            let workload = deployment.spec.template.spec;
            let parts = workload.components.iter().chain(&workload.service);
            for secret in parts.flat_map(|part| &part.local_resources.environment.secret_from) {
                let create = format!("kubectl create secret generic {} ", secret.name);
                assert!(
                    told.contains(&create),
                    "{name}: nothing makes the secret {}",
                    secret.name
                );
            }
        }
    }
}
