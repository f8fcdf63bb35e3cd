//! Holds the source to the layers of docs/ARCHITECTURE.md: which folder may name what.
//!
//! A rule names a folder, what may not stand in its files, and the files that still break it. A file that no longer does
//! has to leave that list, so it only gets shorter.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace::Workspace;

/// What may not stand in a folder.
struct Rule {
    folder: &'static str,
    /// Below the folder, whatever the rule is for does not hold.
    but: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
    /// Files that break it.
    still: &'static [&'static str],
}

const RULES: [Rule; 13] = [
    Rule {
        folder: "provider/plan/src",
        but: &[],
        forbidden: &[
            "tokio::",
            "async_nats::",
            "std::env",
            "std::fs",
            "std::net",
            "SystemTime",
            "Instant::now",
        ],
        why: "the planner is pure: no IO, no clock, no environment",
        still: &[],
    },
    Rule {
        folder: "provider/transport/src",
        but: &[],
        forbidden: &["fanout_plan", "fanout_provider", "TenantId", "SubscriptionName"],
        why: "the transport knows bytes and who calls, and no bus",
        still: &[],
    },
    Rule {
        folder: "provider/transport/src",
        but: &["lattice", "testing", "testing.rs"],
        forbidden: &["async_nats::"],
        why: "of the transport, only lattice/ knows NATS",
        still: &[],
    },
    Rule {
        folder: "provider/transport/src/lattice",
        but: &[],
        forbidden: &["crate::stream", "quinn::", "rustls::"],
        why: "the lattice knows no byte streams",
        still: &[],
    },
    Rule {
        folder: "provider/transport/src/stream",
        but: &[],
        forbidden: &["crate::lattice", "crate::Lattice", "crate::Client"],
        why: "byte streams know no lattice",
        still: &[],
    },
    Rule {
        folder: "provider/src",
        but: &["jetstream", "delivery"],
        forbidden: &["async_nats::jetstream", "jetstream::AckKind"],
        why: "JetStream's types stay in jetstream/ and delivery/",
        still: &[
            "edge/memory.rs",
            "inbox/fetch.rs",
            "inbox/in_order.rs",
            "inbox/mod.rs",
            "inbox/redrive.rs",
            "inbox/settle.rs",
            "scheduled.rs",
        ],
    },
    Rule {
        folder: "provider/src",
        but: &["contract", "edge"],
        forbidden: &["fanout_wit"],
        why: "the contract's types stay in contract/, and in edge/, which hands them on",
        still: &[],
    },
    Rule {
        folder: "provider/src/jetstream",
        but: &[],
        forbidden: &[
            "crate::bus",
            "crate::delivery",
            "crate::edge",
            "crate::inbox",
            "crate::view",
            "crate::contract",
        ],
        why: "the store knows no subscribers and no callers",
        still: &[],
    },
    Rule {
        folder: "provider/src/delivery",
        but: &[],
        forbidden: &[
            "crate::bus",
            "crate::edge",
            "crate::view",
            "crate::contract",
            "crate::provider",
            "crate::serve",
        ],
        why: "deliveries know one subscription, and not the bus that runs them",
        still: &[],
    },
    Rule {
        folder: "provider/src/inbox",
        but: &[],
        forbidden: &["crate::bus", "crate::edge", "crate::view", "crate::contract"],
        why: "what is fetched knows one subscription, and no wire format",
        still: &[],
    },
    Rule {
        folder: "provider/component",
        but: &["support/tests"],
        forbidden: &[
            "fanout_plan",
            "fanout_transport",
            "fanout_client",
            "fanout_wit",
            "tokio::",
            "async_nats::",
        ],
        why: "the bus's own components call it, and are nothing of it: no runtime, no planner, no client",
        still: &[],
    },
    Rule {
        folder: "provider/component",
        but: &["support/src/over_http.rs"],
        forbidden: &["wasip2::http", "wasip2::io"],
        why: "of the bus's own components, only over_http.rs knows wasi:http",
        still: &[],
    },
    Rule {
        folder: "tests/campaign/checker/src",
        but: &["main.rs"],
        forbidden: &[
            "tokio::",
            "std::fs",
            "std::env",
            "std::net",
            "Instant::now",
            "SystemTime",
            "fanout_plan",
        ],
        why: "the campaign's checker is pure, and knows nothing of how a bus works",
        still: &[],
    },
];

/// Reads the source.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut problems = Vec::new();
    for rule in &RULES {
        rule.hold(workspace.root(), &mut problems)?;
    }
    if !problems.is_empty() {
        bail!(
            "the layers of docs/ARCHITECTURE.md are broken:\n{}",
            problems.join("\n")
        );
    }
    Ok(())
}

impl Rule {
    fn hold(&self, root: &Path, problems: &mut Vec<String>) -> Result<()> {
        let folder = root.join(self.folder);
        let mut still = self.still.to_vec();
        for file in source(&folder)? {
            let below = file.strip_prefix(&folder).context("a file is below its folder")?;
            if self.but.iter().any(|but| below.starts_with(but)) || is_test(below) {
                continue;
            }
            let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
            let found = self.forbidden_in(&text);
            if let Some(known) = still.iter().position(|path| below == Path::new(path)) {
                if !found.is_empty() {
                    still.remove(known);
                }
                continue;
            }
            let place = Path::new(self.folder).join(below);
            problems.extend(
                found.into_iter().map(|(line, what)| {
                    format!("{}:{line}: `{what}` may not stand here: {}", place.display(), self.why)
                }),
            );
        }
        problems.extend(still.into_iter().map(|path| {
            format!(
                "{}/{path} keeps to its layer, or is gone: take it from the list in xtask/src/layers.rs",
                self.folder
            )
        }));
        Ok(())
    }

    /// Where, in lines of code; what is behind `#[cfg(test)]` is not read.
    fn forbidden_in(&self, text: &str) -> Vec<(usize, &'static str)> {
        let code = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
        let mut found = Vec::new();
        for (at, line) in code.filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let forbidden = self.forbidden.iter().find(|what| line.contains(**what));
            found.extend(forbidden.map(|what| (at + 1, *what)));
        }
        found
    }
}

fn is_test(below: &Path) -> bool {
    below.components().any(|part| part.as_os_str() == "tests") || below.ends_with("tests.rs")
}

/// The Rust files below a folder.
fn source(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    for entry in entries {
        let path = entry.context("can't read a folder")?.path();
        if path.is_dir() {
            files.extend(source(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_keeps_to_its_layer() {
        check(&Workspace::find().unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_does_not_is_named_and_one_that_does_again_leaves_the_list() {
        let root = tempfile::tempdir().unwrap();
        let rule = Rule {
            folder: "pure",
            but: &["impure"],
            forbidden: &["tokio::"],
            why: "it is pure",
            still: &["known.rs", "mended.rs"],
        };
        for (file, text) in [
            (
                "a.rs",
                "// tokio::spawn\nuse tokio::spawn;\n#[cfg(test)]\nuse tokio::time;\n",
            ),
            ("known.rs", "tokio::spawn(x);"),
            ("mended.rs", "fn x() {}"),
            ("impure/b.rs", "tokio::spawn(x);"),
            ("tests.rs", "tokio::spawn(x);"),
        ] {
            let path = root.path().join("pure").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut problems = Vec::new();
        rule.hold(root.path(), &mut problems).unwrap();
        assert_eq!(
            problems,
            [
                "pure/a.rs:2: `tokio::` may not stand here: it is pure",
                "pure/mended.rs keeps to its layer, or is gone: take it from the list in xtask/src/layers.rs",
            ]
        );
    }
}
