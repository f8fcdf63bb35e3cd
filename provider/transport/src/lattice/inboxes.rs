//! Where answers may go: to inboxes, and nowhere else.
//!
//! Whoever sends a request over NATS names the subject of the answer, and the answer is published with the rights of
//! whoever answers. So a subject that a peer chose is published to only below an inbox prefix: a request whose reply subject is
//! `$JS.API.STREAM.DELETE.log`, or one of a tenant's, is dropped and counted. [`Inboxes`] alone decides that, and
//! [`ReplyTo`] is its permission: whatever answers takes one of those, or a subject of its own.

use std::sync::Arc;

use async_nats::{Client, Message, Subject};
use bytes::Bytes;

use crate::inbox_prefix::is_plain;
use crate::lattice::wire::publish_error;
use crate::{Error, InboxPrefix, Tally};

/// Longest reply subject that is answered. Those of clients have fewer than 100 bytes.
const MAX_REPLY_BYTES: usize = 256;
/// What a cluster puts in front of a reply subject that comes out of another: two names of servers follow.
const GATEWAY: &str = "_GR_.";

/// The inboxes that are answered. Cheap to clone; clones count together.
#[derive(Clone, Debug)]
pub struct Inboxes {
    prefixes: Arc<[InboxPrefix]>,
    refused: Tally,
}

/// A subject that may be answered to: only [`Inboxes`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyTo(Subject);

impl Inboxes {
    /// Inboxes below any of these prefixes.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = InboxPrefix>) -> Self {
        Self {
            prefixes: prefixes.into_iter().collect(),
            refused: Tally::new("messages whose reply subject is no inbox were dropped"),
        }
    }

    /// The same, and inboxes like those of this connection, which may have a prefix of its own.
    #[must_use]
    pub fn with_those_of(nats: &Client, prefixes: impl IntoIterator<Item = InboxPrefix>) -> Self {
        let own = nats.new_inbox();
        let own = own.rsplit_once('.').and_then(|(own, _)| InboxPrefix::parse(own).ok());
        let mut all: Vec<_> = prefixes.into_iter().collect();
        all.extend(own.filter(|own| !all.contains(own)));
        Self::new(all)
    }

    /// Where a message is answered; `None` for one that wants no answer, and for one that wants it elsewhere than in an
    /// inbox, which is counted.
    #[must_use]
    pub fn reply_to(&self, message: &Message) -> Option<ReplyTo> {
        let reply = message.reply.as_ref()?;
        if self.allows(reply) {
            return Some(ReplyTo(reply.clone()));
        }
        self.refused
            .count(|| format!("{} wants its answer at {reply}", message.subject));
        None
    }

    /// Answers a message, if it wants an answer and in an inbox.
    ///
    /// # Errors
    /// [`Error::Closed`], or that the connection does not take it.
    pub async fn answer(&self, nats: &Client, message: &Message, body: Bytes) -> Result<(), Error> {
        match self.reply_to(message) {
            Some(reply) => nats.publish(reply.into_subject(), body).await.map_err(publish_error),
            None => Ok(()),
        }
    }

    /// Messages that were dropped since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.total()
    }

    /// Whether a subject is an inbox.
    #[must_use]
    pub fn allows(&self, subject: &str) -> bool {
        subject.len() <= MAX_REPLY_BYTES && is_plain(subject) && self.is_below(beyond_gateway(subject))
    }

    fn is_below(&self, subject: &str) -> bool {
        let below =
            |prefix: &InboxPrefix| subject.len() > prefix.as_str().len() && subject.starts_with(prefix.as_str());
        self.prefixes.iter().any(below)
    }
}

impl ReplyTo {
    /// The subject.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.0
    }

    /// The same, for who publishes.
    #[must_use]
    pub fn into_subject(self) -> Subject {
        self.0
    }

    /// A subject below it.
    pub(crate) fn below(&self, token: &'static str) -> Subject {
        Subject::from(format!("{}.{token}", self.0))
    }
}

/// Where a reply subject that came through a gateway between clusters leads: `_GR_.{cluster}.{server}.{reply}` is the
/// reply subject there.
fn beyond_gateway(subject: &str) -> &str {
    let Some(rest) = subject.strip_prefix(GATEWAY) else {
        return subject;
    };
    let mut tokens = rest.splitn(3, '.');
    match (tokens.next(), tokens.next(), tokens.next()) {
        (Some(_), Some(_), Some(reply)) => reply,
        _ => subject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inboxes(prefixes: &[&str]) -> Inboxes {
        Inboxes::new(prefixes.iter().map(|p| InboxPrefix::parse(p).expect("a prefix")))
    }

    #[test]
    fn only_inboxes_are_answered() {
        let inboxes = inboxes(&["_INBOX", "_INBOX_orders.eu."]);
        for good in [
            "_INBOX.a",
            "_INBOX.Zx81.Qq2.results",
            "_INBOX_orders.eu.1",
            "_GR_.abc123.abcd1234._INBOX.a.b",
        ] {
            assert!(inboxes.allows(good), "{good}");
        }
        let long = format!("_INBOX.{}", "a".repeat(MAX_REPLY_BYTES));
        for bad in [
            "",
            "_INBOX",
            "_INBOX.",
            "_INBOXES.a",
            "_inbox.a",
            "_INBOX..a",
            "_INBOX.a.",
            "._INBOX.a",
            "_INBOX.*",
            "_INBOX.>",
            "_INBOX.a>",
            "_INBOX.a b",
            "_INBOX.a\tb",
            "_INBOX.a\r\nPUB x 0",
            "_INBOX.\u{85}a",
            "_INBOX_orders.us.1",
            "_INBOX_orders.eu",
            "$JS.API.STREAM.DELETE.fanout_payments_log",
            "$JS.API.STREAM.DELETE._INBOX.a",
            "payments.acme.webhook.invoice.paid",
            "payments._INBOX.a",
            "_GR_.abc123.abcd1234.$JS.API.STREAM.DELETE.x",
            "_GR_.abc123._INBOX.a",
            "_GR_._INBOX.a.b.c",
            "_R_.abc",
            long.as_str(),
        ] {
            assert!(!inboxes.allows(bad), "{bad:?}");
        }
    }
}
