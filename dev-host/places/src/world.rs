//! Two regions and a leaf, and a region that joins: what runs of the bus `payments`, and the links that are cut.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use fanout_tests::hosted::Hosted;
use fanout_tests::nemesis::Proxy;
use fanout_tests::{LeafNodes, free_ports};
use fanout_transport::testing::NatsServer;
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
/// It joins later.
pub(crate) const OREGON: Where = "oregon";
/// Where events are published, in the order of the places' numbers.
pub(crate) const ORIGINS: [Where; 4] = [FRANKFURT, VIRGINIA, SHOP, OREGON];
/// The places of the bus at the end.
pub(crate) const KEPT: [Where; 3] = [FRANKFURT, SHOP, OREGON];

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

/// One revision of the policy, which is the same document at every place.
pub(crate) struct Revision {
    pub(crate) number: u32,
    /// What is said of Virginia beside its number, while it is a place of the bus.
    pub(crate) virginia: Option<&'static str>,
    pub(crate) has_oregon: bool,
    /// Where invoicing is by then.
    pub(crate) invoicing_at: Where,
}

/// The first: two regions and a shop.
pub(crate) const FIRST: Revision = Revision {
    number: 1,
    virginia: Some(""),
    has_oregon: false,
    invoicing_at: FRANKFURT,
};

impl Revision {
    /// The document.
    pub(crate) fn text(&self) -> String {
        let place = |name: Where, number: u32, more: &str| format!("[places.{name}]\nnumber = {number}\n{more}\n");
        let mut places = place(FRANKFURT, 0, "") + &place(SHOP, 2, "leaf-of = \"frankfurt\"");
        places.extend(self.virginia.map(|more| place(VIRGINIA, 1, more)));
        places.extend(self.has_oregon.then(|| place(OREGON, 3, "")));
        let (number, at) = (self.number, self.invoicing_at);
        format!(
            "revision = {number}\nbus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\n\n{places}\n\
             [subscriptions.{INVOICING}]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\nat = \"{at}\"\n\n\
             [subscriptions.{STOCK}]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\nscope = \"here\"\n{SETTINGS}"
        )
    }
}

/// What is there all the time. Whatever is dropped ends its process: the story, and with it every instance, before its server.
pub(crate) struct World {
    /// The server that others join.
    pub(crate) hub: Arc<NatsServer>,
    /// Where they do.
    pub(crate) hub_port: u16,
    /// Its links, to Virginia and to the shop.
    pub(crate) links: [(&'static str, Proxy); 2],
    /// Every place's.
    servers: Mutex<Vec<(Where, Arc<NatsServer>)>>,
    fanout: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts the servers, and what links them.
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
        let hub = Arc::new(hub);
        let servers = vec![
            (FRANKFURT, Arc::clone(&hub)),
            (VIRGINIA, Arc::new(virginia)),
            (SHOP, Arc::new(shop)),
        ];
        Ok(Self {
            hub,
            hub_port,
            links,
            servers: Mutex::new(servers),
            fanout: cli.fanout.clone(),
            folder,
        })
    }

    /// Starts an instance at each of the three places, and an ingress in both regions.
    pub(crate) async fn begin(&self) -> Result<(Vec<Arc<Place>>, [Arc<Hosted>; 2])> {
        let text = FIRST.text();
        let (frankfurt, virginia, shop) = try_join!(
            self.open(FRANKFURT, &text),
            self.open(VIRGINIA, &text),
            self.open(SHOP, &text)
        )?;
        let (here, there) = try_join!(self.ingress(&frankfurt), self.ingress(&virginia))?;
        Ok((vec![frankfurt, virginia, shop], [here, there]))
    }

    /// Starts the server of a place that joins.
    pub(crate) async fn add_server(&self, name: Where) -> Result<()> {
        let server = servers::start(name, LeafNodes::Leaf(self.hub_port)).await?;
        self.servers().push((name, Arc::new(server)));
        Ok(())
    }

    /// Starts an instance at a place, under a policy.
    pub(crate) async fn open(&self, name: Where, text: &str) -> Result<Arc<Place>> {
        let nats = self
            .servers()
            .iter()
            .find(|(of, _)| *of == name)
            .map(|(_, nats)| Arc::clone(nats));
        let nats = nats.with_context(|| format!("{name} has no server"))?;
        let operator = |nats| operator(&self.fanout, self.folder.path(), nats, name, Some(name));
        Ok(Arc::new(Place::open(name, nats, operator, text).await?))
    }

    /// Starts an ingress beside a place's instance.
    pub(crate) async fn ingress(&self, place: &Place) -> Result<Arc<Hosted>> {
        place.ingress(self.folder.path()).await
    }

    fn servers(&self) -> MutexGuard<'_, Vec<(Where, Arc<NatsServer>)>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An operator of another bus, whose policy is to be written to a file of this name.
    pub(crate) fn operator(&self, nats: String, file: &str) -> Operator {
        operator(&self.fanout, self.folder.path(), nats, file, None)
    }

    /// Copies what the parts logged to where it outlives the run.
    pub(crate) fn keep_logs(&self, to: &Path) -> Result<PathBuf> {
        let kept = to.join(format!("places-{}", std::process::id()));
        std::fs::create_dir_all(&kept).with_context(|| format!("can't make {}", kept.display()))?;
        for (name, nats) in self.servers().iter() {
            std::fs::write(kept.join(format!("{name}.nats.log")), nats.log())?;
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

/// Waits until each place mirrors all others, and has nothing of them to catch up with.
pub(crate) async fn are_joined(places: &[Arc<Place>]) -> Result<()> {
    for place in places {
        let what = format!("{} to mirror the others", place.name);
        until(&what, CATCH_UP_LIMIT, LOOK_EVERY, async || {
            let mirrors = place.mirrors().await?;
            let has = |other: &Arc<Place>| {
                let mut of_it = mirrors
                    .iter()
                    .filter(|mirror| mirror.place.as_str() == other.name)
                    .peekable();
                of_it.peek().is_some() && of_it.all(|mirror| mirror.lag == Some(0))
            };
            let caught_up = places.iter().filter(|other| has(other)).count();
            Ok(match caught_up + 1 == places.len() {
                true => Check::Found(()),
                false => Check::NotYet(format!("{caught_up} of them have caught up")),
            })
        })
        .await?;
    }
    Ok(())
}

fn operator(fanout: &Path, folder: &Path, nats: String, file: &str, place: Option<Where>) -> Operator {
    Operator {
        fanout: fanout.to_owned(),
        nats,
        policy: folder.join(file).with_extension("toml"),
        place,
    }
}
