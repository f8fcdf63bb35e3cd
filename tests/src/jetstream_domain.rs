//! nats-servers that are JetStream domains of their own, joined by leaf node links.

use fanout_transport::testing::{NatsServer, NatsSettings};

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
    let leaf_nodes = match leaf_nodes {
        LeafNodes::None => String::new(),
        LeafNodes::Hub(port) => format!("listen: \"127.0.0.1:{port}\""),
        LeafNodes::Leaf(port) => format!("remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]"),
    };
    // `no_advertise`: a leaf that is told of the hub's own port goes round the proxy.
    let config = format!(
        "server_name: {name}\n\
         accounts {{\n  SYS {{ users: [ {{ user: sys, password: sys }} ] }}\n  APP {{ jetstream: enabled, users: [ {{ user: app, password: app }} ] }}\n}}\n\
         system_account: SYS\nno_auth_user: app\njetstream {{\n  domain: {name}\n  {limits}\n}}\n\
         leafnodes {{\n  reconnect: 1s\n  no_advertise: true\n  {leaf_nodes}\n}}\n"
    );
    NatsServer::start_with(NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    })
    .await
}
