//! Values and their bytes on the wire.

use bytes::{Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};
use wrpc_transport::{Decode, Encode, Packer, pack_ready};

use crate::Error;

/// Bytes that values are given at first. Values are written field by field: without it, the buffer would grow at each of
/// the first fields.
const FIRST_BYTES: usize = 256;

/// Encodes values, such as a result or a tuple of parameters.
///
/// # Errors
/// [`Error::Encode`].
pub fn encode<P>(values: P) -> Result<Bytes, Error>
where
    P: Encode<Packer>,
    <P::Encoder as Encoder<P>>::Error: std::error::Error + Send + Sync + 'static,
{
    let mut buffer = BytesMut::with_capacity(FIRST_BYTES);
    pack_ready(values, &mut buffer).map_err(|error| Error::Encode(error.into()))?;
    Ok(buffer.freeze())
}

/// Decodes values that are all there.
///
/// # Errors
/// [`Error::Decode`].
pub fn decode<R>(bytes: Bytes) -> Result<R, Error>
where
    R: Decode,
    <R::Decoder as Decoder>::Error: std::error::Error + Send + Sync + 'static,
{
    wrpc_transport::unpack::<R>(&mut BytesMut::from(bytes)).map_err(|error| Error::Decode(error.into()))
}
