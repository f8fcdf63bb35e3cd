//! Many calls of one target in one message of the lattice, and many answers in one.
//!
//! What a small call over NATS costs is nearly all its messages: each is written, routed and read by three processes.
//! Calls that are made at the same time go together, as frames of a session ([`crate::session::codec`]) in a message on a
//! function of their own, [`FUNC`] of [`INSTANCE`]. Each is still a call by itself, with its own deadline, link, trace and
//! answer; answers that are ready at the same time come back together.
//!
//! Only servers of this crate know of it, so a caller asks first ([`crate::target`]), by an empty message that is answered
//! with an empty one. Where nobody serves it, NATS says so at once ("no responders"), and the calls go by themselves.
//!
//! The reply subject of a bundle is `{inbox}b.{number}`, and the number of a call in it that of its mailbox: its answer may
//! be a frame in a message on the reply subject of any bundle of that inbox, or a message of its own on `{inbox}{call}`.

use async_nats::Subject;
use bytes::{Bytes, BytesMut};

use crate::session::codec::{self, Frame, HEAD_BYTES, Kind};
use crate::{Error, Inboxes, ReplyTo};

/// Where bundles go, in the place of a WIT interface.
pub(crate) const INSTANCE: &str = "fanout:transport/calls@0.1.0";
/// And of a function.
pub(crate) const FUNC: &str = "bundle";
/// Calls or answers that go together. More would move less between the instances of a target.
pub(crate) const MOST_FRAMES: usize = 16;
/// A larger body goes by itself: a message costs little beside it.
const MOST_BODY_BYTES: usize = 16 << 10;
/// A bundle that has so many bytes takes no more.
const FULL_BYTES: usize = 64 << 10;
/// More than any version sends.
const MOST_FRAMES_TAKEN: usize = 256;
/// What a reply subject has between the inbox and a bundle's number.
const MARK: &str = "b.";

/// Whether a body of so many bytes goes in a bundle, where a message may have `max_payload`: with what goes with it, it has to
/// fit into one.
pub(crate) fn takes(bytes: usize, max_payload: usize) -> bool {
    bytes <= MOST_BODY_BYTES.min(max_payload / 4)
}

/// The subject on which a bundle is answered, or told that nobody takes it.
pub(crate) fn reply_subject(inbox: &str, number: u32) -> Subject {
    Subject::from(format!("{inbox}{MARK}{number:x}"))
}

/// Of a subject behind the inbox, the number of the bundle.
pub(crate) fn number(address: &str) -> Option<u32> {
    u32::from_str_radix(address.strip_prefix(MARK)?, 16).ok()
}

/// The caller's inbox, of the reply subject of a bundle; `None` for one that is none.
pub(crate) fn inbox(reply: &str) -> Option<&str> {
    let (inbox, number) = reply.rsplit_once(MARK)?;
    (inbox.ends_with('.') && u32::from_str_radix(number, 16).is_ok()).then_some(inbox)
}

/// Where one call of a bundle is answered by itself; `None` if the bundle's reply subject is none, or what it is made
/// of no inbox.
pub(crate) fn own_reply(inboxes: &Inboxes, reply: &ReplyTo, call: u32) -> Option<ReplyTo> {
    inboxes.reply_at(format!("{}{call:x}", inbox(reply.subject())?))
}

/// The frames of a message. None of them is a part of a body.
pub(crate) fn decode(message: Bytes) -> Result<Vec<Frame>, Error> {
    let frames = codec::decode_all(message, MOST_FRAMES_TAKEN)?;
    let whole = |frame: &Frame| {
        matches!(
            frame.kind,
            Kind::Call { end: true } | Kind::Result { end: true } | Kind::Failed
        )
    };
    if frames.iter().all(whole) {
        return Ok(frames);
    }
    Err(Error::Protocol("a bundle has whole calls or answers"))
}

/// A message that is being filled.
#[derive(Debug, Default)]
pub(crate) struct Bundle {
    /// The calls in it.
    calls: Vec<u32>,
    bytes: BytesMut,
}

impl Bundle {
    /// Adds a call or an answer; the payload in two parts.
    pub(crate) fn push(&mut self, kind: Kind, call: u32, first: &[u8], second: &[u8]) {
        codec::encode(&mut self.bytes, kind, call, first, second);
        self.calls.push(call);
    }

