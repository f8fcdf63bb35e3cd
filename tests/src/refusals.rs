//! What a nats-server refused to a user.

use fanout_transport::testing::NatsServer;

/// What stands in a server's log when a user tried what it may not do.
const VIOLATION: &str = "Violation - ";

/// What a server refused to a user, a line each.
#[must_use]
pub fn refused_to(server: &NatsServer, user: &str) -> Vec<String> {
    let needle = format!("user:{user}\"");
    let log = server.log();
    let lines = log.lines().filter(|l| l.contains(VIOLATION) && l.contains(&needle));
    lines.map(str::to_owned).collect()
}
