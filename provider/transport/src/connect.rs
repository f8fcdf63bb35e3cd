//! Connecting with what a wasmCloud host tells a provider.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};

use crate::Error;

/// Messages of one subscription that wait to be read. The demultiplexer and the functions read without waiting, so they
/// are few; beyond the bound the NATS client drops messages, and their calls end at their deadline.
const SUBSCRIPTION_CAPACITY: usize = 16 * 1024;
/// Messages that wait to be written. Beyond the bound a publish waits.
const WRITE_CAPACITY: usize = 1024;
/// A server that froze is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Where NATS is, and as whom to connect: the fields `lattice_rpc_url`, `lattice_rpc_user_jwt` and
/// `lattice_rpc_user_seed` of a provider's host data.
#[derive(Clone, Default)]
pub struct Access {
    /// One URL, or several of a cluster with commas between them. Empty: the default of NATS, on this machine.
    pub urls: String,
    /// The user's JWT; empty without authentication.
    pub user_jwt: String,
    /// The seed of the user's key; empty without authentication.
    pub user_seed: String,
}

/// The seed, the JWT and what stands before an `@` in a URL are left out.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let redact = |secret: &str| if secret.is_empty() { "none" } else { "[redacted]" };
        let urls: Vec<_> = self
            .urls
            .split(',')
            .map(|url| url.rsplit_once('@').map_or(url, |(_, host)| host))
            .collect();
        f.debug_struct("Access")
            .field("urls", &urls)
            .field("user_jwt", &redact(&self.user_jwt))
            .field("user_seed", &redact(&self.user_seed))
            .finish()
    }
}

/// Connects, under a name that shows in the server's list of connections. Reconnects by itself from then on; the
/// subscriptions are made anew.
///
/// # Errors
/// [`Error::Seed`], or [`Error::Connect`] if no server can be reached.
pub async fn connect(access: &Access, name: &str) -> Result<Client, Error> {
    let mut options = ConnectOptions::new();
    let (jwt, seed) = (access.user_jwt.trim(), access.user_seed.trim());
    if !seed.is_empty() {
        let key = nkeys::KeyPair::from_seed(seed).map_err(|_| Error::Seed)?;
        if jwt.is_empty() {
            options = options.nkey(seed.to_owned());
        } else {
            let key = Arc::new(key);
            options = options.jwt(jwt.to_owned(), move |nonce| {
                let key = Arc::clone(&key);
                async move { key.sign(&nonce).map_err(async_nats::AuthError::new) }
            });
        }
    }
    let urls = match access.urls.trim() {
        "" => "127.0.0.1:4222",
        urls => urls,
    };
    let urls: Vec<&str> = urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    let connection = name.to_owned();
    options
        .name(name)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(WRITE_CAPACITY)
        .event_callback(move |event| {
            report(&connection, &event);
            async {}
        })
        .connect(urls)
        .await
        .map_err(Error::Connect)
}

fn report(connection: &str, event: &Event) {
    match event {
        Event::Connected => tracing::info!(connection, "connected to NATS"),
        // One for each failed attempt to connect again.
        Event::ClientError(_) | Event::Disconnected | Event::SlowConsumer(_) | Event::LameDuckMode => {
            tracing::warn!(connection, %event, "NATS")
        }
        Event::ServerError(_) => tracing::error!(connection, %event, "NATS"),
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
