//! The consumers of subscriptions: what the server is told of one, what it says of one, and making one that another instance
//! may be making too.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{self, AckPolicy, DeliverPolicy, pull};
use fanout_plan::entry;
use fanout_plan::topology::{ConsumerSpec, ConsumerStart};
use futures::StreamExt as _;

use super::apply::{ENTRY, MADE_BY, made_by};
use super::observe::moment;
use super::refusal::{there, unless};
use super::{Store, StoreError};

impl Store {
    /// What the server says of a consumer of the log; `None` where it was removed.
    ///
    /// A server that has just become the consumer's leader may say that there is no such consumer (nats-server 2.15.1); the list
    /// of names, which all servers share, still has the name.
    ///
    /// # Errors
    /// When the store can't be read, or a consumer has no leader.
    pub(super) async fn unless_removed<T, E: Into<async_nats::Error>>(
        &self,
        answer: Result<T, E>,
        (partition, name): (u32, &str),
        action: impl Into<String>,
    ) -> Result<Option<T>, StoreError> {
        let action = action.into();
        let found = there(answer, &*action)?;
        if found.is_none() && self.lists_consumer(partition, name).await? {
            return Err(StoreError::when(action)(
                "the consumer is listed, and has no leader at the moment: try again",
            ));
        }
        Ok(found)
    }

    async fn lists_consumer(&self, partition: u32, name: &str) -> Result<bool, StoreError> {
        const ACTION: &str = "list the consumers of the log";
        let Some(log) = there(
            self.js.get_stream_no_info(self.names.partition(partition)).await,
            ACTION,
        )?
        else {
            return Ok(false);
        };
        let mut names = log.consumer_names();
        while let Some(listed) = names.next().await {
            let Some(listed) = there(listed, ACTION)? else { break };
            if listed == name {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a consumer; `None` where it is there already and is as it should be now.
    ///
    /// A list of consumers lacks those that have no leader at the moment (nats-server 2.15.1), and another instance may
    /// have made it since: each begins it where it last read that the subscription stands, and the server changes no
    /// consumer's start. The one that is there is further, and stays where it is.
    ///
    /// # Errors
    /// When the server refuses it or can't be reached; [`StoreError::Raced`] if another is in its place, or it has just gone.
    pub(super) async fn make_consumer(
        &self,
        wanted: &ConsumerSpec,
        action: &str,
    ) -> Result<Option<consumer::Info>, StoreError> {
        let stream = self.names.partition(wanted.partition);
        let made = self
            .js
            .create_consumer_strict_on_stream(consumer_config(wanted), stream);
        if let Some(made) = unless(made.await, action, &[ErrorCode::CONSUMER_ALREADY_EXISTS])? {
            return Ok(Some(made.cached_info().clone()));
        }
        let found = self.log(wanted.partition).await?.consumer_info(&*wanted.name).await;
        let found = there(found, action)?.filter(|found| found.config.metadata.contains_key(MADE_BY));
        let Some(found) = found else {
            return Err(StoreError::Raced {
                what: format!("consumer {}", wanted.name),
            });
        };
        let found = consumer_spec(wanted.partition, &found.name, &found.config);
        let wanted = wanted.of_one_that_is_there(&found);
        if wanted != found {
            self.update_consumer(&wanted, action).await?;
        }
        Ok(None)
    }

    /// Has a consumer that is there be as it is wanted, but for where it began.
    ///
    /// # Errors
    /// When the server refuses it or can't be reached.
    pub(super) async fn update_consumer(&self, wanted: &ConsumerSpec, action: &str) -> Result<(), StoreError> {
        let stream = self.names.partition(wanted.partition);
        let updated = self.js.update_consumer_on_stream(consumer_config(wanted), stream);
        updated.await.map(drop).map_err(StoreError::when(action))
    }
}

fn consumer_config(c: &ConsumerSpec) -> pull::Config {
    pull::Config {
        durable_name: Some(c.name.to_string()),
        deliver_policy: match c.start {
            ConsumerStart::First => DeliverPolicy::All,
            ConsumerStart::New => DeliverPolicy::New,
            ConsumerStart::Offset(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            ConsumerStart::Time(t) => match async_nats::datetime::from_nanos(t.nanoseconds().into()) {
                Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
                Err(_) => DeliverPolicy::All,
            },
        },
        ack_policy: AckPolicy::Explicit,
        ack_wait: c.ack_wait,
        max_deliver: -1,
        filter_subjects: c.filter_subjects.clone(),
        max_ack_pending: c.max_ack_pending.into(),
        metadata: of_consumer(c),
        ..pull::Config::default()
    }
}

/// What a consumer says of itself.
fn of_consumer(c: &ConsumerSpec) -> HashMap<String, String> {
    let mut marks = made_by();
    if let Some(Ok(entry)) = c.entry.as_deref().map(entry::write) {
        marks.insert(ENTRY.to_owned(), entry);
    }
    marks
}

/// What the bus wants of a consumer that is as the server says.
pub(super) fn consumer_spec(partition: u32, name: &str, c: &consumer::Config) -> ConsumerSpec {
    let mut filter_subjects = c.filter_subjects.clone();
    if !c.filter_subject.is_empty() {
        filter_subjects.push(c.filter_subject.clone());
    }
    filter_subjects.sort();
    ConsumerSpec {
        partition,
        name: name.into(),
        filter_subjects,
        start: match c.deliver_policy {
            DeliverPolicy::ByStartSequence { start_sequence } => ConsumerStart::Offset(start_sequence),
            DeliverPolicy::ByStartTime { start_time } => ConsumerStart::Time(moment(start_time)),
            DeliverPolicy::New => ConsumerStart::New,
            _ => ConsumerStart::First,
        },
        ack_wait: if c.ack_wait.is_zero() {
            Duration::from_secs(30)
        } else {
            c.ack_wait
        },
        max_ack_pending: u32::try_from(c.max_ack_pending).unwrap_or(u32::MAX),
        entry: c
            .metadata
            .get(ENTRY)
            .and_then(|e| entry::read(e.as_bytes()).ok())
            .map(Box::new),
    }
}
