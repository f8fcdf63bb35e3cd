//! A bus that is connected to by the first call, so that whoever depends on it can start before it does.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::{CallContext, ConnectOptions, Endpoint, Error, Remote};
use tokio::sync::{Mutex, RwLock};
use tokio::time::{Instant, timeout};
use wrpc_transport::Invoke;
use wrpc_transport::frame::{Incoming, Outgoing};

/// Calls an endpoint, connecting when there is no connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Lazy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoint: Endpoint,
    options: ConnectOptions,
    remote: RwLock<Option<Remote>>,
    /// Held by whoever connects. When the last attempt failed, so that those who waited meanwhile fail with it instead
    /// of each trying for itself.
    connecting: Mutex<Option<Instant>>,
}

impl Lazy {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(endpoint: Endpoint, options: ConnectOptions) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            options,
            remote: RwLock::default(),
            connecting: Mutex::default(),
        }))
    }

    /// What is called.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    /// Connects, unless that was done before.
    ///
    /// # Errors
    /// As [`Remote::connect`].
    pub async fn remote(&self) -> Result<Remote, Error> {
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

    fn unreachable(&self, why: &str) -> Error {
        Error::Unreachable {
            endpoint: self.0.endpoint.clone(),
            source: why.into(),
        }
    }
}

impl Invoke for Lazy {
    type Context = CallContext;

    async fn invoke<P>(
        &self,
        cx: CallContext,
        instance: &str,
        func: &str,
        params: Bytes,
        paths: impl AsRef<[P]> + Send,
    ) -> anyhow::Result<(Outgoing, Incoming)>
    where
        P: AsRef<[Option<usize>]> + Send + Sync,
    {
        let limit: Duration = cx.deadline.unwrap_or(self.0.options.connect_deadline);
        let remote = match timeout(limit, self.remote()).await {
            Ok(remote) => remote?,
            Err(_) => return Err(self.unreachable("no answer in time").into()),
        };
        remote.invoke(cx, instance, func, params, paths).await
    }
}
