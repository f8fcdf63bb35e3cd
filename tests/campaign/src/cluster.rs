//! The servers of a campaign: each behind proxies, towards the others and towards the bus's instances.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_campaign_checker::history::Durability;
use fanout_tests::nemesis::{Proxy, Way};
use fanout_transport::testing::{NatsServer, NatsSettings, free_ports};

use crate::disk::Disk;
use crate::world::until;

/// Servers that are one cluster, or one alone.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Node>,
}

/// What servers have their stores on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disks {
    None,
    Plain,
    OnDevices,
}

/// One server.
pub(crate) struct Node {
    pub(crate) nats: NatsServer,
    pub(crate) disk: Option<Disk>,
    /// The routes that it opens to each other server, by that one's number.
    routes: Vec<Option<Proxy>>,
    /// The version that it is replaced by.
    pub(crate) newer: Option<PathBuf>,
}

impl Cluster {
    /// Starts them, with their stores on disks of their own where there are such.
    pub(crate) async fn start(folder: &Path, of: usize, durability: Durability, disks: Disks) -> Result<Self> {
        let ports = free_ports(of);
        let older = older_server();
        let mut servers = Vec::new();
        for i in 0..of {
            let mut routes = Vec::new();
            for (j, port) in ports.iter().enumerate() {
                routes.push(if i == j { None } else { Some(Proxy::before(*port).await) });
            }
            let disk = match disks {
                Disks::None => None,
                Disks::Plain => Some(Disk::make(folder, &format!("s{i}"), false)?),
                Disks::OnDevices => Some(Disk::make(folder, &format!("s{i}"), true)?),
            };
            let settings = NatsSettings {
                config: Some(config(i, ports[i], &routes, durability)),
                store: Some(
                    disk.as_ref()
                        .map_or_else(|| folder.join(format!("s{i}")), |d| d.path().join("js")),
                ),
                binary: older.clone(),
                ..NatsSettings::default()
            };
            let nats = NatsServer::start_with(settings).await;
            let newer = older.as_ref().map(|_| newer_binary());
            servers.push(Node {
                nats,
                disk,
                routes,
                newer,
            });
        }
        Ok(Self { servers })
    }

    /// Their addresses, with commas between.
    pub(crate) fn urls(&self) -> String {
        self.servers
            .iter()
            .map(|node| node.nats.url())
            .collect::<Vec<_>>()
            .join(",")
    }

    /// A connection to whichever of them answers.
    pub(crate) async fn client(&self) -> Result<async_nats::Client> {
        let addresses: Vec<async_nats::ServerAddr> = self
            .servers
            .iter()
            .map(|node| node.nats.url().parse())
            .collect::<Result<_, _>>()?;
        let options = async_nats::ConnectOptions::new()
            .retry_on_initial_connect()
            .ignore_discovered_servers();
        let client = options
            .request_timeout(Some(std::time::Duration::from_secs(4)))
            .connect(addresses)
            .await;
        client.context("no server is there")
    }

    fn routes_of(&self, i: usize) -> impl Iterator<Item = (&Proxy, Way)> {
        // Towards others it is the client, and from them the server.
        let own = self.servers[i]
            .routes
            .iter()
            .flatten()
            .map(|proxy| (proxy, Way::ToServer));
        let others = self.servers.iter().filter_map(move |node| node.routes[i].as_ref());
        own.chain(others.map(|proxy| (proxy, Way::ToClient)))
    }

    /// Cuts a server from all others; says whether there was a connection to cut.
    pub(crate) fn partition(&self, i: usize) -> bool {
        let seen = self.routes_of(i).any(|(proxy, _)| proxy.connections() > 0);
        self.routes_of(i).for_each(|(proxy, _)| proxy.cut());
        seen
    }

    /// Holds what a server sends to the others, which it goes on hearing; says whether there is a connection.
    pub(crate) fn mute(&self, i: usize) -> bool {
        self.routes_of(i).for_each(|(proxy, from_it)| proxy.hold(from_it));
        self.routes_of(i).any(|(proxy, _)| proxy.connections() > 0)
    }

    /// Makes the links between a server and the others slow; says whether something is on its way.
    pub(crate) async fn slow_down(&self, i: usize) -> bool {
        let routes: Vec<_> = self.routes_of(i).map(|(proxy, _)| proxy).collect();
        slow_down(&routes).await
    }

    /// They are quick again.
    pub(crate) fn speed_up(&self, i: usize) {
        self.routes_of(i).for_each(|(proxy, _)| speed_up(proxy));
    }

    /// Joins a server with all others again.
    pub(crate) fn join(&self, i: usize) {
        self.routes_of(i).for_each(|(proxy, _)| proxy.reset());
    }
}

/// How long what passes a slow link takes, and of how many pieces it loses one.
const SLOW: Duration = Duration::from_millis(60);
const LOSES_ONE_IN: usize = 8;

/// Makes links slow. Seen once something is on its way.
pub(crate) async fn slow_down(proxies: &[&Proxy]) -> bool {
    for proxy in proxies {
        proxy.delay(SLOW);
        proxy.lose(Some(LOSES_ONE_IN));
    }
    until("something is on its way", Duration::from_secs(1), async || {
        proxies.iter().any(|proxy| proxy.waiting() > 0)
    })
    .await
    .is_ok()
}

/// A link is quick again.
pub(crate) fn speed_up(proxy: &Proxy) {
    proxy.delay(Duration::ZERO);
    proxy.lose(None);
}

/// The older nats-server that rounds begin with, if one is named.
pub(crate) fn older_server() -> Option<PathBuf> {
    std::env::var_os("FANOUT_NATS_SERVER_OLDER").map(PathBuf::from)
}

fn newer_binary() -> PathBuf {
    std::env::var_os("FANOUT_NATS_SERVER").map_or_else(|| "nats-server".into(), PathBuf::from)
}

/// The servers advertise to each other an address where nobody is: they know each other by their configured routes alone,
/// each of which goes through a proxy of its own.
fn config(i: usize, port: u16, routes: &[Option<Proxy>], durability: Durability) -> String {
    let sync = match durability {
        Durability::Acknowledged => "",
        Durability::OnDisk => ", sync_interval: always",
    };
    let mut config = format!(
        r#"
server_name: "s{i}"
jetstream {{ max_file_store: 16GB{sync} }}
accounts {{
    SYS {{ users: [{{ user: sys, password: sys }}], exports: [{{ service: "$SYS.REQ.SERVER.PING.JSZ" }}] }}
    APP {{
        jetstream: enabled
        users: [{{ user: app, password: app }}]
        imports: [{{ service: {{ account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ" }} }}]
    }}
}}
system_account: SYS
no_auth_user: app
"#
    );
    let urls: Vec<_> = routes
        .iter()
        .flatten()
        .map(|proxy| format!("\"{}\"", proxy.url()))
        .collect();
    if !urls.is_empty() {
        config += &format!(
            "cluster {{\n  name: campaign\n  listen: \"127.0.0.1:{port}\"\n  advertise: \"127.0.0.1:1\"\n  no_advertise: true\n  \
             routes: [{}]\n}}\n",
            urls.join(", ")
        );
    }
    config
}
