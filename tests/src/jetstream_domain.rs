//! nats-servers that are JetStream domains of their own, joined by leaf node links.

use fanout_transport::testing::{NatsServer, NatsSettings};
use futures::future::join_all;

use crate::{eventually, free_ports};

/// How the server of a domain is joined to others.
#[derive(Clone, Copy, Debug)]
pub enum LeafNodes {
    /// Not at all.
    None,
    /// Others join it at this port.
    Hub(u16),
    /// It joins another at this port, which may be that of a proxy.
    Leaf(u16),
}

/// Starts the server of a domain. `limits` are more settings of its JetStream, such as `max_file: 1G`.
///
/// # Panics
/// If there is no server to start.
pub async fn jetstream_domain(name: &str, limits: &str, leaf_nodes: LeafNodes) -> NatsServer {
    server(name, name, limits, leaf_nodes, "").await
}

/// Starts the servers of a domain that are a cluster. The first is joined to others as `leaf_nodes` says.
///
/// # Panics
/// If there are no servers to start.
pub async fn clustered_jetstream_domain(name: &str, servers: usize, leaf_nodes: LeafNodes) -> Vec<NatsServer> {
    let started = cluster(name, servers, leaf_nodes, &vec![String::new(); servers]).await;
    for server in &started {
        has_a_leader(server).await;
    }
    started
}

/// Starts clusters of two servers that gateways join, each told that it is a domain of its own. Returns the first of each, and what
/// has to go on beside them.
///
/// # Panics
/// If there are no servers to start.
pub async fn joined_by_gateways(names: [&str; 2]) -> ([NatsServer; 2], Vec<NatsServer>) {
    const EACH: usize = 2;
    let ports = free_ports(names.len() * EACH);
    let of = |name: &str, ports: &[u16]| {
        let urls: Vec<_> = ports.iter().map(|p| format!("\"nats://127.0.0.1:{p}\"")).collect();
        format!("{{ name: {name}, urls: [{}] }}", urls.join(", "))
    };
    let all: Vec<_> = names
        .iter()
        .zip(ports.chunks(EACH))
        .map(|(name, ports)| of(name, ports))
        .collect();
    let started = names.iter().zip(ports.chunks(EACH)).map(|(name, ports)| {
        let gateway = |port| {
            let all = all.join(", ");
            format!("gateway {{\n  name: {name}\n  listen: \"127.0.0.1:{port}\"\n  gateways: [{all}]\n}}\n")
        };
        let gateways: Vec<_> = ports.iter().map(gateway).collect();
        async move { cluster(name, EACH, LeafNodes::None, &gateways).await }
    });
    let mut beside = Vec::new();
    let mut first = join_all(started).await.into_iter().map(|mut servers| {
        let first = servers.remove(0);
        beside.append(&mut servers);
        first
    });
    let (Some(one), Some(other)) = (first.next(), first.next()) else {
        unreachable!("two were started");
    };
    drop(first);
    tokio::join!(has_a_leader(&one), has_a_leader(&other));
    ([one, other], beside)
}

async fn has_a_leader(server: &NatsServer) {
    let js = async_nats::jetstream::new(server.client().await);
    eventually("the cluster has a leader", || async {
        js.query_account().await.ok().map(drop)
    })
    .await;
}

/// Servers that are one cluster, each with more settings of its own.
async fn cluster(name: &str, servers: usize, leaf_nodes: LeafNodes, more: &[String]) -> Vec<NatsServer> {
    let ports = free_ports(servers);
    let routes: Vec<_> = ports.iter().map(|p| format!("\"nats://127.0.0.1:{p}\"")).collect();
    let started = ports.iter().zip(more).enumerate().map(|(i, (port, more))| {
        let settings = format!(
            "cluster {{\n  name: {name}\n  listen: \"127.0.0.1:{port}\"\n  no_advertise: true\n  routes: [{}]\n}}\n{more}",
            routes.join(", ")
        );
        let leaf_nodes = if i == 0 { leaf_nodes } else { LeafNodes::None };
        async move { server(&format!("{name}-{i}"), name, "", leaf_nodes, &settings).await }
    });
    join_all(started).await
}

async fn server(name: &str, domain: &str, limits: &str, leaf_nodes: LeafNodes, more: &str) -> NatsServer {
    let leaf_nodes = match leaf_nodes {
        LeafNodes::None => String::new(),
        LeafNodes::Hub(port) => format!("listen: \"127.0.0.1:{port}\""),
        LeafNodes::Leaf(port) => format!("remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]"),
    };
    // `no_advertise`: a leaf that is told of the hub's own port goes round the proxy.
    let config = format!(
        "server_name: {name}\n\
         accounts {{\n  SYS {{ users: [ {{ user: sys, password: sys }} ] }}\n  APP {{ jetstream: enabled, users: [ {{ user: app, password: app }} ] }}\n}}\n\
         system_account: SYS\nno_auth_user: app\njetstream {{\n  domain: {domain}\n  {limits}\n}}\n\
         leafnodes {{\n  reconnect: 1s\n  no_advertise: true\n  {leaf_nodes}\n}}\n{more}"
    );
    NatsServer::start_with(NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    })
    .await
}
