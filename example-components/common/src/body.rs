//! Reading a request's body, no further than allowed.

use std::io::{self, Read};

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than allowed.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// How long it may be.
        limit: usize,
    },
    /// The sender went away, or the host failed.
    #[error("the body could not be read to its end")]
    Interrupted(#[source] io::Error),
}

/// Reads the whole body, or at most `limit` + 1 bytes of it.
///
/// A length that the sender declares is not asked: it may be absent, or wrong.
pub fn read(body: impl Read, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    let up_to = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    body.take(up_to)
        .read_to_end(&mut bytes)
        .map_err(BodyError::Interrupted)?;
    if bytes.len() > limit {
        Err(BodyError::TooLarge { limit })
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sender that never stops, and counts what was taken from it.
    struct Endless(usize);

    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += buffer.len();
            buffer.fill(b'a');
            Ok(buffer.len())
        }
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }

    #[test]
    fn a_body_up_to_the_limit_is_read() {
        assert_eq!(read(&b""[..], 0).unwrap(), b"");
        assert_eq!(read(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(matches!(read(&b"abcd"[..], 3), Err(BodyError::TooLarge { limit: 3 })));
    }

    #[test]
    fn no_more_than_one_byte_over_the_limit_is_taken() {
        let mut sender = Endless(0);
        assert!(matches!(
            read(&mut sender, 1000),
            Err(BodyError::TooLarge { limit: 1000 })
        ));
        assert_eq!(sender.0, 1001);
    }

    #[test]
    fn half_a_body_is_no_body() {
        assert!(matches!(
            read((&b"abc"[..]).chain(Broken), 10),
            Err(BodyError::Interrupted(_))
        ));
    }
}
