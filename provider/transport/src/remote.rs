//! The calling side, whatever carries the bytes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::frame::{Incoming, Outgoing};
use wrpc_transport::{Decode, Encode, Invoke, Packer};

use crate::frame_io::result_frames;
use crate::http::client::HttpClient;
use crate::stream::sessions::Sessions;
use crate::values::{decode, encode};
use crate::{Access, CallContext, Client, ConnectOptions, Endpoint, Error, Lattice, Options, Resource, connect};

/// Calls the functions of one endpoint, on any transport. Cheap to clone; clones share connections.
///
/// A connection that is lost is made anew by the next call. What was under way has an unknown outcome
/// ([`Error::Lost`]); what a leaving server did not take is moved to its successor by itself.
#[derive(Clone, Debug)]
pub struct Remote {
    endpoint: Endpoint,
    channel: Channel,
}

/// What carries the calls.
#[derive(Clone, Debug)]
enum Channel {
    Lattice(Client),
    Session(Arc<Sessions>),
    Http(Arc<HttpClient>),
}

impl Remote {
    /// Connects, and waits until the server greets.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Refused`] if one side does not accept the other's certificate; [`Error::Tls`],
    /// [`Error::Options`]; for `nats` as [`connect()`].
    pub async fn connect(endpoint: &Endpoint, options: ConnectOptions) -> Result<Self, Error> {
        options.check()?;
        if options.token.is_some() && !endpoint.is_http() {
            return Err(Error::Misused {
                endpoint: endpoint.clone(),
                why: "takes no token: callers show tokens on http and https",
            });
        }
        let channel = match endpoint {
            Endpoint::Nats { servers, target } => {
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
                Channel::Lattice(Client::new(&lattice, target, &options.source))
            }
            _ if endpoint.is_http() => {
                let dialer = options.dialer(endpoint)?;
                let client = HttpClient::new(
                    endpoint,
                    dialer,
                    options.token,
                    options.limits,
                    options.connect_deadline,
                )?;
                client.connect().await?;
                Channel::Http(Arc::new(client))
            }
            _ => {
                let dialer = options.dialer(endpoint)?;
                let sessions = Sessions::new(dialer, options.limits, options.connect_deadline);
                drop(sessions.session().await?);
                Channel::Session(Arc::new(sessions))
            }
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            channel,
        })
    }

    /// What is called.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn limits(&self) -> &Options {
        match &self.channel {
            Channel::Lattice(client) => client.options(),
            Channel::Session(sessions) => sessions.limits(),
            Channel::Http(client) => client.limits(),
        }
    }

    /// Calls a function with encoded parameters; returns its encoded result. Dropping the future gives up the call; in
    /// a session the server learns of it, and stops its handler.
    ///
    /// # Errors
    /// See [`Error::outcome`] for what errors reveal of the target.
    pub async fn call(&self, cx: CallContext, instance: &str, func: &str, params: Bytes) -> Result<Bytes, Error> {
        let deadline = cx.deadline.unwrap_or(self.limits().call_deadline);
        let mut waits_for = None;
        let call = async {
            match &self.channel {
                Channel::Lattice(client) => client.call(cx, instance, func, params).await,
                Channel::Session(sessions) => {
                    sessions
                        .call(&cx, deadline, (instance, func), &params, &mut waits_for)
                        .await
                }
                Channel::Http(client) => {
                    client
                        .call(&cx, deadline, (instance, func), &params, &mut waits_for)
                        .await
                }
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
        decode(self.call(cx, instance, func, encode(params)?).await?)
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
        Ok(result_frames(self.call(cx, instance, func, params).await?))
    }
}
