//! From a URL to a bus.

use std::time::Duration;

use fanout_transport::{Access, ClientTls, ConnectOptions, Endpoint, EndpointError, SecretFrom};
use tokio::time::Instant;

use crate::retry::Backoff;
use crate::upstream::Upstream;
use crate::{Bus, Error, ErrorKind};

/// How a bus is called.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// For a whole request, tries and waits included. A stream of deliveries goes on trying for ever.
    pub deadline: Duration,
    /// For one try.
    pub try_deadline: Duration,
    /// Waits out a tenant's quota within the deadline: for as long as the bus says, and again with the same event id.
    pub waits_for_quota: bool,
    /// For `tls`, `quic`, `webtransport` and `https`.
    pub tls: Option<ClientTls>,
    /// What this program shows on `http` and `https`: a token of `fanout token`, read again for each connection. Over `http`
    /// it is shown on this machine alone.
    pub token: Option<SecretFrom>,
    /// On a lattice: credentials for NATS; the servers are the URL's.
    pub nats: Access,
    /// On a lattice: the component that this program is, as links know it.
    pub component: String,
    /// On a lattice: the link that it calls by.
    pub link: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            try_deadline: Duration::from_secs(5),
            waits_for_quota: false,
            tls: None,
            token: None,
            nats: Access::default(),
            component: "fanout-client".to_owned(),
            link: "default".to_owned(),
        }
    }
}

/// Connects to a bus, with the default options.
///
/// # Errors
/// As [`connect_with`].
pub async fn connect(url: &str) -> Result<Bus, Error> {
    connect_with(url, Options::default()).await
}

/// Connects to a bus. It is tried until [`Options::deadline`]; a connection that is lost later is made anew by itself.
///
/// # Errors
/// For a URL that is none, for certificates that can't be read or are refused, and when the bus is not reached in time.
pub async fn connect_with(url: &str, options: Options) -> Result<Bus, Error> {
    let endpoint: Endpoint = url
        .parse()
        .map_err(|e: EndpointError| Error::new(ErrorKind::Invalid, EndpointError::CODE, e.to_string()))?;
    let deadline = Instant::now() + options.deadline;
    let connect = ConnectOptions {
        tls: options.tls.clone(),
        token: options.token.clone(),
        nats: options.nats.clone(),
        source: options.component.clone(),
        connect_deadline: options.try_deadline,
        ..ConnectOptions::default()
    };
    let upstream = Upstream::new(endpoint, connect, options.deadline)
        .persistent(options.try_deadline, &options.link)
        .waiting_for_quota(options.waits_for_quota);
    let mut backoff = Backoff::default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let error = match upstream.connect(left).await {
            Ok(()) => return Ok(Bus::new(upstream, options.deadline)),
            Err(error) => Error::connecting(error),
        };
        let wait = backoff.next();
        if !error.is_transient() || Instant::now() + wait >= deadline {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
    }
}
