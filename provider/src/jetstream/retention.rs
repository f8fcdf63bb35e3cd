//! Looks at what a subscription is about to lose, and remembers what it lost.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::gap::{Expiring, Gap, Lost, MAX_NOTED, Observation};
use fanout_plan::isolation::Reader;
use fanout_plan::partition::{Keeps, Partition};
use fanout_plan::policy::WhenFull;
use fanout_plan::subscription::{Progress, Registered, Start};
use fanout_plan::{Code, Position, Problem, TenantId, Timestamp};
use futures::StreamExt as _;
use tracing::debug;

use super::floors::settled_to;
use super::observe::moment;
use super::refusal::found;
use super::{Store, StoreError};

/// How long the server remembers a reader of the edge.
const READER_AGE: Duration = Duration::from_secs(5);

/// What is remembered of a subscription's gap, to be written again on the revision it was read at.
#[derive(Debug, Default)]
pub(crate) struct RememberedGap {
    pub(crate) gap: Gap,
    /// 0 where there is no entry.
    revision: u64,
    /// When.
    written_at: Timestamp,
}

impl RememberedGap {
    /// Whether it is to be written again, so that a loss is not forgotten when the entry is as old as events get.
    pub(crate) fn would_be_forgotten(&self, now: Timestamp, max_age: Duration) -> bool {
        self.gap.has_lost() && now.since(self.written_at) > max_age / 2
    }
}

/// How a subscription stands towards the log's retention.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    /// The unhandled event that expires first, and when.
    pub oldest: Option<(Position, Timestamp)>,
    /// What it has lost, by partition, until somebody acknowledges it.
    pub lost: BTreeMap<u32, Lost>,
    /// Events that it lost, and whose loss somebody acknowledged.
    pub seen_events: u64,
}

impl Retention {
    /// How many events it has ever lost.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.seen_events + self.lost.values().map(|lost| lost.events).sum::<u64>()
    }
}

