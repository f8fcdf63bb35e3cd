//! Reads a stock invocation from a byte stream: a header (version 0, instance, function), then [frames](crate::frames)
//! with the parameters. The sender ends by closing its side.
//!
//! Nothing is reserved for what a peer claims: a name has at most 256 bytes, and data counts as it comes.

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::Error;
use crate::caller::MAX_ID_BYTES;
use crate::frames::{Frames, leb128};

/// The version byte that a stock invocation begins with.
pub(crate) const VERSION: u8 = 0;
/// Read at a time.
const MAX_READ_BYTES: usize = 64 << 10;
const FIRST_READ_BYTES: usize = 4 << 10;

/// A function as a header names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) instance: String,
    pub(crate) func: String,
}

/// Takes a header from the front of `bytes`, its version byte included; `None` if there has to be more.
pub(crate) fn header(bytes: &mut BytesMut) -> Result<Option<Header>, Error> {
    let mut rest = &bytes[..];
    match rest.split_first() {
        None => return Ok(None),
        Some((&VERSION, tail)) => rest = tail,
        Some(_) => return Err(Error::Protocol("an unknown version of wRPC's framing")),
    }
    let (Some(instance), Some(func)) = (name(&mut rest)?, name(&mut rest)?) else {
        return Ok(None);
    };
    let used = bytes.len() - rest.len();
    bytes.advance(used);
    Ok(Some(Header { instance, func }))
}

fn name(bytes: &mut &[u8]) -> Result<Option<String>, Error> {
    let mut rest = *bytes;
    let Some(length) = leb128(&mut rest)? else {
        *bytes = &[];
        return Ok(None);
    };
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > MAX_ID_BYTES {
        return Err(Error::Protocol("a name is too long"));
    }
    if rest.len() < length {
        *bytes = &[];
        return Ok(None);
    }
    let (name, tail) = rest.split_at(length);
    *bytes = tail;
    let name = std::str::from_utf8(name).map_err(|_| Error::Protocol("a name is not UTF-8"))?;
    Ok(Some(name.to_owned()))
}

/// Reads a header, whose version byte may be in `buffer` already.
pub(crate) async fn read_header<R>(reader: &mut R, buffer: &mut BytesMut) -> Result<Header, Error>
where
    R: AsyncRead + Unpin + ?Sized,
{
    loop {
        if let Some(header) = header(buffer)? {
            return Ok(header);
        }
        buffer.reserve(FIRST_READ_BYTES);
        if read(reader, buffer).await? == 0 {
            return Err(Error::Protocol("the peer ended in the middle of a header"));
        }
    }
}

/// Reads the next data of a body; `None` where the peer ended it.
pub(crate) async fn read_data<R>(
    reader: &mut R,
    buffer: &mut BytesMut,
    frames: &mut Frames,
) -> Result<Option<Bytes>, Error>
where
    R: AsyncRead + Unpin + ?Sized,
{
    loop {
        if let Some(data) = frames.next(buffer)? {
            return Ok(Some(data));
        }
        // As much as is known to come, in bounds.
        buffer.reserve(frames.missing().clamp(FIRST_READ_BYTES, MAX_READ_BYTES));
        if read(reader, buffer).await? == 0 {
            return match buffer.is_empty() && frames.is_whole() {
                true => Ok(None),
                false => Err(Error::Protocol("the peer ended in the middle of a frame")),
            };
        }
    }
}

async fn read<R>(reader: &mut R, buffer: &mut BytesMut) -> Result<usize, Error>
where
    R: AsyncRead + Unpin + ?Sized,
{
    reader.read_buf(buffer).await.map_err(Error::lost)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use wrpc_transport::frame::encode_invocation;

    use super::*;
    use crate::Body;

    fn take_header(bytes: &[u8]) -> Result<Option<Header>, Error> {
        header(&mut BytesMut::from(bytes))
    }

    #[test]
    fn names_are_bounded_before_they_are_read() {
        assert!(take_header(b"").expect("not yet").is_none());
        assert!(take_header(b"\x00\x01a").expect("not yet").is_none());
        assert!(take_header(b"\x01").is_err(), "a version");
        assert!(take_header(b"\x00\xff\xff\xff\xff\x0f").is_err(), "4 GiB");
        assert!(
            take_header(b"\x00\xff\xff\xff\xff\xff").is_err(),
            "a number without end"
        );
        assert!(take_header(b"\x00\x81\x02").is_err(), "257 bytes");
        assert!(take_header(b"\x00\x02\xff\xff\x00").is_err(), "no UTF-8");
    }

    proptest! {
        #[test]
        fn an_invocation_is_read_as_wrpc_writes_it(
            instance in "[a-z:/@0-9.]{0,60}",
            func in "[a-z-]{0,40}",
            params in vec(any::<u8>(), 0..5000),
            step in 1_usize..700,
        ) {
            let mut written = BytesMut::new();
            encode_invocation(&mut written, &instance, &func, params.len()).expect("it is small");
            written.extend_from_slice(&params);
            let mut bytes = BytesMut::new();
            let mut seen = None;
            let mut frames = Frames::new(Body::Parameters, params.len());
            let mut body = Vec::new();
            for piece in written.chunks(step) {
                bytes.extend_from_slice(piece);
                if seen.is_none() {
                    seen = header(&mut bytes).expect("well formed");
                }
                if seen.is_some() {
                    while let Some(data) = frames.next(&mut bytes).expect("well formed") {
                        body.extend_from_slice(&data);
                    }
                }
            }
            prop_assert_eq!(seen, Some(Header { instance, func }));
            prop_assert_eq!(body, params);
            prop_assert!(frames.is_whole() && bytes.is_empty());
        }

        #[test]
        fn any_bytes_end_in_data_or_an_error(bytes in vec(any::<u8>(), 0..100)) {
            let total = bytes.len();
            let mut bytes = BytesMut::from(&bytes[..]);
            if let Ok(Some(_)) = header(&mut bytes) {
                let mut frames = Frames::new(Body::Parameters, 64);
                let mut taken = 0;
                while let Ok(Some(data)) = frames.next(&mut bytes) {
                    taken += data.len();
                }
                prop_assert!(taken <= total.min(64));
            }
        }
    }
}
