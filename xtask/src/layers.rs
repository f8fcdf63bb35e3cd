//! Holds the source to the layers of docs/ARCHITECTURE.md: which folder may name what, and that no folders name each other
//! in a circle.
//!
//! A rule names a folder, what may not stand in its files, and the files that still break it. A file that no longer does
//! has to leave that list, so it only gets shorter.

use std::collections::{BTreeMap, BTreeSet};
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

const RULES: [Rule; 17] = [
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
        still: &["edge/memory.rs"],
    },
    Rule {
        folder: "provider/src",
        but: &["jetstream/acknowledgement.rs"],
        forbidden: &["AckKind", ".ack_with(", ".double_ack(", "\"+ACK\"", "\"-NAK"],
        why: "one place acknowledges: jetstream/acknowledgement.rs",
        still: &[],
    },
    Rule {
        folder: "provider/src",
        but: &["contract", "edge", "target"],
        forbidden: &["fanout_wit"],
        why: "the contract's types stay in contract/, target/, and edge/, which hands them on",
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
            "crate::inbox",
            "crate::target",
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
        folder: "provider/src/target",
        but: &[],
        forbidden: &[
            "crate::bus",
            "crate::edge",
            "crate::inbox",
            "crate::view",
            "crate::contract",
        ],
        why: "a target takes deliveries, and knows no bus",
        still: &[],
    },
    Rule {
        folder: "provider/src/bus",
        but: &[],
        forbidden: &["crate::contract", "crate::edge", "crate::provider", "crate::serve"],
        why: "the bus serves the contract's backend, and knows no callers",
        still: &[],
    },
    Rule {
        folder: "provider/src/edge",
        but: &[],
        forbidden: &["crate::contract", "crate::provider", "crate::serve"],
        why: "an edge serves the contract's backend, and knows no callers",
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

/// The folder whose modules name each other in no circle.
const WITHOUT_CIRCLES: &str = "provider/src";

/// What still closes a circle there: a module, and one that it names.
const STILL_UP: [(&str, &str); 3] = [("telemetry", "bus"), ("telemetry", "edge"), ("telemetry", "status")];

/// Reads the source.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut problems = Vec::new();
    for rule in &RULES {
        rule.hold(workspace.root(), &mut problems)?;
    }
    problems.extend(circles(&workspace.root().join(WITHOUT_CIRCLES), &STILL_UP)?);
    if !problems.is_empty() {
        bail!(
            "the layers of docs/ARCHITECTURE.md are broken:\n{}",
            problems.join("\n")
        );
    }
    Ok(())
}

/// Circles among the modules of a crate, but for those that `still` names.
fn circles(folder: &Path, still: &[(&str, &str)]) -> Result<Vec<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in source(folder)? {
        let below = file.strip_prefix(folder).context("a file is below its folder")?;
        let Some(module) = below.iter().next().and_then(|first| first.to_str()) else {
            continue;
        };
        if is_test(below) || matches!(module, "lib.rs" | "main.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        let module = module.trim_end_matches(".rs").to_owned();
        let code: String = code_lines(&text).map(|(_, line)| format!("{line}\n")).collect();
        let named = code.split("crate::").skip(1).flat_map(|after| {
            let list = after.strip_prefix('{').and_then(|list| list.split('}').next());
            let first = |path: &str| {
                path.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or("")
                    .to_owned()
            };
            match list {
                Some(list) => list.split(',').map(|path| first(path.trim())).collect(),
                None => vec![first(after)],
            }
        });
        names
            .entry(module.clone())
            .or_default()
            .extend(named.filter(|name| *name != module));
    }
    let up: BTreeSet<_> = still.iter().copied().collect();
    let mut open: Vec<String> = Vec::new();
    let mut done = BTreeSet::new();
    let mut problems = BTreeSet::new();
    for module in names.keys() {
        walk(module, &names, &up, &mut open, &mut done, &mut problems);
    }
    problems.extend(still.iter().filter_map(|(module, named)| {
        let is_there = names.get(*module).is_some_and(|all| all.contains(*named));
        (!is_there).then(|| format!("`{module}` names `{named}` no more: take it from the list in xtask/src/layers.rs"))
    }));
    Ok(problems.into_iter().collect())
}

/// Walks down from a module; who is met again on the way closes a circle.
fn walk<'a>(
    module: &'a str,
    names: &'a BTreeMap<String, BTreeSet<String>>,
    up: &BTreeSet<(&str, &str)>,
    open: &mut Vec<String>,
    done: &mut BTreeSet<&'a str>,
    problems: &mut BTreeSet<String>,
) {
    if let Some(at) = open.iter().position(|earlier| earlier == module) {
        problems.insert(format!("a circle of imports: {} -> {module}", open[at..].join(" -> ")));
        return;
    }
    if !done.insert(module) {
        return;
    }
    open.push(module.to_owned());
    for named in names.get(module).into_iter().flatten() {
        if names.contains_key(named) && !up.contains(&(module, named.as_str())) {
            walk(named, names, up, open, done, problems);
        }
    }
    open.pop();
}

/// Lines of code with their places, up to what is behind `#[cfg(test)]`.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    code.filter(|(_, line)| !line.trim_start().starts_with("//"))
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
        let mut found = Vec::new();
        for (at, line) in code_lines(text) {
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
    fn a_circle_is_named_and_what_is_listed_has_to_be_there() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [
            (
                "bus/mod.rs",
                "use crate::{clock, delivery::Context};\nuse crate::clock::now;\n",
            ),
            ("clock.rs", "// crate::bus\n#[cfg(test)]\nuse crate::bus;\n"),
            ("delivery/mod.rs", "use crate::inbox::Inbox;\n"),
            ("delivery/tests.rs", "use crate::bus::Bus;\n"),
            ("inbox.rs", "fn x(y: crate::delivery::Y, z: crate::bus::Z) {}\n"),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(
            circles(root.path(), &[("inbox", "bus"), ("clock", "bus")]).unwrap(),
            [
                "`clock` names `bus` no more: take it from the list in xtask/src/layers.rs",
                "a circle of imports: delivery -> inbox -> delivery",
            ]
        );
        let all = circles(root.path(), &[]).unwrap();
        assert!(
            all.contains(&"a circle of imports: bus -> delivery -> inbox -> bus".to_owned()),
            "{all:?}"
        );
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
