//! nats-servers, each a JetStream domain of its own, and the links between them.

use anyhow::{Context as _, Result};
use fanout_transport::testing::{NatsServer, NatsSettings};

/// What one is to others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    /// Others join at this port.
    Hub(u16),
    /// It joins at this port, which may be that of a proxy.
    Leaf(u16),
}

/// Starts one.
pub(crate) async fn start(domain: &str, link: Link) -> Result<NatsServer> {
    let link = match link {
        Link::Hub(port) => format!("listen: \"127.0.0.1:{port}\""),
        Link::Leaf(port) => format!("remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]"),
    };
    // `no_advertise`: a leaf that is told of the hub's own port goes round the proxy.
    let config = format!(
        "server_name: {domain}\n\
         accounts {{\n  SYS {{ users: [ {{ user: sys, password: sys }} ] }}\n  APP {{ jetstream: enabled, users: [ {{ user: app, password: app }} ] }}\n}}\n\
         system_account: SYS\nno_auth_user: app\njetstream {{ domain: {domain} }}\n\
         leafnodes {{\n  reconnect: 1s\n  no_advertise: true\n  {link}\n}}\n"
    );
    let settings = NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    };
    // It panics where there is no server to start, and says what to do.
    let starting = tokio::spawn(NatsServer::start_with(settings));
    starting
        .await
        .with_context(|| format!("the nats-server of {domain} did not start"))
}
