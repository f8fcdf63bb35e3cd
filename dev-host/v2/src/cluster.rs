//! What the operator does on Kubernetes: fills in config maps and secrets, and asks a host by its control API, JSON over NATS.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::manifest::{Layers, LocalResources, Part, WorkloadDeployment};

/// A host pulls and compiles before it answers.
const START_LIMIT: Duration = Duration::from_secs(120);
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
const CHECK_EVERY: Duration = Duration::from_millis(100);

/// What a cluster has besides hosts.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What the images of the manifests begin with, and what is put there instead.
    pub images: (String, String),
    /// Hosts that `allowedHosts` names, and who stands for them here.
    pub hosts: BTreeMap<String, String>,
    /// Config maps and secrets, by their names.
    pub settings: BTreeMap<String, BTreeMap<String, String>>,
}

/// A workload that runs.
#[derive(Clone, Debug)]
pub struct Running {
    host: String,
    id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    workload_status: Status,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    workload_state: String,
    #[serde(default)]
    message: String,
}

impl Cluster {
    /// Starts a workload on a host, and waits until it runs. `id` was used for none before.
    ///
    /// # Errors
    /// What the host says instead.
    pub async fn start(
        &self,
        nats: &async_nats::Client,
        host: &str,
        id: &str,
        deployment: &WorkloadDeployment,
    ) -> Result<Running> {
        let name = &deployment.metadata.name;
        let request = json!({ "workloadId": id, "workload": self.workload(deployment)? });
        let answer = ask(nats, host, "start", &request, START_LIMIT).await;
        let mut status = answer.with_context(|| format!("workload {name} is not started"))?;
        let running = Running {
            host: host.to_owned(),
            id: id.to_owned(),
        };
        let until = Instant::now() + START_LIMIT;
        while status.workload_state != "WORKLOAD_STATE_RUNNING" {
            if status.workload_state == "WORKLOAD_STATE_ERROR" || Instant::now() > until {
                bail!(
                    "workload {name} does not run: {}: {}",
                    status.workload_state,
                    status.message
                );
            }
            sleep(CHECK_EVERY).await;
            status = ask(nats, host, "status", &json!({ "workloadId": id }), ANSWER_LIMIT).await?;
        }
        Ok(running)
    }

    /// The workload, as a host is told of it.
    ///
    /// # Errors
    /// When it names settings that are not there.
    pub fn workload(&self, deployment: &WorkloadDeployment) -> Result<Value> {
        let spec = &deployment.spec.template.spec;
        let components = spec.components.iter().map(|part| self.part(part));
        let service = spec.service.as_ref().map(|part| self.part(part)).transpose()?;
        let interfaces = spec.host_interfaces.iter().map(|interface| {
            json!({
                "namespace": interface.namespace,
                "package": interface.package,
                "interfaces": interface.interfaces,
                "version": interface.version.clone().unwrap_or_default(),
                "config": interface.config,
                "name": "",
            })
        });
        let volumes = spec
            .volumes
            .iter()
            .map(|volume| json!({ "name": volume.name, "emptyDir": {} }));
        let mut workload = json!({
            "namespace": deployment.metadata.namespace.as_deref().unwrap_or("default"),
            "name": deployment.metadata.name,
            "annotations": {},
            "witWorld": {
                "components": components.collect::<Result<Vec<_>>>()?,
                "hostInterfaces": interfaces.collect::<Vec<_>>(),
            },
            "volumes": volumes.collect::<Vec<_>>(),
        });
        if let Some(service) = service {
            workload["service"] = service;
        }
        Ok(workload)
    }

    fn part(&self, part: &Part) -> Result<Value> {
        let (named, here) = &self.images;
        let image = match part.image.strip_prefix(named.as_str()) {
            Some(rest) => format!("{here}{rest}"),
            None => part.image.clone(),
        };
        let resources = self
            .resources(&part.local_resources)
            .with_context(|| part.image.clone())?;
        Ok(match part.max_restarts {
            // A number of 64 bits is a text in JSON, as protobuf has it.
            Some(restarts) => {
                json!({ "image": image, "maxRestarts": restarts.to_string(), "localResources": resources })
            }
            None => json!({
                "name": part.name,
                "image": image,
                "poolSize": part.pool_size,
                "maxInvocations": part.max_invocations,
                "localResources": resources,
            }),
        })
    }

    fn resources(&self, resources: &LocalResources) -> Result<Value> {
        let hosts = resources
            .allowed_hosts
            .iter()
            .map(|host| self.hosts.get(host).unwrap_or(host));
        let mounts = resources
            .volume_mounts
            .iter()
            .map(|mount| json!({ "name": mount.name, "mountPath": mount.mount_path, "readOnly": false }));
        Ok(json!({
            "memoryLimitMb": 0,
            "cpuLimit": 0,
            "config": {},
            "environment": self.environment(&resources.environment)?,
            "volumeMounts": mounts.collect::<Vec<_>>(),
            "allowedHosts": hosts.collect::<Vec<_>>(),
        }))
    }

    /// Config maps, then secrets, then what stands there: the last one counts.
    fn environment(&self, layers: &Layers) -> Result<BTreeMap<String, String>> {
        let mut environment = BTreeMap::new();
        for from in layers.config_from.iter().chain(&layers.secret_from) {
            let settings = self.settings.get(&from.name);
            let settings = settings.with_context(|| format!("there is no config map or secret {}", from.name))?;
            environment.extend(settings.clone());
        }
        environment.extend(layers.config.clone());
        Ok(environment)
    }
}

impl Running {
    /// Whether the host says that it runs.
    ///
    /// # Errors
    /// When the host does not answer.
    pub async fn runs(&self, nats: &async_nats::Client) -> Result<bool> {
        let status = ask(
            nats,
            &self.host,
            "status",
            &json!({ "workloadId": self.id }),
            ANSWER_LIMIT,
        )
        .await?;
        Ok(status.workload_state == "WORKLOAD_STATE_RUNNING")
    }

    /// Stops it.
    ///
    /// # Errors
    /// When the host does not answer, or says that it can't.
    pub async fn stop(&self, nats: &async_nats::Client) -> Result<()> {
        let stopped = ask(
            nats,
            &self.host,
            "stop",
            &json!({ "workloadId": self.id }),
            ANSWER_LIMIT,
        )
        .await?;
        match stopped.workload_state.as_str() {
            "WORKLOAD_STATE_ERROR" => bail!("workload {} is not stopped: {}", self.id, stopped.message),
            _ => Ok(()),
        }
    }
}

async fn ask(nats: &async_nats::Client, host: &str, what: &str, request: &Value, limit: Duration) -> Result<Status> {
    let subject = format!("runtime.host.{host}.workload.{what}");
    let request = async_nats::Request::new()
        .payload(request.to_string().into())
        .timeout(None);
    let answer = timeout(limit, nats.send_request(subject, request)).await;
    let answer = answer
        .with_context(|| format!("the host did not answer within {} s", limit.as_secs()))?
        .context("the host did not answer")?;
    let read = serde_json::from_slice::<Answer>(&answer.payload);
    let answer = read.with_context(|| format!("the host answers {}", String::from_utf8_lossy(&answer.payload)))?;
    Ok(answer.workload_status)
}
