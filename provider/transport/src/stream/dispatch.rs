//! One byte stream of a peer: HTTP where its listener speaks that, elsewhere a session or a stock invocation by its first
//! byte.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use crate::Error;
use crate::http::connection as http;
use crate::stream::byte_stream::ByteStream;
use crate::stream::listener_state::{ListenerState, Speaks};
use crate::stream::peer::Peer;
use crate::stream::session::codec::HELLO;
use crate::stream::session::serve as session;
use crate::stream::{stock, stock_reader};

/// Serves whatever the peer wants of it.
pub(crate) async fn serve(listener: Arc<ListenerState>, peer: Peer, stream: ByteStream, since: Instant) {
    let (identity, faults) = (peer.identity.clone(), listener.tallies.faults.clone());
    match dispatch(listener, peer, stream, since).await {
        Err(error @ Error::Protocol(_)) => faults.count(|| format!("of {identity}: {error}")),
        Err(error) => tracing::debug!(peer = %identity, %error, "a stream ended"),
        Ok(()) => {}
    }
}

async fn dispatch(
    listener: Arc<ListenerState>,
    peer: Peer,
    mut stream: ByteStream,
    since: Instant,
) -> Result<(), Error> {
    if matches!(listener.speaks, Speaks::Http { .. }) {
        return http::serve(listener, peer, stream, since).await;
    }
    let first_deadline = since + listener.options.first_call_deadline;
    // So small that a thousand silent connections cost little.
    let mut first = [0; 64];
    let read = tokio::select! {
        biased;
        read = timeout_at(first_deadline, stream.reader.read(&mut first)) => {
            read.map_err(|_| Error::Protocol("a peer that sends nothing"))?.map_err(Error::lost)?
        }
        () = listener.hurry() => 0,
        () = listener.stop.cancelled() => 0,
    };
    let mut buffer = BytesMut::new();
    buffer.extend_from_slice(&first[..read]);
    match buffer.first() {
        None => Ok(()),
        Some(&stock_reader::VERSION) => stock::serve(listener, peer, stream, buffer, first_deadline).await,
        Some(&byte) if byte == HELLO[0] => session::serve(listener, peer, stream, buffer, first_deadline).await,
        Some(_) => Err(Error::Protocol("neither wRPC's framing nor a session")),
    }
}
