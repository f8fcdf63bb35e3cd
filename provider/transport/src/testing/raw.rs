//! A byte stream of any transport, on which a test can say what no caller would.

use std::any::Any;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::stream::byte_stream::ByteStream;
use crate::{ConnectOptions, Endpoint, Error};

/// Both halves of a byte stream.
pub struct RawStream {
    /// What the server sends.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What it is sent.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    _connection: Option<Box<dyn Any + Send + Sync>>,
}

/// Opens a byte stream, on a connection of its own.
///
/// # Errors
/// As [`crate::Remote::connect`].
pub async fn raw_stream(endpoint: &Endpoint, options: &ConnectOptions) -> Result<RawStream, Error> {
    let ByteStream {
        reader,
        writer,
        connection,
        ..
    } = options.dialer(endpoint)?.dial().await?;
    Ok(RawStream {
        reader,
        writer,
        _connection: connection,
    })
}

impl std::fmt::Debug for RawStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawStream").finish_non_exhaustive()
    }
}
