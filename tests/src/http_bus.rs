//! A served bus that is called over HTTP.

use std::ops::Deref;
use std::path::PathBuf;

use fanout_transport::testing::NatsServer;

use crate::Cli;
use crate::http_caller::HttpCaller;
use crate::served::{ANYONE_HERE, SERVED_POLICY, Served};

pub use crate::http_caller::{Answered, BATCHED, STRUCTURED, document};

/// A bus `payments` with a caller that may do everything, known by the loopback; it is that caller.
pub struct HttpBus {
    /// The command line, at the bus's store.
    pub cli: Cli,
    /// The bus's policy.
    pub policy: PathBuf,
    /// The server.
    pub served: Served,
    /// The bus's store.
    pub nats: NatsServer,
    caller: HttpCaller,
}

impl Deref for HttpBus {
    type Target = HttpCaller;

    fn deref(&self) -> &HttpCaller {
        &self.caller
    }
}

impl HttpBus {
    /// One whose policy says this besides.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn start(more: &str) -> Self {
        let nats = NatsServer::start().await;
        let cli = Cli::new(nats.url());
        let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}{more}"));
        let served = Served::start(&nats.url(), &policy, &["--listen", "http://127.0.0.1:0"]);
        let caller = HttpCaller::at(&served.listen[0]);
        Self {
            cli,
            policy,
            served,
            nats,
            caller,
        }
    }

    /// Another instance of the same bus, and the same caller there.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn another(&self) -> (Served, HttpCaller) {
        let served = Served::start(&self.nats.url(), &self.policy, &["--listen", "http://127.0.0.1:0"]);
        let caller = HttpCaller::at(&served.listen[0]);
        (served, caller)
    }
}
