//! A byte stream between two peers, whatever carries it.

use std::any::Any;
use std::fmt;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// What a peer sends.
pub(crate) type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// What a peer is sent.
pub(crate) type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Both directions of a byte stream.
pub(crate) struct ByteStream {
    pub(crate) reader: BoxRead,
    pub(crate) writer: BoxWrite,
    /// Ends when the peer has taken all that was sent, or takes no more. Where that can't be known, the peer's own end
    /// stands for it.
    pub(crate) delivered: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// What the stream is on, which has to outlive it.
    pub(crate) connection: Option<Box<dyn Any + Send + Sync>>,
}

impl ByteStream {
    /// A stream of two halves.
    pub(crate) fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            writer: Box::new(writer),
            delivered: None,
            connection: None,
        }
    }

    /// The same, with what ends when all is delivered.
    pub(crate) fn delivered_when(self, delivered: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            delivered: Some(Box::pin(delivered)),
            ..self
        }
    }

    /// The same, on a connection that is kept for it.
    pub(crate) fn on(self, connection: impl Any + Send + Sync) -> Self {
        Self {
            connection: Some(Box::new(connection)),
            ..self
        }
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").finish_non_exhaustive()
    }
}
