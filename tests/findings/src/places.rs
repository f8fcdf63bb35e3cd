//! A bus in several places, as an experiment uses it: the servers of each place, `fanout serve` beside them, and the links
//! between them, which can be cut.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use fanout_client::{Bus, connect};
use fanout_tests::{ANYONE_HERE, Served};
use futures::TryStreamExt as _;

use crate::proxy::Link;
use crate::server::{Node, Spec, ready, until};
use fanout_transport::testing::free_ports;

/// What every bus of an experiment with places has: room, and deadlines that a loaded machine keeps.
pub(crate) const SETTINGS: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[retention]
max-bytes = \"2GiB\"

[registry]
max-bytes = \"8MiB\"

[dead-letters]
max-bytes = \"16MiB\"

[publish]
deadline = \"10s\"

[delivery]
deadline = \"10s\"
ack-wait = \"30s\"
";

/// A place as an experiment asks for it. The first is the one that all others join.
pub(crate) struct Shape {
    /// Also its JetStream domain.
    pub(crate) name: &'static str,
    pub(crate) servers: usize,
    /// The tenant whose events it mirrors; of all without one.
    pub(crate) keeps: Option<&'static str>,
}

/// A place that runs. The bus ends before its servers.
struct Place {
    bus: Bus,
    _served: Served,
    nodes: Vec<Node>,
    name: &'static str,
}

/// All of them.
pub(crate) struct Places {
    all: Vec<Place>,
    links: Vec<Link>,
    /// Holds the policy.
    _folder: tempfile::TempDir,
}

impl Places {
    /// Starts them, and waits until each mirrors every other.
    pub(crate) async fn start(shapes: &[Shape]) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for the policy")?;
        let policy = policy(shapes)?;
        let joined_at = free_ports(1)[0];
        let (mut all, mut links) = (Vec::new(), Vec::new());
        for (number, shape) in shapes.iter().enumerate() {
            let link = match number {
                0 => None,
                _ => Some(Link::to(joined_at).await?),
            };
            let nodes = nodes(shape, joined_at, link.as_ref()).await?;
            links.extend(link);
            let path = folder.path().join(format!("{}.toml", shape.name));
            std::fs::write(&path, &policy).context("write the policy")?;
            let urls: Vec<String> = nodes.iter().map(Node::url).collect();
            let arguments = ["--listen", "tcp://127.0.0.1:0", "--place", shape.name];
            let served = tokio::task::block_in_place(|| Served::start(&urls.join(","), &path, &arguments));
            let bus = connect(served.listen.first().context("it listens")?).await?;
            all.push(Place {
                bus,
                _served: served,
                nodes,
                name: shape.name,
            });
        }
        let places = Self {
            all,
            links,
            _folder: folder,
        };
        for to in 0..places.all.len() {
            for from in (0..places.all.len()).filter(|from| *from != to) {
                let what = format!("{} mirrors {}", places.all[to].name, places.all[from].name);
                until(&what, async || matches!(places.mirror(from, to).await, Ok(Some(_)))).await?;
            }
        }
        Ok(places)
    }

    /// The bus, as a program at a place sees it.
    pub(crate) fn bus(&self, at: usize) -> &Bus {
        &self.all[at].bus
    }

    /// JetStream of a place, past the bus.
    pub(crate) async fn jetstream(&self, at: usize) -> Result<jetstream::Context> {
        self.all[at].nodes[0].jetstream().await
    }

    /// The place's name, which is its JetStream domain's.
    pub(crate) fn name(&self, at: usize) -> &'static str {
        self.all[at].name
    }

    /// What the mirror of one place's log is called at another, and what it mirrors.
    pub(crate) async fn mirror(&self, from: usize, to: usize) -> Result<Option<(String, String)>> {
        let api = format!("$JS.{}.API", self.name(from));
        let js = self.jetstream(to).await?;
        let mut streams = js.streams();
        while let Some(stream) = streams.try_next().await? {
            let Some(mirror) = stream.config.mirror else { continue };
            if mirror.name.contains("_log") && mirror.external.is_some_and(|e| e.api_prefix == api) {
                return Ok(Some((stream.config.name, mirror.name)));
            }
        }
        Ok(None)
    }

    pub(crate) fn cut(&self) {
        self.links.iter().for_each(Link::cut);
    }

    pub(crate) fn heal(&self) {
        self.links.iter().for_each(Link::heal);
    }
}

/// The one document of all places.
fn policy(shapes: &[Shape]) -> Result<String> {
    let mut text = format!("{SETTINGS}{ANYONE_HERE}");
    for (number, shape) in shapes.iter().enumerate() {
        writeln!(text, "\n[places.{}]\nnumber = {number}", shape.name)?;
        if number > 0 {
            writeln!(text, "leaf-of = \"{}\"", shapes[0].name)?;
        }
        if let Some(tenant) = shape.keeps {
            writeln!(text, "keeps = [\"{tenant}\"]")?;
        }
    }
    Ok(text)
}

/// The servers of a place, each of which joins over the link; others join the first of the first place.
async fn nodes(shape: &Shape, joined_at: u16, link: Option<&Link>) -> Result<Vec<Node>> {
    let routes = free_ports(shape.servers);
    let mut nodes = Vec::new();
    for (n, route) in routes.iter().enumerate() {
        let cluster = (shape.servers > 1).then(|| (shape.name.to_owned(), *route, routes.clone()));
        nodes.push(
            Node::start(&Spec {
                domain: Some(shape.name.to_owned()),
                cluster,
                leaf_port: (n == 0 && link.is_none()).then_some(joined_at),
                // A server that joins tells the other side of its own subscriptions only: each has to.
                leaf_of: link.map(Link::port),
                ..Spec::named(&format!("{}{n}", shape.name))
            })
            .await?,
        );
    }
    ready(&nodes[0].jetstream().await?).await?;
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_the_one_that_others_are_leaves_of() {
        let shapes = [("east", None), ("shop", Some("acme"))].map(|(name, keeps)| Shape {
            name,
            servers: 1,
            keeps,
        });
        let text = policy(&shapes).unwrap();
        let places = text.split_once("[places.east]").unwrap().1;
        assert_eq!(
            places,
            "\nnumber = 0\n\n[places.shop]\nnumber = 1\nleaf-of = \"east\"\nkeeps = [\"acme\"]\n"
        );
    }
}
