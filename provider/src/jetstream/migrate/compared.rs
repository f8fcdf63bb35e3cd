//! Messages of a stream, as a migration compares them.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::super::{Store, StoreError};

/// What headers begin with that say what a publish expects of its stream: a mirror leaves them out (nats-server 2.15.1).
const EXPECTED: &str = "Nats-Expected-";
/// Headers of an answer that speak of the answer, and not of the message.
const OF_THE_ANSWER: [&str; 3] = ["Nats-Num-Pending", "Nats-Last-Sequence", "Nats-UpTo-Sequence"];
/// What the server answers at the end of a list, and where there is nothing.
const END: u16 = 204;
const NONE: u16 = 404;
/// How long a store may take to give messages.
const GIVES_IN: Duration = Duration::from_secs(10);

/// A message as it is compared: its headers, among which are subject and time, and its payload.
pub(super) struct Compared {
    headers: HeaderMap,
    payload: Bytes,
}

impl Compared {
    /// The headers that both stores have to give alike.
    fn kept(&self) -> impl Iterator<Item = (&HeaderName, &Vec<HeaderValue>)> {
        let kept = |name: &str| !name.starts_with(EXPECTED) && !OF_THE_ANSWER.contains(&name);
        self.headers.iter().filter(move |(name, _)| kept(name.as_ref()))
    }

    /// Whether both stores hold the same message.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.payload == other.payload
            && self.kept().count() == other.kept().count()
            && self
                .kept()
                .all(|(name, values)| other.headers.get_all(name.clone()).eq(values))
    }
}

/// What a store answered.
pub(super) struct Read {
    pub(super) messages: BTreeMap<u64, Compared>,
    /// Up to where it says what there is.
    pub(super) reaches: u64,
}

/// Messages of a stream from a position on, as they are compared: up to `most`, or as many as fit in one answer (ADR-31,
/// "batched requests"; nats-server 2.11).
pub(super) async fn messages(store: &Store, stream: &str, from: u64, most: u64) -> Result<Read, StoreError> {
    let action = || format!("read messages of {stream} from {from} on");
    let nats = store.nats();
    let inbox = nats.new_inbox();
    let mut answers = nats
        .subscribe(inbox.clone())
        .await
        .map_err(StoreError::when(action()))?;
    let request = json!({ "seq": from, "next_by_subj": ">", "batch": most });
    let subject = format!("{}.DIRECT.GET.{stream}", store.policy.jetstream.subject());
    nats.publish_with_reply(subject, inbox, request.to_string().into())
        .await
        .map_err(StoreError::when(action()))?;
    let mut read = BTreeMap::new();
    loop {
        let next = timeout(GIVES_IN, answers.next()).await;
        let Some(answer) = next.map_err(StoreError::when(action()))? else {
            return Err(StoreError::when(action())("the connection was closed"));
        };
        match answer.status.map(|status| status.as_u16()) {
            None => {
                let headers = answer.headers.unwrap_or_default();
                let number = headers.get("Nats-Sequence").and_then(|n| n.as_str().parse().ok());
                let number: u64 = number
                    .ok_or("an answer without its number")
                    .map_err(StoreError::when(action()))?;
                let payload = answer.payload;
                read.insert(number, Compared { headers, payload });
            }
            Some(NONE) => {
                return Ok(Read {
                    messages: read,
                    reaches: u64::MAX,
                });
            }
            Some(END) => {
                let headers = answer.headers.unwrap_or_default();
                let more = headers.get("Nats-Num-Pending").is_some_and(|n| n.as_str() != "0");
                let last = read.keys().next_back().copied().unwrap_or(from);
                return Ok(Read {
                    messages: read,
                    reaches: if more { last } else { u64::MAX },
                });
            }
            Some(status) => return Err(StoreError::when(action())(format!("the store answered {status}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)], payload: &'static str) -> Compared {
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            all.append(*name, *value);
        }
        Compared {
            headers: all,
            payload: payload.into(),
        }
    }

    #[test]
    fn a_message_is_the_same_by_what_is_its_own() {
        let one = message(&[("a", "1"), ("a", "2"), ("b", "3"), ("Nats-Num-Pending", "9")], "x");
        assert!(one.is(&message(&[("b", "3"), ("a", "1"), ("a", "2")], "x")));
        assert!(message(&[("b", "3"), ("a", "1"), ("a", "2")], "x").is(&one));
        let expects = [("a", "1"), ("a", "2"), ("b", "3"), ("Nats-Expected-Last-Sequence", "7")];
        assert!(one.is(&message(&expects, "x")), "a mirror leaves it out");
        for (headers, payload) in [
            (&[("a", "1"), ("a", "2"), ("b", "3")][..], "y"),
            (&[("a", "1"), ("a", "2")], "x"),
            (&[("a", "1"), ("a", "2"), ("b", "3"), ("c", "4")], "x"),
            (&[("a", "1"), ("a", "2"), ("c", "3")], "x"),
            (&[("a", "2"), ("a", "1"), ("b", "3")], "x"),
            (&[("a", "1"), ("b", "3")], "x"),
        ] {
            let other = message(headers, payload);
            assert!(!one.is(&other) && !other.is(&one), "{headers:?}");
        }
    }
}
