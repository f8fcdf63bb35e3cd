//! The session with an endpoint, opened again when it is over.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, RwLock, Semaphore};
use tokio::time::{Instant, timeout};

use crate::budget::Budget;
use crate::failure::too_large;
use crate::stream::dialer::Dialer;
use crate::stream::session::client::Session;
use crate::{Body, CallContext, Error, Options, Resource};

/// How often a call that a leaving server did not take is given to another connection.
const MOVES: usize = 4;

/// The session with an endpoint, opened again when it is over.
#[derive(Debug)]
pub(crate) struct Sessions {
    dialer: Dialer,
    limits: Options,
    connect_deadline: Duration,
    budget: Arc<Budget>,
    calls: Semaphore,
    current: RwLock<Option<Arc<Session>>>,
    /// Held by whoever connects. When the last attempt failed, so that those who waited meanwhile fail with it.
    connecting: Mutex<Option<Instant>>,
}

impl Sessions {
    /// None yet. `connect_deadline` ends at the server's greeting.
    pub(crate) fn new(dialer: Dialer, limits: Options, connect_deadline: Duration) -> Self {
        Self {
            dialer,
            budget: Arc::new(Budget::new(limits.buffered_bytes)),
            calls: Semaphore::new(limits.calls),
            limits,
            connect_deadline,
            current: RwLock::default(),
            connecting: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> &Options {
        &self.limits
    }

    async fn usable(&self) -> Option<Arc<Session>> {
        self.current
            .read()
            .await
            .as_ref()
            .filter(|session| session.is_usable())
            .cloned()
    }

    /// The session in force, which may have to be opened first.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.usable().await {
            return Ok(session);
        }
        let since = Instant::now();
        let mut failed = self.connecting.lock().await;
        if let Some(session) = self.usable().await {
            return Ok(session);
        }
        if failed.is_some_and(|failed| failed >= since) {
            return Err(self.dialer.unreachable("an attempt just failed"));
        }
        let open = async {
            let stream = self.dialer.dial().await?;
            let session = Session::open(stream, &self.limits, Arc::clone(&self.budget)).await;
            session.map_err(|error| match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(error) => self.dialer.refusal(error),
            })
        };
        let opened = match timeout(self.connect_deadline, open).await {
            Ok(opened) => opened,
            Err(_) => Err(self.dialer.unreachable("no answer in time")),
        };
        match opened {
            Ok(session) => {
                let session = Arc::new(session);
                *self.current.write().await = Some(Arc::clone(&session));
                *failed = None;
                Ok(session)
            }
            Err(error) => {
                *failed = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// One call; the caller bounds its time. `waits_for` names what it waits for before anything is sent.
    pub(crate) async fn call(
        &self,
        cx: &CallContext,
        deadline: Duration,
        function: (&str, &str),
        params: &Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let limit = self.limits.max_body_bytes;
        if params.len() > limit {
            return Err(too_large(Body::Parameters, params.len(), limit));
        }
        let since = Instant::now();
        *waits_for = Some(Resource::Calls);
        let _permit = self.calls.acquire().await.map_err(|_| Error::Closed)?;
        for _ in 0..MOVES {
            *waits_for = Some(Resource::Connection);
            let session = self.session().await?;
            let left = deadline.saturating_sub(since.elapsed());
            match session.call(cx, left, function, params, waits_for).await {
                // It was not taken: there may be a successor.
                Err(Error::Leaving) => {}
                result => return result,
            }
        }
        Err(Error::Leaving)
    }
}
