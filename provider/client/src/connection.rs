//! A connection to a bus that the first call makes, so that whoever depends on the bus can start before it does; once
//! made, it mends itself.

use std::sync::Arc;
use std::time::Duration;

use fanout_transport::{CallContext, ConnectOptions, Endpoint, Error, Remote};
use tokio::sync::{Mutex, RwLock};
use tokio::time::{Instant, timeout};

/// Calls an endpoint. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    options: ConnectOptions,
    remote: RwLock<Option<Remote>>,
    /// Held by whoever connects. When the last attempt failed, so that those who waited meanwhile fail with it instead
    /// of each trying for itself.
    connecting: Mutex<Option<Instant>>,
}

impl Connection {
    /// Connects to nothing yet.
    pub(crate) fn new(endpoint: Endpoint, options: ConnectOptions) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            options,
            remote: RwLock::default(),
            connecting: Mutex::default(),
        }))
    }

    /// Connects, unless that was done before.
    ///
    /// # Errors
    /// As [`Remote::connect`].
    async fn remote(&self) -> Result<Remote, Error> {
        if let Some(remote) = self.0.remote.read().await.clone() {
            return Ok(remote);
        }
        let since = Instant::now();
        let mut failed = self.0.connecting.lock().await;
        if let Some(remote) = self.0.remote.read().await.clone() {
            return Ok(remote);
        }
        if failed.is_some_and(|failed| failed >= since) {
            return Err(self.unreachable("an attempt just failed"));
        }
        match Remote::connect(&self.0.endpoint, self.0.options.clone()).await {
            Ok(remote) => {
                *self.0.remote.write().await = Some(remote.clone());
                Ok(remote)
            }
            Err(error) => {
                *failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// The same within the time of a call; with the call's context, whose deadline is what is left of that time.
    ///
    /// # Errors
    /// As [`Remote::connect`], and when the time is up.
    pub(crate) async fn remote_for(&self, cx: CallContext) -> Result<(Remote, CallContext), Error> {
        let since = Instant::now();
        let limit: Duration = cx.deadline.unwrap_or(self.0.options.connect_deadline);
        let connected = timeout(limit, self.remote()).await;
        let remote = connected.unwrap_or_else(|_| Err(self.unreachable("no answer in time")))?;
        let deadline = cx.deadline.map(|deadline| deadline.saturating_sub(since.elapsed()));
        Ok((remote, CallContext { deadline, ..cx }))
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable {
            endpoint: self.0.endpoint.clone(),
            source: why.into(),
        }
    }
}
