//! The frames of a session: many calls at a time on one byte stream, with what stock framing has no place for.
//!
//! A caller opens with [`HELLO`] and waits for the server's greeting; so an unwelcome caller learns of it before its
//! first call. Then each side sends frames: a kind, the number of a call, a length, a payload. The caller gives the
//! numbers. Closing its sending side ends the session, and cancels what is under way.
//!
//! [`HELLO`] can't begin a stock invocation, so both are spoken on the same port.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::caller::{self, MAX_ID_BYTES};
use crate::failure::{Failure, one_line};
use crate::{CallContext, Error, Resource};

/// What a session begins with. Its first byte is no version of wRPC's framing, its last one the version of ours.
pub(crate) const HELLO: [u8; 8] = *b"\xfafanout\x01";
/// The server's greeting: [`HELLO`], then three numbers of 32 bits.
pub(crate) const GREETING_BYTES: usize = HELLO.len() + 12;
/// A larger body is sent in pieces of this size, between which pieces of other calls are sent.
pub(crate) const PIECE_BYTES: usize = 32 << 10;
/// Largest payload of a frame: a piece of a body and what goes with a call.
pub(crate) const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// Kind, number and length.
pub(crate) const HEAD_BYTES: usize = 9;

const MAX_CONTEXT_BYTES: usize = 4 << 10;

/// A server's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Greeting {
    /// Largest parameters that it takes.
    pub(crate) max_body_bytes: u32,
    /// Calls at a time that it takes in one session.
    pub(crate) calls: u32,
    /// It ends a session that was silent for this time.
    pub(crate) idle_ms: u32,
}

impl Greeting {
    pub(crate) fn encode(self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        let mut rest = &mut bytes[..];
        rest.put_slice(&HELLO);
        rest.put_u32(self.max_body_bytes);
        rest.put_u32(self.calls);
        rest.put_u32(self.idle_ms);
        bytes
    }

    pub(crate) fn decode(bytes: [u8; GREETING_BYTES]) -> Result<Self, Error> {
        let mut rest = bytes.strip_prefix(&HELLO).ok_or(Error::Protocol(
            "the peer does not greet: it is no server of this crate",
        ))?;
        Ok(Self {
            max_body_bytes: rest.get_u32(),
            calls: rest.get_u32().max(1),
            idle_ms: rest.get_u32(),
        })
    }
}

/// What a frame means. `end` goes for the last or only piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of the caller: a call, with (the first piece of) its parameters.
    Call {
        end: bool,
    },
    /// The next piece of a body.
    Piece {
        end: bool,
    },
    /// Of the caller: it no longer waits for this call.
    Cancel,
    /// Of the server: (the first piece of) a result.
    Result {
        end: bool,
    },
    /// Of the server: why there is no result.
    Failed,
    /// Answered by `Pong`.
    Ping,
    Pong,
    /// Of the server: it takes no new calls. Those under way are answered. It may give the reason, where it does not end
    /// itself.
    Leaving,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Call { end } => 0x10 | u8::from(end),
            Self::Piece { end } => 0x20 | u8::from(end),
            Self::Cancel => 0x30,
            Self::Result { end } => 0x40 | u8::from(end),
            Self::Failed => 0x50,
            Self::Ping => 0x60,
            Self::Pong => 0x61,
            Self::Leaving => 0x70,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        let end = byte & 1 == 1;
        Some(match byte {
            0x10 | 0x11 => Self::Call { end },
            0x20 | 0x21 => Self::Piece { end },
            0x30 => Self::Cancel,
            0x40 | 0x41 => Self::Result { end },
            0x50 => Self::Failed,
            0x60 => Self::Ping,
            0x61 => Self::Pong,
            0x70 => Self::Leaving,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) call: u32,
    pub(crate) payload: Bytes,
}

/// A payload up to this size is copied, so that the read buffer can be used again and no small body keeps it alive.
const COPIED_BYTES: usize = 8 << 10;

/// Takes a frame from the front of `bytes`; `None` if there has to be more.
pub(crate) fn decode(bytes: &mut BytesMut) -> Result<Option<Frame>, Error> {
    let Some((kind, call, length)) = head(bytes)? else {
        return Ok(None);
    };
    if bytes.len() < HEAD_BYTES + length {
        bytes.reserve(HEAD_BYTES + length - bytes.len());
        return Ok(None);
    }
    bytes.advance(HEAD_BYTES);
    let payload = if length <= COPIED_BYTES {
        let payload = Bytes::copy_from_slice(&bytes[..length]);
        bytes.advance(length);
        payload
    } else {
        bytes.split_to(length).freeze()
    };
    Ok(Some(Frame { kind, call, payload }))
}

