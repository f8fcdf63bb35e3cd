//! Two regions and a leaf: what runs of the bus `payments`, and the links that are cut.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use fanout_plan::status::PlaceStatus;
use fanout_tests::hosted::Hosted;
use fanout_tests::nemesis::Proxy;
use fanout_tests::{LeafNodes, free_ports};
use tokio::try_join;

use crate::cli::Cli;
use crate::ledger::Where;
use crate::operator::Operator;
use crate::place::Place;
use crate::servers;
use crate::story::{CATCH_UP_LIMIT, LOOK_EVERY};
use crate::wait::{Check, until};

pub(crate) const FRANKFURT: Where = "frankfurt";
pub(crate) const VIRGINIA: Where = "virginia";
pub(crate) const SHOP: Where = "shop";
/// In the order of [`World::places`].
pub(crate) const PLACES: [Where; 3] = [FRANKFURT, VIRGINIA, SHOP];

/// At one place, and given the events of all.
pub(crate) const INVOICING: &str = "invoicing";
/// At each place, and given the events of that place.
pub(crate) const STOCK: &str = "stock";

/// What the buses of the demo have in common: they fit one machine, and anybody on it may call them.
pub(crate) const SETTINGS: &str = "
[retention]
max-bytes = \"64MiB\"

[registry]
max-bytes = \"8MiB\"

[dead-letters]
max-bytes = \"16MiB\"

[delivery]
deadline = \"3s\"
ack-wait = \"10s\"

[callers.anyone]
loopback = true
publish.tenants = \"*\"
subscribe.tenants = \"*\"
";

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[places.frankfurt]
number = 0

[places.virginia]
number = 1

[places.shop]
number = 2
leaf-of = \"frankfurt\"

[subscriptions.invoicing]
need = \"durable\"
component = \"caller:anyone\"
at = \"frankfurt\"

[subscriptions.stock]
need = \"durable\"
component = \"caller:anyone\"
scope = \"here\"
";

/// Everything that runs of it. Whatever is dropped ends its process; an ingress before its bus, a bus before its server.
pub(crate) struct World {
    /// At the two regions.
    pub(crate) ingresses: [Arc<Hosted>; 2],
    pub(crate) places: [Place; 3],
    /// The links from Frankfurt, to Virginia and to the shop.
    pub(crate) links: [(&'static str, Proxy); 2],
    /// Where other leaves join Frankfurt.
    pub(crate) hub_port: u16,
    fanout: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts it.
    pub(crate) async fn start(cli: &Cli) -> Result<Self> {
        let folder = tempfile::tempdir().context("a folder for policies and logs")?;
        let hub_port = *free_ports(1).first().context("a port")?;
        let hub = servers::start(FRANKFURT, LeafNodes::Hub(hub_port)).await?;
        let links = [
            ("Frankfurt and Virginia", Proxy::before(hub_port).await),
            ("Frankfurt and the shop", Proxy::before(hub_port).await),
        ];
        let (virginia, shop) = try_join!(
            servers::start(VIRGINIA, LeafNodes::Leaf(links[0].1.port())),
            servers::start(SHOP, LeafNodes::Leaf(links[1].1.port())),
        )?;
        let text = format!("{POLICY}{SETTINGS}");
        let (fanout, policies, text) = (&cli.fanout, folder.path(), &text);
        let open = |name, nats| {
            let operator = move |nats| operator(fanout, policies, nats, name, Some(name));
            Place::open(name, Arc::new(nats), operator, text)
        };
        let (frankfurt, virginia, shop) = try_join!(open(FRANKFURT, hub), open(VIRGINIA, virginia), open(SHOP, shop))?;
        let (here, there) = try_join!(frankfurt.ingress(folder.path()), virginia.ingress(folder.path()))?;
        Ok(Self {
            ingresses: [here, there],
            places: [frankfurt, virginia, shop],
            links,
            hub_port,
            fanout: cli.fanout.clone(),
            folder,
        })
    }

    /// An operator of another bus, whose policy is to be written to a file of this name.
    pub(crate) fn operator(&self, nats: String, file: &str) -> Operator {
        operator(&self.fanout, self.folder.path(), nats, file, None)
    }

    /// Waits until each place mirrors both others, and has nothing of them to catch up with.
    pub(crate) async fn is_joined(&self) -> Result<()> {
        for place in &self.places {
            let what = format!("{} to mirror the others", place.name);
            until(&what, CATCH_UP_LIMIT, LOOK_EVERY, async || {
                let status = place.operator.status().await?;
                let mirrors = status
                    .place
                    .and_then(|PlaceStatus { mirrors, .. }| mirrors)
                    .unwrap_or_default();
                let caught_up = mirrors.iter().filter(|mirror| mirror.lag == Some(0)).count();
                Ok(match caught_up + 1 == PLACES.len() {
                    true => Check::Found(()),
                    false => Check::NotYet(format!("{caught_up} mirrors have caught up")),
                })
            })
            .await?;
        }
        Ok(())
    }

    /// Copies what the parts logged to where it outlives the run.
    pub(crate) fn keep_logs(&self, to: &Path) -> Result<PathBuf> {
        let kept = to.join(format!("places-{}", std::process::id()));
        std::fs::create_dir_all(&kept).with_context(|| format!("can't make {}", kept.display()))?;
        for place in &self.places {
            std::fs::write(kept.join(format!("{}.nats.log", place.name)), place.nats.log())?;
        }
        for entry in std::fs::read_dir(self.folder.path()).context("can't read the logs")? {
            let path = entry.context("can't read the logs")?.path();
            if let Some(name) = path.file_name()
                && path.is_file()
            {
                std::fs::copy(&path, kept.join(name)).with_context(|| format!("can't keep {}", path.display()))?;
            }
        }
        Ok(kept)
    }
}

fn operator(fanout: &Path, folder: &Path, nats: String, file: &str, place: Option<Where>) -> Operator {
    Operator {
        fanout: fanout.to_owned(),
        nats,
        policy: folder.join(file).with_extension("toml"),
        place,
    }
}
