//! Limits of one caller.

use std::time::Duration;

use crate::tls::ClientTls;
use crate::{Access, Error, Options};

/// How to call an endpoint.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Of each call.
    pub limits: Options,
    /// What is spoken on the connection.
    pub dialect: Dialect,
    /// For `tls`, `quic` and `webtransport`.
    pub tls: Option<ClientTls>,
    /// Credentials for `nats`; its `urls` are taken from the endpoint.
    pub nats: Access,
    /// Our own id, which a target on a lattice is told.
    pub source: String,
    /// From the first packet until the server has greeted. A call waits for it no longer than its own deadline.
    pub connect_deadline: Duration,
    /// A connection without a sign of life from its server is given up after this time.
    pub idle_deadline: Duration,
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Many calls on one connection, with their trace context, deadlines, reasons of failures, and a word when the
    /// server leaves. Servers of this crate only.
    #[default]
    Session,
    /// wRPC's own framing, for any wRPC server: a connection (over QUIC: a stream) for each call, and none of the
    /// above.
    Stock,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            limits: Options::default(),
            dialect: Dialect::default(),
            tls: None,
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
}
