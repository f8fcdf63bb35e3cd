//! The calling side: a client of one target, for generated bindings and for typed values.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderValue, Subject};
use bytes::Bytes;
use tokio::time::timeout;
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::frame::{Incoming, Outgoing};
use wrpc_transport::{Decode, Encode, Invoke, Packer};

use crate::budget::Permits;
use crate::failure::too_large;
use crate::frame_io::result_frames;
use crate::lattice::connection::Lattice;
use crate::lattice::inboxes::ReplyTo;
use crate::lattice::reply_buffer::{Event, ReplyBuffer};
use crate::lattice::reply_slot::ReplySlot;
use crate::lattice::wire;
use crate::shape::{Shape, Walk, Walked};
use crate::values::{decode, encode};
use crate::{Body, CallContext, Error, Options, Resource, caller};

/// Calls the functions of one component or provider.
#[derive(Clone, Debug)]
pub struct Client {
    lattice: Lattice,
    target: Arc<Target>,
}

#[derive(Debug)]
struct Target {
    /// `{lattice}.{component or provider id}`.
    prefix: Box<str>,
    /// The caller's own id.
    source: Box<str>,
}

impl Client {
    /// A client of the target whose functions are served under `prefix`, which is `{lattice}.{component or provider
    /// id}`. `source` is our own id.
    #[must_use]
    pub fn new(lattice: &Lattice, prefix: &str, source: &str) -> Self {
        Self {
            lattice: lattice.clone(),
            target: Arc::new(Target {
                prefix: prefix.into(),
                source: source.into(),
            }),
        }
    }

    pub(crate) fn options(&self) -> &Options {
        self.lattice.options()
    }

    /// Calls a function with encoded parameters; returns its encoded result. Dropping the future gives up the call
    /// here; its target does not learn of that.
    ///
    /// # Errors
    /// See [`Error::outcome`] for what errors reveal of the target.
    pub async fn call(&self, cx: CallContext, instance: &str, func: &str, params: Bytes) -> Result<Bytes, Error> {
        let limit = self.lattice.options().max_body_bytes;
        if params.len() > limit {
            return Err(too_large(Body::Parameters, params.len(), limit));
        }
        let deadline = cx.deadline.unwrap_or(self.lattice.options().call_deadline);
        let mut waits_for = None;
        let exchange = self.exchange(&cx, (instance, func), params, &mut waits_for);
        match timeout(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(waits_for.map_or_else(|| Error::deadline(deadline), Error::Busy)),
        }
    }

    /// Calls a function with typed parameters, a tuple of them, and takes its one result, all without frames.
    ///
    /// # Errors
    /// As [`Client::call`], and for values that can't be encoded or decoded.
    pub async fn call_values<P, R>(&self, cx: CallContext, instance: &str, func: &str, params: P) -> Result<R, Error>
    where
        P: Encode<Packer>,
        R: Decode,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        let result = self.call(cx, instance, func, encode(params)?).await?;
        decode(result)
    }

    /// As [`Client::call_values`], of a target whose answers are not to be trusted: what is in the result is counted,
    /// by its shape, before it is decoded.
    ///
    /// # Errors
    /// As [`Client::call_values`], and [`Error::Protocol`] for a result with more of something than its shape allows.
    pub async fn call_values_of<P, R>(
        &self,
        cx: CallContext,
        (instance, func): (&str, &str),
        params: P,
        shape: &'static Shape,
    ) -> Result<R, Error>
    where
        P: Encode<Packer>,
        R: Decode,
        <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
        <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
    {
        let result = self.call(cx, instance, func, encode(params)?).await?;
        match Walk::new(shape).on(&result)? {
            Walked::Whole(used) if used == result.len() => decode(result),
            Walked::Whole(_) => Err(Error::Protocol("there is more than the result")),
            Walked::Part => Err(Error::Protocol("the result is incomplete")),
            Walked::TooMany(_) => Err(Error::Protocol("there is more in the result than was requested")),
        }
    }

    /// `waits_for` names what the call waits for before anything is sent.
    async fn exchange(
        &self,
        cx: &CallContext,
        function: (&str, &str),
        params: Bytes,
        waits_for: &mut Option<Resource>,
    ) -> Result<Bytes, Error> {
        let connection = &self.lattice.0;
        if !connection.is_connected() {
            return Err(Error::Disconnected);
        }
        *waits_for = Some(Resource::Calls);
        let _permit = connection.calls.acquire().await.map_err(|_| Error::Closed)?;
        let slot = ReplySlot::open(
            connection,
            ReplyBuffer::new(Body::Result, connection.options.max_body_bytes, 0),
        );
        *waits_for = Some(Resource::Bytes);
        let mut rest = Some(self.send(cx, function, &slot, params).await?);
        *waits_for = None;
        loop {
            match slot.event().await? {
                Event::Handshake(reply) => Box::pin(self.send_rest(&reply, rest.take())).await?,
                Event::Result { body, direct } if direct || cx.no_result || !body.is_empty() => {
                    return Ok(body);
                }
                Event::Result { .. } => return Err(Error::Incomplete),
            }
        }
    }

    /// As a stock caller sends it; what does not fit into the first message is returned.
    async fn send(
        &self,
        cx: &CallContext,
        (instance, func): (&str, &str),
        slot: &ReplySlot,
        mut params: Bytes,
    ) -> Result<(Permits, Bytes), Error> {
        let connection = &self.lattice.0;
        let reply = slot.subject();
        let mut headers = self.headers(cx)?;
        let first = wire::first_chunk(connection.max_payload(), &reply, &headers);
        let first = params.split_to(params.len().min(first));
        if !params.is_empty() {
            headers.insert(wire::FANOUT_CALL, wire::CHUNKED);
        }
        let rest = (connection.budget.take(params.len()).await, params);
        let to = Subject::from(wire::subject(&self.target.prefix, instance, func));
        connection.batcher.send(to, Some(reply), Some(headers), first).await?;
        Ok(rest)
    }

    /// A stock server that has nothing to decode still waits for the end marker.
    async fn send_rest(&self, reply: &ReplyTo, rest: Option<(Permits, Bytes)>) -> Result<(), Error> {
        let Some((_permits, rest)) = rest else {
            return Ok(());
        };
        let to = reply.below("params");
        self.lattice.0.publish_all(&to, rest).await
    }

    fn headers(&self, cx: &CallContext) -> Result<HeaderMap, Error> {
        let prefix = &*self.target.prefix;
        let target = prefix.rsplit('.').next().unwrap_or(prefix);
        let values = [
            (wire::SOURCE_ID, Some(&*self.target.source)),
            (wire::TARGET_ID, Some(target)),
            (wire::FANOUT_CALL, Some(wire::WHOLE)),
            (wire::LINK_NAME, cx.link.as_deref()),
            (
                wire::TRACEPARENT,
                cx.traceparent.as_deref().and_then(caller::traceparent),
            ),
            (wire::TRACESTATE, cx.tracestate.as_deref()),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            if let Some(value) = value {
                // A line break would begin another header.
                let value: HeaderValue = value.parse().map_err(|error| Error::Encode(Box::new(error)))?;
                headers.insert(name, value);
            }
        }
        Ok(headers)
    }
}

/// For generated bindings. The whole call happens in here, so that its error reaches the caller as an [`Error`]: see
/// [`Error::find`].
impl Invoke for Client {
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
