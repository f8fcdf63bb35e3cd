//! What generated bindings read and write. wrpc-transport 0.30 takes any byte stream and puts frames on it; neither the
//! v1 lattice nor a session has frames of wRPC. So chunks are given to bindings as frames of the root path, and root
//! frames that bindings wrote are taken apart again.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, stream};
use tokio::io::AsyncBufRead;
use tokio_util::io::StreamReader;
use wrpc_transport::frame::{Incoming, Outgoing};

use crate::budget::Permits;
use crate::chunks::Chunks;
use crate::frames::{self, Frames};
use crate::{Body, Error};

/// A body as bindings read it.
pub(crate) fn read_frames(chunks: Chunks) -> impl AsyncBufRead + Send + Unpin {
    let frames = stream::unfold(chunks, |mut chunks: Chunks| async move {
        Some((frame(chunks.next().await?), chunks))
    });
    StreamReader::new(Box::pin(frames.flat_map(stream::iter)))
}

/// A chunk behind what its frame begins with.
fn frame(chunk: Result<Bytes, Error>) -> [io::Result<Bytes>; 2] {
    let framed = chunk.and_then(|chunk| Ok((frames::head(chunk.len(), Body::Parameters)?, chunk)));
    match framed {
        // A frame of nothing would be skipped by its reader.
        Ok((_, chunk)) if chunk.is_empty() => [Ok(Bytes::new()), Ok(chunk)],
        Ok((head, chunk)) => [Ok(head), Ok(chunk)],
        Err(error) => [Err(io::Error::other(error)), Ok(Bytes::new())],
    }
}

/// The body in what bindings wrote; an error if the last frame is cut.
pub(crate) fn written_body(written: Vec<u8>, limit: usize) -> Result<Bytes, Error> {
    let mut written = BytesMut::from(Bytes::from(written));
    let mut frames = Frames::new(Body::Result, limit);
    let mut body = BytesMut::new();
    while let Some(data) = frames.next(&mut written)? {
        body.extend_from_slice(&data);
    }
    match written.is_empty() && frames.is_whole() {
        true => Ok(body.freeze()),
        false => Err(Error::Protocol("a frame is cut")),
    }
}

/// A result that is all there, as bindings read it. All parameters were sent: nothing is written any more.
pub(crate) fn result_frames(result: Bytes) -> (Outgoing, Incoming) {
    let no_paths: [&[Option<usize>]; 0] = [];
    let outgoing = Outgoing::new(tokio::io::sink(), |_, _| async {});
    let source = read_frames(Chunks::whole(result, Permits::default()));
    (outgoing, Incoming::new(source, no_paths, false, |_, _| async {}))
}

#[cfg(test)]
mod tests;