/// What a frame begins with: its kind, the number of its call, and the length of its payload.
fn head(bytes: &[u8]) -> Result<Option<(Kind, u32, usize)>, Error> {
    let Some(mut head) = bytes.get(..HEAD_BYTES) else {
        return Ok(None);
    };
    let kind = Kind::from_byte(head.get_u8()).ok_or(Error::Protocol("a frame of an unknown kind"))?;
    let call = head.get_u32();
    let length = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
    if length > MAX_PAYLOAD_BYTES {
        return Err(Error::Protocol("a frame is too long"));
    }
    Ok(Some((kind, call, length)))
}

/// Puts a frame whose payload is in two parts.
pub(crate) fn encode(bytes: &mut BytesMut, kind: Kind, call: u32, first: &[u8], second: &[u8]) {
    let length = first.len() + second.len();
    debug_assert!(length <= MAX_PAYLOAD_BYTES, "bodies are cut into pieces");
    bytes.reserve(HEAD_BYTES + length);
    bytes.put_u8(kind.byte());
    bytes.put_u32(call);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(first);
    bytes.put_slice(second);
}

/// What goes with a call besides its parameters, in front of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Invocation {
    pub(crate) instance: String,
    pub(crate) func: String,
    /// 0: the server's.
    pub(crate) deadline_ms: u32,
    pub(crate) link: Option<String>,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

/// Encodes an [`Invocation`]: its length, a deadline, then texts, each behind its length. An absent text is empty.
pub(crate) fn encode_invocation(
    instance: &str,
    func: &str,
    deadline_ms: u32,
    cx: &CallContext,
) -> Result<BytesMut, Error> {
    let texts = [
        instance,
        func,
        cx.link.as_deref().unwrap_or_default(),
        cx.traceparent.as_deref().unwrap_or_default(),
        cx.tracestate.as_deref().unwrap_or_default(),
    ];
    let length = 4 + texts.iter().map(|text| 2 + text.len()).sum::<usize>();
    let too_long = || Error::Encode("a name or the trace context is too long".into());
    if texts[..3].iter().any(|text| text.len() > MAX_ID_BYTES) || length > MAX_CONTEXT_BYTES {
        return Err(too_long());
    }
    let mut bytes = BytesMut::with_capacity(2 + length);
    bytes.put_u16(u16::try_from(length).map_err(|_| too_long())?);
    bytes.put_u32(deadline_ms);
    for text in texts {
        bytes.put_u16(u16::try_from(text.len()).map_err(|_| too_long())?);
        bytes.put_slice(text.as_bytes());
    }
    Ok(bytes)
}

/// Takes an [`Invocation`] from the front of a call's payload; what is left is (the first piece of) its parameters.
/// What a later version adds behind the texts is skipped.
pub(crate) fn decode_invocation(payload: &mut Bytes) -> Result<Invocation, Error> {
    const CUT: Error = Error::Protocol("a call's context is cut");
    let length = usize::from(payload.try_get_u16().map_err(|_| CUT)?);
    if length > MAX_CONTEXT_BYTES || length > payload.len() {
        return Err(CUT);
    }
    let mut context = payload.split_to(length);
    let deadline_ms = context.try_get_u32().map_err(|_| CUT)?;
    let mut text = || -> Result<String, Error> {
        let length = usize::from(context.try_get_u16().map_err(|_| CUT)?);
        if length > context.len() {
            return Err(CUT);
        }
        let text = context.split_to(length);
        let text = std::str::from_utf8(&text).map_err(|_| Error::Protocol("a call's context is not UTF-8"))?;
        Ok(text.to_owned())
    };
    let (instance, func, link) = (text()?, text()?, text()?);
    let (traceparent, tracestate) = (text()?, text()?);
    if [&instance, &func, &link].iter().any(|name| name.len() > MAX_ID_BYTES) {
        return Err(Error::Protocol("a name is too long"));
    }
    Ok(Invocation {
        instance,
        func,
        deadline_ms,
        link: Some(link).filter(|link| !link.is_empty()),
        traceparent: caller::traceparent(&traceparent).map(str::to_owned),
        tracestate: caller::tracestate(Some(&tracestate)),
    })
}

/// A failure as the payload of [`Kind::Failed`].
pub(crate) fn encode_failure(failure: &Failure) -> Vec<u8> {
    let (kind, reason) = match failure {
        Failure::Failed(reason) => (b'f', reason.as_str()),
        Failure::Busy => (b'b', ""),
        Failure::Nobody => (b'n', ""),
        Failure::Leaving => (b'l', ""),
    };
    let mut payload = vec![kind];
    payload.extend_from_slice(one_line(String::new(), reason).as_bytes());
    payload
}

