//! wRPC's own framing, as a stock peer speaks it: one invocation, one byte stream.
//!
//! A header (version 0, instance, function), then frames: a path, a length, data. Frames of the root path are the
//! parameters, or the result; others belong to WIT streams, which are refused. The sender ends by closing its side.
//!
//! Nothing is reserved for what a peer claims: a name has at most 256 bytes, a path none, and data counts as it comes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::caller::MAX_ID_BYTES;
use crate::{Error, Part, wire};

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

/// Takes a number of at most 32 bits.
fn leb128(bytes: &mut &[u8]) -> Result<Option<u32>, Error> {
    let mut value = 0_u64;
    for (i, &byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if value > u64::from(u32::MAX) || i > 4 {
            return Err(Error::Protocol("a length has more than 32 bits"));
        }
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Ok(u32::try_from(value).ok());
        }
    }
    // Five bytes end a number.
    if bytes.len() > 4 {
        return Err(Error::Protocol("a length has more than 32 bits"));
    }
    Ok(None)
}

fn put_leb128(bytes: &mut BytesMut, mut value: u32) {
    loop {
        // The low 7 bits; the mask makes the conversion exact.
        let bits = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return bytes.put_u8(bits);
        }
        bytes.put_u8(bits | 0x80);
    }
}

/// Takes apart the frames of the root path.
#[derive(Debug)]
pub(crate) struct Frames {
    part: Part,
    limit: usize,
    taken: usize,
    /// Of the frame that is being read.
    left: usize,
}

impl Frames {
    pub(crate) fn new(part: Part, limit: usize) -> Self {
        Self {
            part,
            limit,
            taken: 0,
            left: 0,
        }
    }

    /// The next data of the body, if there is some at the front of `bytes`; empty only for an empty frame.
    pub(crate) fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Bytes>, Error> {
        if self.left == 0 {
            let mut rest = &bytes[..];
            let Some(path) = leb128(&mut rest)? else {
                return Ok(None);
            };
            if path != 0 {
                return Err(Error::Unsupported("WIT streams and futures"));
            }
            let Some(length) = leb128(&mut rest)? else {
                return Ok(None);
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            self.taken = self.taken.saturating_add(length);
            if self.taken > self.limit {
                return Err(wire::too_large(self.part, self.taken, self.limit));
            }
            let used = bytes.len() - rest.len();
            bytes.advance(used);
            self.left = length;
            if length == 0 {
                return Ok(Some(Bytes::new()));
            }
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let data = bytes.split_to(bytes.len().min(self.left));
        self.left -= data.len();
        Ok(Some(data.freeze()))
    }

    /// True between frames.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0
    }
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
        buffer.reserve(frames.left.clamp(FIRST_READ_BYTES, MAX_READ_BYTES));
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

/// An invocation with all its parameters.
pub(crate) fn invocation(instance: &str, func: &str, params: &[u8]) -> Result<BytesMut, Error> {
    let mut bytes = BytesMut::with_capacity(instance.len() + func.len() + params.len() + 24);
    bytes.put_u8(VERSION);
    for name in [instance, func] {
        put_leb128(&mut bytes, length(name.len(), Part::Parameters)?);
        bytes.put_slice(name.as_bytes());
    }
    put_root(&mut bytes, params, Part::Parameters)?;
    Ok(bytes)
}

/// One frame of the root path.
pub(crate) fn body(data: &[u8], part: Part) -> Result<BytesMut, Error> {
    let mut bytes = BytesMut::with_capacity(data.len() + 6);
    put_root(&mut bytes, data, part)?;
    Ok(bytes)
}

fn put_root(bytes: &mut BytesMut, data: &[u8], part: Part) -> Result<(), Error> {
    bytes.put_u8(0);
    put_leb128(bytes, length(data.len(), part)?);
    bytes.put_slice(data);
    Ok(())
}

fn length(bytes: usize, part: Part) -> Result<u32, Error> {
    u32::try_from(bytes).map_err(|_| wire::too_large(part, bytes, u32::MAX as usize))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

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

    #[test]
    fn lengths_and_paths_of_the_largest_number_are_refused() {
        let mut frames = Frames::new(Part::Parameters, 1 << 20);
        let mut bytes = BytesMut::from(&b"\x00\xff\xff\xff\xff\x0f"[..]);
        assert!(matches!(frames.next(&mut bytes), Err(Error::TooLarge { .. })));
        let mut frames = Frames::new(Part::Parameters, 1 << 20);
        let mut bytes = BytesMut::from(&b"\xff\xff\xff\xff\x0f"[..]);
        assert!(matches!(frames.next(&mut bytes), Err(Error::Unsupported(_))));
    }

    proptest! {
        #[test]
        fn an_invocation_is_read_as_it_was_written(
            instance in "[a-z:/@0-9.]{0,60}",
            func in "[a-z-]{0,40}",
            params in vec(any::<u8>(), 0..5000),
            step in 1_usize..700,
        ) {
            let written = invocation(&instance, &func, &params).expect("it is small");
            let mut bytes = BytesMut::new();
            let mut seen = None;
            let mut frames = Frames::new(Part::Parameters, params.len());
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
                let mut frames = Frames::new(Part::Parameters, 64);
                let mut taken = 0;
                while let Ok(Some(data)) = frames.next(&mut bytes) {
                    taken += data.len();
                }
                prop_assert!(taken <= total.min(64));
            }
        }
    }
}