impl Store {
    /// How a subscription stands in all partitions.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn retention(&self, registered: &Registered) -> Result<Retention, StoreError> {
        let mut retention = self.losses(registered).await?;
        if !self.can_lose(registered) {
            return Ok(retention);
        }
        for (partition, reader) in self.readers_of(registered) {
            if let Some(oldest) = self
                .observe_retention(registered, partition, &reader)
                .await?
                .and_then(|l| l.oldest)
                .filter(|o| !o.isolated)
            {
                let position = Position::new(partition.number, oldest.offset);
                let sooner = retention.oldest.is_none_or(|(_, at)| oldest.expires_at < at);
                if sooner {
                    retention.oldest = Some((position, oldest.expires_at));
                }
            }
        }
        Ok(retention)
    }

    /// The same without its oldest event: what it lost is remembered beside its consumers, and known before they are made.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn losses(&self, registered: &Registered) -> Result<Retention, StoreError> {
        let mut retention = Retention::default();
        if !self.can_lose(registered) {
            return Ok(retention);
        }
        for (partition, reader) in self.readers_of(registered) {
            let gap = self.remembered_gap(registered, &reader).await?.gap;
            retention.seen_events += gap.seen_events;
            if let Some(lost) = gap.lost {
                match retention.lost.get_mut(&partition.number) {
                    None => drop(retention.lost.insert(partition.number, lost)),
                    Some(all) => all.merge(&lost),
                }
            }
        }
        Ok(retention)
    }

    /// Whether the store holds anything of it that could be lost.
    fn can_lose(&self, registered: &Registered) -> bool {
        registered.subscription.keeps_a_place(&self.policy) && registered.progress != Progress::Finished
    }

    /// Acknowledges what a subscription lost: it is reported no more, and still counted. Returns it, by partition.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub async fn acknowledge_losses(&self, registered: &Registered) -> Result<BTreeMap<u32, Lost>, StoreError> {
        let mut seen: BTreeMap<u32, Lost> = BTreeMap::new();
        for (partition, reader) in self.readers_of(registered) {
            // An instance may write at the same time.
            let lost = loop {
                let mut remembered = self.remembered_gap(registered, &reader).await?;
                let Some(lost) = remembered.gap.acknowledge() else {
                    break None;
                };
                if self.remember_gap(registered, &reader, remembered).await? {
                    break Some(lost);
                }
            };
            let Some(lost) = lost else { continue };
            match seen.get_mut(&partition.number) {
                None => drop(seen.insert(partition.number, lost)),
                Some(all) => all.merge(&lost),
            }
        }
        Ok(seen)
    }

    /// Whether everything that a subscription has not handled comes again when it begins at a place.
    pub(super) async fn passes_over_nothing(&self, registered: &Registered, to: Start) -> Result<(), StoreError> {
        if !self.can_lose(registered) {
            return Ok(());
        }
        let max_age = self.policy.retention.max_age;
        let mut unhandled = Vec::new();
        for (partition, reader) in self.readers_of(registered) {
            let observed = self.observe_retention(registered, partition, &reader).await?;
            if let Some(oldest) = observed.and_then(|observed| observed.oldest) {
                let position = Position::new(partition.number, oldest.offset);
                unhandled.push((position, oldest.expires_at - max_age));
            }
        }
        for (_, at) in self.retries_by_position(registered).await?.into_values() {
            let published_at = self.retry_published_at(registered, at).await?;
            unhandled.extend(published_at.map(|published_at| (at.position, published_at)));
        }
        for (position, published_at) in unhandled {
            let passed_over = match to {
                Start::First => false,
                Start::Time(t) => published_at < t,
                Start::Position(p) => position < p,
            };
            if passed_over {
                let name = &registered.subscription.name;
                return Err(StoreError::Refused(vec![Problem::new(
                    Code::WouldLoseEvents,
                    format!(
                        "subscription {name} has not handled event {position}, which lies before the place where it would begin: begin there or earlier, or say with `fanout rewind --skip-unhandled` that it is to be passed over"
                    ),
                )]));
            }
        }
        Ok(())
    }

    /// What a partition and a consumer of the subscription there show now; `None` when it has none.
    pub(crate) async fn observe_retention(
        &self,
        registered: &Registered,
        partition: &Partition,
        reader: &Reader,
    ) -> Result<Option<Observation>, StoreError> {
        let Some(filter) = registered.filter_of(reader, partition) else {
            return Ok(None);
        };
        let Some(consumer) = self.consumer(registered, partition, reader).await? else {
            return Ok(None);
        };
        let consumer = consumer.cached_info();
        let log = self.log(partition.number).await?;
        let info = log.get_info().await.map_err(StoreError::when("read the log's state"))?;
        let state = info.state;
        let settled_to = settled_to(consumer);
        let mut oldest: Option<Expiring> = None;
        if consumer.num_pending > 0 || consumer.num_ack_pending > 0 {
            let max_age = self.policy.retention.max_age;
            for filter in filter.subject_filters(&partition.template) {
                let from = settled_to + 1;
                let first = log.get_first_raw_message_by_subject(&filter, from).await;
                let Some(message) = found(first, "read the oldest event that waits")? else {
                    continue;
                };
                let stored = moment(message.time);
                let position = Position::new(partition.number, message.sequence);
                let tenant = partition
                    .template
                    .parse_subject(&message.subject)
                    .map(|(tenant, _)| tenant);
                let waits = Expiring {
                    isolated: reader.tenant.is_none()
                        && tenant.is_some_and(|t| registered.is_isolated_at(&t, position)),
                    offset: message.sequence,
                    expires_at: stored + max_age,
                };
                oldest = oldest.filter(|o| o.offset < waits.offset).or(Some(waits));
            }
        }
        Ok(Some(Observation {
            wants_all: registered.subscription.filter.pattern().is_none(),
            made_at: moment(info.created),
            first: state.first_sequence,
            head: state.last_sequence,
            delivered_to: consumer.delivered.stream_sequence,
            given: consumer.delivered.consumer_sequence,
            settled_to,
            only_ages: partition.keeps == Keeps::Log && self.policy.retention.when_full == WhenFull::Refuse,
            oldest,
        }))
    }

    /// What is remembered of the gap of a subscription's consumer.
    pub(crate) async fn remembered_gap(
        &self,
        registered: &Registered,
        reader: &Reader,
    ) -> Result<RememberedGap, StoreError> {
        let bucket = self.bucket(&self.names.attempts()).await?;
        let entry = bucket.entry(key(registered, reader)).await;
        let entry = entry.map_err(StoreError::when("read a retention gap"))?;
        let Some(entry) = entry else {
            return Ok(RememberedGap::default());
        };
        let is_there = entry.operation == kv::Operation::Put;
        Ok(RememberedGap {
            gap: is_there
                .then(|| serde_json::from_slice(&entry.value).ok())
                .flatten()
                .unwrap_or_default(),
            revision: entry.revision,
            written_at: moment(entry.created),
        })
    }

    /// Writes it. Of several instances that observed it at the same time, one gets `true`.
    pub(crate) async fn remember_gap(
        &self,
        registered: &Registered,
        reader: &Reader,
        remembered: RememberedGap,
    ) -> Result<bool, StoreError> {
        let action = "write a retention gap";
        let value = serde_json::to_vec(&remembered.gap).map_err(StoreError::when(action))?;
        let subject = self.entry_subject(&self.names.attempts(), &key(registered, reader));
        let message = PublishMessage::build().payload(value.into());
        let written = self.swap(subject, message, remembered.revision).await;
        Ok(written.map_err(StoreError::when(action))?.is_some())
    }

    /// Goes on reporting what a subscription had lost before it was put back to a place: a rewind brings none of that back,
    /// and whoever has to see it may not have seen it.
    pub(super) async fn carry_losses(&self, before: &Registered, rewound: &Registered) -> Result<(), StoreError> {
        for (_, reader) in self.readers_of(before) {
            let told = self.remembered_gap(before, &reader).await?.gap;
            if !told.has_lost() {
                continue;
            }
            // An instance that watches may write at the same time, and then has found nothing lost before.
            // No tenant is isolated any more: its events come with the others'.
            let all = Reader { tenant: None, ..reader };
            loop {
                let mut remembered = self.remembered_gap(rewound, &all).await?;
                remembered.gap.take_over(&told);
                if self.remember_gap(rewound, &all, remembered).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The events after `after` that were stored before `until`: the offset and the tenant of each.
    pub(crate) async fn edge(
        &self,
        registered: &Registered,
        partition: &Partition,
        reader: &Reader,
        after: u64,
        until: Timestamp,
    ) -> Result<Vec<(u64, TenantId)>, StoreError> {
        let Some(filter) = registered.filter_of(reader, partition) else {
            return Ok(Vec::new());
        };
        let isolated = |tenant: &TenantId, offset| {
            let number = partition.number;
            let position = Position::new(number, offset);
            reader.tenant.is_none() && registered.is_isolated_at(tenant, position)
        };
        let consumer = self
            .log(partition.number)
            .await?
            .create_consumer(pull::Config {
                filter_subjects: filter.subject_filters(&partition.template),
                deliver_policy: DeliverPolicy::ByStartSequence {
                    start_sequence: after + 1,
                },
                ack_policy: AckPolicy::None,
                headers_only: true,
                inactive_threshold: READER_AGE,
                ..pull::Config::default()
            })
            .await
            .map_err(StoreError::when("read the events that expire next"))?;
        let mut found = Vec::new();
        let mut messages = consumer
            .fetch()
            .max_messages(MAX_NOTED)
            .messages()
            .await
            .map_err(StoreError::when("read the events that expire next"))?;
        while let Some(Ok(message)) = messages.next().await {
            let Ok(info) = message.info() else { continue };
            if moment(info.published) >= until {
                break;
            }
            match partition.template.parse_subject(&message.subject) {
                Some((tenant, event_type))
                    if filter.may_match(&tenant, &event_type) && !isolated(&tenant, info.stream_sequence) =>
                {
                    found.push((info.stream_sequence, tenant));
                }
                Some(_) => {}
                None => {
                    debug!(offset = info.stream_sequence, "no event expires next")
                }
            }
        }
        Ok(found)
    }
}

fn key(registered: &Registered, reader: &Reader) -> String {
    let (round, partition) = (registered.round(), reader.partition);
    match &reader.tenant {
        None => format!("{round}.gap.{partition}"),
        Some(tenant) => format!("{round}.gap.{partition}.{}", tenant.key_part()),
    }
}