    /// Whether a frame of so many bytes goes into another message, which may have at most `max_payload`.
    pub(crate) fn is_full_for(&self, bytes: usize, max_payload: usize) -> bool {
        let full = FULL_BYTES.min(max_payload / 2);
        self.calls.len() == MOST_FRAMES || (!self.calls.is_empty() && self.bytes.len() + HEAD_BYTES + bytes > full)
    }

    /// The message, and its calls.
    pub(crate) fn into_parts(self) -> (Bytes, Vec<u32>) {
        (self.bytes.freeze(), self.calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InboxPrefix;

    const INBOX: &str = "_INBOX.abc.";

    #[test]
    fn a_reply_subject_names_the_inbox_and_the_bundle() {
        let reply = reply_subject(INBOX, 0x1f);
        assert_eq!(reply.as_str(), "_INBOX.abc.b.1f");
        assert_eq!(reply.strip_prefix(INBOX).and_then(number), Some(0x1f));
        let inboxes = Inboxes::new([InboxPrefix::default()]);
        let own = |reply: &str| {
            let reply = inboxes.reply_at(reply.to_owned()).expect("an inbox");
            own_reply(&inboxes, &reply, 0xab).map(|own| own.subject().to_string())
        };
        assert_eq!(own(&reply).as_deref(), Some("_INBOX.abc.ab"));
        assert_eq!(own("_INBOX.abc.1"), None);
        assert_eq!(own("_INBOX.b.1").as_deref(), Some("_INBOX.ab"));
        let below = Inboxes::new([InboxPrefix::parse("_INBOX.b").expect("a prefix")]);
        let reply = below.reply_at("_INBOX.b.1".to_owned()).expect("an inbox");
        assert_eq!(own_reply(&below, &reply, 1), None, "it would be none of these inboxes");
        for other in [
            "",
            "b.1",
            "_INBOX.abc.1f",
            "_INBOX.ab.1f",
            "_INBOX.abc.b.x",
            "_INBOX.abcb.1",
        ] {
            assert_eq!(inbox(other), None, "{other}");
        }
        assert_eq!(number("1f"), None);
    }

    #[test]
    fn a_bundle_is_bounded_and_takes_at_least_one() {
        let mut bundle = Bundle::default();
        assert!(!bundle.is_full_for(MOST_BODY_BYTES, 1), "one alone always goes");
        for call in 0..u32::try_from(MOST_FRAMES).expect("few") {
            assert!(!bundle.is_full_for(100, 1 << 20));
            bundle.push(Kind::Call { end: true }, call, b"context", &[0; 100]);
        }
        assert!(bundle.is_full_for(0, 1 << 20));
        let (message, calls) = bundle.into_parts();
        assert_eq!(calls.len(), MOST_FRAMES);
        assert_eq!(decode(message).expect("well formed").len(), MOST_FRAMES);

        let mut bundle = Bundle::default();
        bundle.push(Kind::Failed, 1, &[0; MOST_BODY_BYTES], &[]);
        assert!(bundle.is_full_for(100, MOST_BODY_BYTES * 2));
        assert!(!bundle.is_full_for(100, MOST_BODY_BYTES * 4));
        assert!(bundle.is_full_for(FULL_BYTES, usize::MAX));
    }

    #[test]
    fn a_body_that_goes_in_a_bundle_fits_into_a_message() {
        assert!(takes(MOST_BODY_BYTES, 1 << 20) && !takes(MOST_BODY_BYTES + 1, 1 << 20));
        assert!(takes(2 << 10, 8 << 10) && !takes((2 << 10) + 1, 8 << 10));
    }

    #[test]
    fn what_is_no_whole_call_or_answer_is_refused() {
        for kind in [
            Kind::Call { end: false },
            Kind::Piece { end: true },
            Kind::Result { end: false },
            Kind::Cancel,
            Kind::Ping,
            Kind::Leaving,
        ] {
            let mut bundle = Bundle::default();
            bundle.push(Kind::Failed, 1, &[], &[]);
            bundle.push(kind, 2, &[], &[]);
            assert!(decode(bundle.into_parts().0).is_err(), "{kind:?}");
        }
    }
}
