//! Limits of one caller.

use std::time::Duration;

use crate::stream::dialer::Dialer;
use crate::{Access, ClientTls, Endpoint, Error, Options, SecretFrom};

/// How to call an endpoint.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Of each call.
    pub limits: Options,
    /// For `tls`, `quic`, `webtransport` and `https`.
    pub tls: Option<ClientTls>,
    /// What this caller shows on `http` and `https`, read again for each connection. Over `http` it is shown on this machine
    /// alone.
    pub token: Option<SecretFrom>,
    /// Credentials for `nats`; its `urls` are taken from the endpoint.
    pub nats: Access,
    /// The caller's own id, which a target on a lattice receives.
    pub source: String,
    /// From the first packet until the server has greeted. A call waits for it no longer than its own deadline.
    pub connect_deadline: Duration,
    /// A connection without a sign of life from its server is given up after this time.
    pub idle_deadline: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            limits: Options::default(),
            tls: None,
            token: None,
            nats: Access::default(),
            source: "fanout".to_owned(),
            connect_deadline: Duration::from_secs(5),
            idle_deadline: Duration::from_secs(30),
        }
    }
}

impl ConnectOptions {
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.limits.check()?;
        for (name, time) in [
            ("connect_deadline", self.connect_deadline),
            ("idle_deadline", self.idle_deadline),
        ] {
            if time.is_zero() {
                return Err(Error::Options {
                    name,
                    expected: "above zero",
                });
            }
        }
        Ok(())
    }

    /// What makes byte streams to an endpoint.
    pub(crate) fn dialer(&self, endpoint: &Endpoint) -> Result<Dialer, Error> {
        Dialer::new(endpoint, self.tls.as_ref(), self.idle_deadline)
    }
}
