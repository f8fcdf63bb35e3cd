//! The calling side, whatever carries the bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, RwLock, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::frame::{Incoming, Outgoing};
use wrpc_transport::{Decode, Encode, Invoke, Packer};

use crate::budget::Budget;
use crate::call::{as_frames, pack, unpack};
use crate::dial::Dialer;
use crate::framed::{self, Frames};
use crate::session::client::Session;
use crate::{
    Access, CallContext, Client, ConnectOptions, Dialect, Endpoint, Error, Lattice, Options, Part, Resource, connect,
    wire,
};

/// How often a call that a leaving server did not take is given to another connection.
const MOVES: usize = 4;

/// Calls the functions of one endpoint, on any transport. Cheap to clone; clones share connections.
///
/// A connection that is lost is made anew by the next call. What was under way has an unknown outcome
/// ([`Error::Lost`]); what a leaving server did not take is moved to its successor by itself.
#[derive(Clone, Debug)]
pub struct Remote {
    endpoint: Endpoint,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Lattice(Client),
    Session(Arc<Sessions>),
    Stock(Arc<Stock>),
}

impl Remote {
    /// Connects, and waits until the server greets. With [`Dialect::Stock`] nothing is sent before the first call.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Refused`] if one side does not accept the other's certificate; [`Error::Tls`],
    /// [`Error::Options`]; for `nats` as [`connect()`].
    pub async fn connect(endpoint: &Endpoint, options: ConnectOptions) -> Result<Self, Error> {
        options.check()?;
        let way = match (endpoint, options.dialect) {
            (Endpoint::Nats { servers, target }, _) => {
                let access = Access {
                    urls: servers.clone(),
                    ..options.nats
                };
                let nats = timeout(options.connect_deadline, connect(&access, &options.source));
                let nats = nats.await.map_err(|_| Error::Unreachable {
                    endpoint: endpoint.clone(),
                    source: "no answer in time".into(),
                })??;
                let lattice = Lattice::new(nats, options.limits).await?;
                Way::Lattice(Client::new(&lattice, target, &options.source))
            }
            (_, Dialect::Session) => {
                let sessions = Sessions::new(endpoint, options)?;
                drop(sessions.session().await?);
                Way::Session(Arc::new(sessions))
            }
            (_, Dialect::Stock) => Way::Stock(Arc::new(Stock {
                dialer: Dialer::new(endpoint, &options)?,
                calls: Semaphore::new(options.limits.calls),
                options,
            })),
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            way,
        })
    }

    /// What is called.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn limits(&self) -> &Options {
        match &self.way {
            Way::Lattice(client) => client.options(),
            Way::Session(sessions) => &sessions.options.limits,
            Way::Stock(stock) => &stock.options.limits,
        }
    }

    /// Calls a function with encoded parameters; returns its encoded result. Dropping the future gives up the call; in
    /// a session the server learns of it, and stops its handler.
    ///
    /// # Errors
    /// See [`Error::outcome`] for what they say of the target.
    pub async fn call(&self, cx: CallContext, instance: &str, func: &str, params: Bytes) -> Result<Bytes, Error> {
        let deadline = cx.deadline.unwrap_or(self.limits().call_deadline);
        let mut waits_for = None;
        let call = async {
            match &self.way {
                Way::Lattice(client) => client.call(cx, instance, func, params).await,
                Way::Session(sessions) => {
                    sessions
                        .call(&cx, deadline, (instance, func), &params, &mut waits_for)
                        .await
                }
                Way::Stock(stock) => stock.call(&cx, (instance, func), &params, &mut waits_for).await,
            }
        };
        match timeout(deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(match waits_for {
                Some(Resource::Connection) => Error::Unreachable {
                    endpoint: self.endpoint.clone(),
                    source: "no answer in time".into(),
                },
                Some(resource) => Error::Busy(resource),
                None => Error::deadline(deadline),
            }),
        }
    }

    /// Calls a function with typed parameters, a tuple of them, and takes its one result, all without frames.
    ///
    /// # Errors
    /// As [`Remote::call`], and for values that can't be encoded or decoded.
    pub async fn call_values<P, R>(&self, cx: CallContext, instance: &str, func: &str, params: P) -> Result<R, Error>
    where
        P: Encode<Packer>,
        R: Decode,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        unpack(self.call(cx, instance, func, pack(params)?).await?)
    }
}