/// What a caller makes of a failure. [`Error::Leaving`] never leaves this crate's client.
pub(crate) fn decode_failure(payload: &[u8]) -> Error {
    match payload.split_first() {
        Some((b'b', _)) => Error::Busy(Resource::Target),
        Some((b'n', _)) => Error::NoResponders,
        Some((b'l', _)) => Error::Leaving,
        Some((b'f', reason)) => Error::Remote(one_line(String::new(), &String::from_utf8_lossy(reason))),
        _ => Error::Protocol("a failure of an unknown kind"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            any::<bool>().prop_map(|end| Kind::Call { end }),
            any::<bool>().prop_map(|end| Kind::Piece { end }),
            any::<bool>().prop_map(|end| Kind::Result { end }),
            Just(Kind::Cancel),
            Just(Kind::Failed),
            Just(Kind::Ping),
            Just(Kind::Pong),
            Just(Kind::Leaving),
        ]
    }

    #[test]
    fn a_claim_of_four_gib_is_refused_before_anything_is_reserved() {
        let mut bytes = BytesMut::from(&b"\x11\x00\x00\x00\x01\xff\xff\xff\xff"[..]);
        let capacity = bytes.capacity();
        assert!(decode(&mut bytes).is_err());
        assert_eq!(bytes.capacity(), capacity);
    }

    #[test]
    fn a_greeting_is_read_as_it_was_written() {
        let greeting = Greeting {
            max_body_bytes: 7,
            calls: 8,
            idle_ms: 9,
        };
        assert_eq!(Greeting::decode(greeting.encode()).expect("well formed"), greeting);
        assert!(Greeting::decode([0; GREETING_BYTES]).is_err());
    }

    #[test]
    fn failures_keep_their_meaning() {
        for (failure, outcome) in [
            (Failure::Busy, crate::Outcome::NotStarted),
            (Failure::Nobody, crate::Outcome::NotStarted),
            (Failure::Leaving, crate::Outcome::NotStarted),
            (Failure::Failed("why".into()), crate::Outcome::Failed),
        ] {
            assert_eq!(decode_failure(&encode_failure(&failure)).outcome(), outcome);
        }
        let failure = encode_failure(&Failure::Failed("two\r\nlines".into()));
        assert!(matches!(decode_failure(&failure), Error::Remote(reason) if reason == "two  lines"));
        assert_eq!(decode_failure(b"").outcome(), crate::Outcome::Unknown);
    }

    proptest! {
        #[test]
        fn frames_are_read_as_they_were_written(
            frames in vec((kinds(), any::<u32>(), vec(any::<u8>(), 0..20_000)), 0..6),
            step in 1_usize..9000,
        ) {
            let mut written = BytesMut::new();
            for (kind, call, payload) in &frames {
                let (first, second) = payload.split_at(payload.len() / 3);
                encode(&mut written, *kind, *call, first, second);
            }
            let mut bytes = BytesMut::new();
            let mut read = Vec::new();
            for piece in written.chunks(step) {
                bytes.extend_from_slice(piece);
                while let Some(frame) = decode(&mut bytes).expect("well formed") {
                    read.push((frame.kind, frame.call, frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(&read, &frames);
        }

        #[test]
        fn a_call_is_read_as_it_was_written(
            instance in "[a-z:/@0-9.]{0,60}",
            func in "[a-z-]{0,40}",
            deadline_ms in any::<u32>(),
            link in proptest::option::of("[a-z]{1,20}"),
            traceparent in proptest::option::of("00-1[0-9a-f]{31}-[0-9a-f]{15}1-[0-9a-f]{2}"),
            tracestate in proptest::option::of("[a-z=]{1,60}"),
            params in vec(any::<u8>(), 0..200),
        ) {
            let cx = CallContext {
                link: link.clone(),
                traceparent: traceparent.clone(),
                tracestate: tracestate.clone(),
                ..CallContext::default()
            };
            let mut payload = encode_invocation(&instance, &func, deadline_ms, &cx).expect("short");
            payload.extend_from_slice(&params);
            let mut payload = payload.freeze();
            let call = decode_invocation(&mut payload).expect("well formed");
            prop_assert_eq!(call, Invocation { instance, func, deadline_ms, link, traceparent, tracestate });
            prop_assert_eq!(payload, params);
        }

        #[test]
        fn any_bytes_end_in_frames_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(mut frame)) = decode(&mut bytes) {
                if matches!(frame.kind, Kind::Call { .. })
                    && let Ok(call) = decode_invocation(&mut frame.payload)
                {
                    prop_assert!(call.instance.len() <= MAX_ID_BYTES);
                }
            }
        }
    }
}
