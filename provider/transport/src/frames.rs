//! wRPC's frames: a path, a length, data. Frames of the root path are the parameters of an invocation, or its result;
//! others belong to WIT streams and futures, which are refused.
//!
//! Nothing is reserved for what a peer claims: data counts as it comes.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::failure::too_large;
use crate::{Body, Error};

/// A root path, and a length of at most 5 bytes.
const MAX_HEAD_BYTES: usize = 6;

/// Takes a number of at most 32 bits.
pub(crate) fn leb128(bytes: &mut &[u8]) -> Result<Option<u32>, Error> {
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

/// What a frame of the root path begins with.
pub(crate) fn head(data: usize, body: Body) -> Result<Bytes, Error> {
    let mut length = u32::try_from(data).map_err(|_| too_large(body, data, u32::MAX as usize))?;
    let mut head = BytesMut::with_capacity(MAX_HEAD_BYTES);
    head.put_u8(0);
    loop {
        // The low 7 bits; the mask makes the conversion exact.
        let bits = (length & 0x7f) as u8;
        length >>= 7;
        if length == 0 {
            head.put_u8(bits);
            return Ok(head.freeze());
        }
        head.put_u8(bits | 0x80);
    }
}

/// A body as one frame.
pub(crate) fn encode(data: &[u8], body: Body) -> Result<BytesMut, Error> {
    let head = head(data.len(), body)?;
    let mut bytes = BytesMut::with_capacity(head.len() + data.len());
    bytes.put_slice(&head);
    bytes.put_slice(data);
    Ok(bytes)
}

/// Takes apart the frames of the root path.
#[derive(Debug)]
pub(crate) struct Frames {
    body: Body,
    limit: usize,
    taken: usize,
    /// Bytes of the frame that is being read.
    left: usize,
}

impl Frames {
    pub(crate) fn new(body: Body, limit: usize) -> Self {
        Self {
            body,
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
                return Err(too_large(self.body, self.taken, self.limit));
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

    /// Bytes that the frame that is being read still lacks.
    pub(crate) fn missing(&self) -> usize {
        self.left
    }

    /// True between frames.
    pub(crate) fn is_whole(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_paths_of_the_largest_number_are_refused() {
        let mut frames = Frames::new(Body::Parameters, 1 << 20);
        let mut bytes = BytesMut::from(&b"\x00\xff\xff\xff\xff\x0f"[..]);
        assert!(matches!(frames.next(&mut bytes), Err(Error::TooLarge { .. })));
        let mut frames = Frames::new(Body::Parameters, 1 << 20);
        let mut bytes = BytesMut::from(&b"\xff\xff\xff\xff\x0f"[..]);
        assert!(matches!(frames.next(&mut bytes), Err(Error::Unsupported(_))));
    }
}