/// For generated bindings. The whole call happens in here, so that its error reaches the caller as an [`Error`]: see
/// [`Error::find`].
impl Invoke for Remote {
    type Context = CallContext;

    async fn invoke<P>(
        &self,
        cx: Self::Context,
        instance: &str,
        func: &str,
        params: Bytes,
        paths: impl AsRef<[P]> + Send,
    ) -> anyhow::Result<(Outgoing, Incoming)>
    where
        P: AsRef<[Option<usize>]> + Send + Sync,
    {
        if !paths.as_ref().is_empty() {
            return Err(Error::Unsupported("WIT streams and futures").into());
        }
        Ok(as_frames(self.call(cx, instance, func, params).await?))
    }
}

/// The session with an endpoint, made anew when it is over.
#[derive(Debug)]
struct Sessions {
    dialer: Dialer,
    options: ConnectOptions,
    budget: Arc<Budget>,
    calls: Semaphore,
    current: RwLock<Option<Arc<Session>>>,
    /// Held by whoever connects. When the last attempt failed, so that those who waited meanwhile fail with it.
    connecting: Mutex<Option<Instant>>,
}

impl Sessions {
    fn new(endpoint: &Endpoint, options: ConnectOptions) -> Result<Self, Error> {
        Ok(Self {
            dialer: Dialer::new(endpoint, &options)?,
            budget: Arc::new(Budget::new(options.limits.buffered_bytes)),
            calls: Semaphore::new(options.limits.calls),
            current: RwLock::default(),
            connecting: Mutex::default(),
            options,
        })
    }

    async fn usable(&self) -> Option<Arc<Session>> {
        self.current
            .read()
            .await
            .as_ref()
            .filter(|session| session.is_usable())
            .cloned()
    }

    async fn session(&self) -> Result<Arc<Session>, Error> {
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
            let stream = self.dialer.stream().await?;
            let session = Session::open(stream, &self.options.limits, Arc::clone(&self.budget)).await;
            session.map_err(|error| match error.downcast::<Error>() {
                Ok(error) => *error,
                Err(error) => self.dialer.refusal(error),
            })
        };
        let opened = match timeout(self.options.connect_deadline, open).await {
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

    async fn call(
        &self,
        cx: &CallContext,
        deadline: Duration,
        function: (&str, &str),
        params: &Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let limit = self.options.limits.max_body_bytes;
        if params.len() > limit {
            return Err(wire::too_large(Part::Parameters, params.len(), limit));
        }
        let since = Instant::now();
        *waits_for = Some(Resource::Calls);
        let _place = self.calls.acquire().await.map_err(|_| Error::Closed)?;
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

/// A byte stream for each call.
#[derive(Debug)]
struct Stock {
    dialer: Dialer,
    calls: Semaphore,
    options: ConnectOptions,
}

impl Stock {
    async fn call(
        &self,
        cx: &CallContext,
        (instance, func): (&str, &str),
        params: &Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let limit = self.options.limits.max_body_bytes;
        if params.len() > limit {
            return Err(wire::too_large(Part::Parameters, params.len(), limit));
        }
        let invocation = framed::invocation(instance, func, params)?;
        *waits_for = Some(Resource::Calls);
        let _place = self.calls.acquire().await.map_err(|_| Error::Closed)?;
        *waits_for = Some(Resource::Connection);
        let mut stream = match timeout(self.options.connect_deadline, self.dialer.stream()).await {
            Ok(stream) => stream?,
            Err(_) => return Err(self.dialer.unreachable("no answer in time")),
        };
        *waits_for = None;
        let writer = &mut stream.writer;
        writer.write_all(&invocation).await.map_err(Error::lost)?;
        writer.flush().await.map_err(Error::lost)?;
        writer.shutdown().await.map_err(Error::lost)?;
        let mut frames = Frames::new(Part::Result, limit);
        let mut buffer = BytesMut::new();
        let mut result = BytesMut::new();
        while let Some(data) = framed::read_data(&mut stream.reader, &mut buffer, &mut frames).await? {
            result.extend_from_slice(&data);
        }
        if result.is_empty() && !cx.no_result {
            return Err(Error::Incomplete);
        }
        Ok(result.freeze())
    }
}
