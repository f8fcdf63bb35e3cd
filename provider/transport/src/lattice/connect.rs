//! Connecting to NATS.

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, Event};

use crate::lattice::access::Access;
use crate::{Error, Tally};

/// Messages of one subscription that wait to be read. The demultiplexer and the functions read without waiting, so they
/// are few; beyond the bound the NATS client drops messages, and their calls end at their deadline.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;
/// Messages that wait to be written. Beyond the bound a publish waits.
const WRITE_CAPACITY: usize = 1024;
/// A server that froze is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Connects, under a name that shows in the server's list of connections. Reconnects by itself from then on; the
/// subscriptions are made anew.
///
/// # Errors
/// [`Error::Seed`], [`Error::Access`] or [`Error::Tls`] when it can't be used as it is, or [`Error::Connect`] if no server can
/// be reached or takes the user.
pub async fn connect(access: &Access, name: &str) -> Result<Client, Error> {
    let (options, servers) = access.options()?;
    let connection = name.to_owned();
    let often = Often::default();
    options
        .name(name)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(WRITE_CAPACITY)
        .event_callback(move |event| {
            report(&connection, &event, &often);
            async {}
        })
        .connect(servers)
        .await
        .map_err(|error| Error::Connect {
            refused: matches!(
                error.kind(),
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
            ),
            source: error.into(),
        })
}

/// Events that whoever sends much can cause: a line for each would be a log that they write.
struct Often {
    slow: Tally,
    refused: Tally,
}

impl Default for Often {
    fn default() -> Self {
        Self {
            slow: Tally::new("messages came faster than they were read, and were dropped"),
            refused: Tally::new("the NATS server refused something of this connection"),
        }
    }
}

fn report(connection: &str, event: &Event, often: &Often) {
    match event {
        Event::Connected => tracing::info!(connection, "connected to NATS"),
        // One for each failed attempt to connect again.
        Event::ClientError(_) | Event::Disconnected | Event::LameDuckMode => {
            tracing::warn!(connection, %event, "NATS")
        }
        Event::SlowConsumer(_) => often.slow.count(|| format!("{connection}: {event}")),
        Event::ServerError(_) => often.refused.count(|| format!("{connection}: {event}")),
        _ => tracing::debug!(connection, %event, "NATS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        let access = Access {
            urls: "nats://user:pass@a:4222,nats://b:4222".into(),
            user_jwt: "eyJ0".into(),
            user_seed: "SUASECRET".into(),
            ..Access::default()
        };
        let text = format!("{access:?}");
        for secret in ["pass", "eyJ0", "SUASECRET"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("a:4222") && text.contains("b:4222"), "{text}");
    }

    #[tokio::test]
    async fn a_bad_seed_is_refused_without_showing_it() {
        let access = Access {
            user_seed: "SUASECRET".into(),
            ..Access::default()
        };
        let error = connect(&access, "test").await.expect_err("no seed");
        assert!(matches!(error, Error::Seed));
        assert!(!format!("{error:?} {error}").contains("SECRET"));
    }
}
