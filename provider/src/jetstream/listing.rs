//! Reads what a stream holds of some subjects, once, to its end.
//!
//! The end is not where a consumer says that nothing is pending. Its leader counts that in its own copy of the stream, which may be
//! behind the others (nats-server 2.15.1): what was stored last would be missing without a word. The leader of the stream is asked for
//! the last message, too, wherever there may be copies.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{Ordered, OrderedConfig};
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, Info};
use async_nats::jetstream::stream::Stream;
use futures::TryStreamExt as _;
use tokio::time::timeout;

use super::StoreError;
use super::refusal::found;

/// How long a copy that is behind is waited for until the stream's leader is asked again, and how often.
const FOLLOWS: Duration = Duration::from_millis(500);
const FOLLOWS_TIMES: u32 = 20;

/// What a stream held when it was begun, oldest first.
pub(super) struct Listing<'a, I> {
    stream: &'a Stream<I>,
    filters: Vec<String>,
    from: DeliverPolicy,
    messages: Ordered,
    /// The sequence of the last message that came.
    seen: u64,
    /// Of the last one that has to come.
    last: u64,
    /// How many more the consumer counts.
    pending: u64,
    action: String,
}

impl<'a, I> Listing<'a, I> {
    /// What a consumer of the stream is to give that was just made; `None` if there is nothing.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(super) async fn begin(
        stream: &'a Stream<I>,
        consumer: Consumer<OrderedConfig>,
        action: impl Into<String>,
    ) -> Result<Option<Self>, StoreError> {
        let action = action.into();
        let Info {
            config,
            num_pending: pending,
            cluster,
            ..
        } = consumer.cached_info().clone();
        let filters = match config.filter_subject.as_str() {
            "" => config.filter_subjects,
            one => vec![one.to_owned()],
        };
        let from = config.deliver_policy;
        let last = match cluster {
            Some(_) => last_of(stream, &filters, from, &action).await?,
            None => 0,
        };
        if pending == 0 && last == 0 {
            return Ok(None);
        }
        let messages = consumer.messages().await.map_err(StoreError::when(&*action))?;
        Ok(Some(Self {
            stream,
            filters,
            from,
            messages,
            seen: 0,
            last,
            pending,
            action,
        }))
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// When the store can't be read, or not to the end.
    pub(super) async fn next(&mut self) -> Result<Option<jetstream::Message>, StoreError> {
        for _ in 0..FOLLOWS_TIMES {
            if self.is_at_end() {
                return Ok(None);
            }
            let next = match self.pending {
                0 => timeout(FOLLOWS, self.messages.try_next()).await,
                _ => Ok(self.messages.try_next().await),
            };
            match next {
                Ok(message) => {
                    let Some(message) = message.map_err(StoreError::when(&*self.action))? else {
                        return Ok(None);
                    };
                    let info = message.info().map_err(StoreError::when(&*self.action))?;
                    (self.seen, self.pending) = (info.stream_sequence, info.pending);
                    return Ok(Some(message));
                }
                // It may have been taken away meanwhile.
                Err(_) => self.last = last_of(self.stream, &self.filters, self.from, &self.action).await?,
            }
        }
        Err(StoreError::when(&*self.action)(
            "the copy of the stream that answers is behind the others: try again",
        ))
    }

    /// Whether nothing more has to come.
    pub(super) fn is_at_end(&self) -> bool {
        self.pending == 0 && self.seen >= self.last
    }
}

/// The sequence of the last message of some subjects that lies behind a beginning; 0 if there is none.
async fn last_of<I>(
    stream: &Stream<I>,
    filters: &[String],
    from: DeliverPolicy,
    action: &str,
) -> Result<u64, StoreError> {
    let mut last = 0;
    for filter in filters {
        let message = found(stream.get_last_raw_message_by_subject(filter).await, action)?;
        let is_behind = message.filter(|message| match from {
            DeliverPolicy::ByStartSequence { start_sequence } => message.sequence >= start_sequence,
            DeliverPolicy::ByStartTime { start_time } => message.time >= start_time,
            _ => true,
        });
        last = last.max(is_behind.map_or(0, |message| message.sequence));
    }
    Ok(last)
}
