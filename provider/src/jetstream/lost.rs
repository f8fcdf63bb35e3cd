//! Events that a consumer delivered and that did not arrive, read from the log: to whoever owns the consumer's order, they
//! are as good as those that did.
//!
//! The server knows a settlement by the event's sequence alone, as long as it counts the event as delivered
//! (nats-server 2.15): what is read here is settled like what came.

use std::collections::BTreeMap;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::{self, stream};

use super::refusal::found;
use super::{Store, StoreError};

/// The tokens of a reply subject: `$JS.ACK`, a domain and an account where there are eleven or more, stream and consumer,
/// and these numbers (nats-server 2.15, ADR-15).
const LONG: usize = 11;
const TIMES: usize = 4;
const SEQUENCE: usize = 5;
const TIME: usize = 7;
const MORE_OF_LONG: usize = 2;

/// What lies in the log between two messages of a consumer, as the consumer delivered it.
pub(crate) struct Lost<'a> {
    store: &'a Store,
    log: stream::Stream<()>,
    /// Its reply subject is that of the message behind them but for what is the event's own.
    reply: String,
    until: u64,
    /// The filters of which the next event is not read yet, and from where on.
    unread: Vec<(String, u64)>,
    /// Of each other filter the next event.
    read: BTreeMap<u64, (String, StreamMessage)>,
}

impl Store {
    /// Events that a consumer delivered behind a sequence and before a message of its.
    pub(crate) async fn lost(
        &self,
        partition: u32,
        consumer: &PullConsumer,
        (behind, before): (u64, &jetstream::Message),
    ) -> Result<Lost<'_>, StoreError> {
        let config = &consumer.cached_info().config;
        let mut filters = config.filter_subjects.clone();
        if filters.is_empty() {
            filters.push(match config.filter_subject.as_str() {
                "" => ">".to_owned(),
                one => one.to_owned(),
            });
        }
        let info = before.info().map_err(StoreError::when("say what it delivered"))?;
        Ok(Lost {
            store: self,
            log: self.log(partition).await?,
            reply: before.reply.as_ref().map(ToString::to_string).unwrap_or_default(),
            until: info.stream_sequence,
            unread: filters.into_iter().map(|filter| (filter, behind + 1)).collect(),
            read: BTreeMap::new(),
        })
    }
}

impl Lost<'_> {
    /// The next, in the log's order; `None` after the last. After an error it can be asked again.
    pub(crate) async fn next(&mut self) -> Result<Option<jetstream::Message>, StoreError> {
        while let Some((filter, from)) = self.unread.last() {
            let next = self.log.get_first_raw_message_by_subject(filter, *from).await;
            let next = found(next, "read what was lost on its way")?.filter(|next| next.sequence < self.until);
            if let Some((filter, _)) = self.unread.pop()
                && let Some(next) = next
            {
                self.read.insert(next.sequence, (filter, next));
            }
        }
        let Some((sequence, (filter, found))) = self.read.pop_first() else {
            return Ok(None);
        };
        self.unread.push((filter, sequence + 1));
        let reply = reply(&self.reply, sequence, found.time.unix_timestamp_nanos());
        Ok(Some(self.store.under(
            &reply,
            found.subject,
            found.payload,
            Some(found.headers),
        )))
    }
}

/// The reply subject under which the same consumer delivered another event for the first time.
fn reply(given: &str, sequence: u64, time: i128) -> String {
    let mut tokens: Vec<_> = given.split('.').map(str::to_owned).collect();
    let more = if tokens.len() >= LONG { MORE_OF_LONG } else { 0 };
    let own = [
        (TIMES, "1".to_owned()),
        (SEQUENCE, sequence.to_string()),
        (TIME, time.to_string()),
    ];
    for (at, text) in own {
        if let Some(token) = tokens.get_mut(at + more) {
            *token = text;
        }
    }
    tokens.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_the_event() {
        assert_eq!(
            reply("$JS.ACK.LOG.invoicing.3.20.31.1700.5", 18, 1600),
            "$JS.ACK.LOG.invoicing.1.18.31.1600.5"
        );
        assert_eq!(
            reply("$JS.ACK._.hash.LOG.invoicing.3.20.31.1700.5.x", 18, 1600),
            "$JS.ACK._.hash.LOG.invoicing.1.18.31.1600.5.x"
        );
    }
}
