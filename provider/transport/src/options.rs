//! Limits and deadlines of one lattice connection.

use std::time::Duration;

use crate::{Error, InboxPrefix};

const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Limits and deadlines. Every queue of the adapter has one.
///
/// # Memory
/// All bodies that the adapter holds at a time take their bytes from two allowances of `buffered_bytes`: parameters until they
/// are decoded, and results of our own calls until they are complete; results of invocations until the peer is known to listen.
/// Outside of it are the values that a handler itself holds (at most `in_flight` for each function), one copy of a body
/// while generated bindings decode it, and two queues bounded by number of messages: of what is handed to the NATS
/// client together (512), and the client's own, see [`crate::connect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// For a call that does not bring its own deadline. From before it is sent until its result is complete.
    pub call_deadline: Duration,
    /// For an invocation, from its arrival until its handler returned. A sender that stalls in mid-body is cut off by it.
    pub serve_deadline: Duration,
    /// Largest parameters or result, in bytes.
    pub max_body_bytes: usize,
    /// Bytes of all bodies held at a time, of parameters and of results each.
    pub buffered_bytes: usize,
    /// Handlers running at a time, for each served function.
    pub in_flight: usize,
    /// Invocations waiting for a permit of those, for each served function. One more is refused.
    pub queued: usize,
    /// Calls of all clients of this lattice at a time. One more waits, at most until its deadline.
    pub calls: usize,
    /// A peer that has not shown within this time that it listens is sent everything again, then after 4, 16 and 64
    /// times as long. A client of wrpc-transport-nats 0.29 can miss a reply that is faster than its own subscription.
    pub repeat_after: Duration,
    /// Where peers of a lattice may want their answers, besides inboxes like those of its own connection. A message
    /// whose reply subject lies elsewhere is dropped.
    pub inbox_prefixes: Vec<InboxPrefix>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            call_deadline: Duration::from_secs(10),
            serve_deadline: Duration::from_secs(10),
            max_body_bytes: 16 << 20,
            buffered_bytes: 64 << 20,
            in_flight: 256,
            queued: 1024,
            calls: 1024,
            repeat_after: Duration::from_millis(10),
            inbox_prefixes: vec![InboxPrefix::default()],
        }
    }
}

impl Options {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let longest = u32::MAX as usize;
        let rules = [
            ("call_deadline", "above zero", !self.call_deadline.is_zero()),
            ("serve_deadline", "above zero", !self.serve_deadline.is_zero()),
            ("repeat_after", "above zero", !self.repeat_after.is_zero()),
            ("in_flight", "above zero", self.in_flight > 0),
            ("calls", "above zero", self.calls > 0),
            // A length on the wire has 32 bits.
            (
                "max_body_bytes",
                "from 1 to 4294967295",
                (1..=longest).contains(&self.max_body_bytes),
            ),
            (
                "buffered_bytes",
                "at least max_body_bytes, up to 4294967295",
                (self.max_body_bytes..=longest).contains(&self.buffered_bytes),
            ),
        ];
        match rules.into_iter().find(|(_, _, holds)| !holds) {
            Some((name, expected, _)) => Err(Error::Options { name, expected }),
            None => Ok(()),
        }
    }

    /// For sending an answer, every repeat included: a connection that is down must not keep an invocation for good.
    pub(crate) fn answer_deadline(&self) -> Duration {
        self.repeats().iter().sum::<Duration>() + ANSWER_DEADLINE
    }

    /// The waits before each repeat.
    pub(crate) fn repeats(&self) -> [Duration; 4] {
        [1, 4, 16, 64].map(|factor| self.repeat_after * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_and_nonsense_is_named() {
        assert!(Options::default().check().is_ok());
        let bad = Options {
            buffered_bytes: 1,
            ..Options::default()
        };
        assert!(matches!(
            bad.check(),
            Err(Error::Options {
                name: "buffered_bytes",
                ..
            })
        ));
    }
}
