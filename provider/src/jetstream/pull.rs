//! Takes messages from the log for someone who asks for them: what is there now. [`super::StandingPulls`] wait for what comes.

use std::pin::pin;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::Config;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer};
use async_nats::jetstream::{self, consumer};
use fanout_plan::partition::Partition;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::{SubscriptionId, Timestamp};
use futures::StreamExt as _;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Store, StoreError, batch};

/// How long the store may take for what needs no waiting.
const AT_ONCE: Duration = Duration::from_secs(5);
/// After how long without an answer a consumer is asked whether all that it may deliver is in hand: then it does not
/// answer a pull that does not wait (nats-server 2.15).
const IS_FULL: Duration = Duration::from_millis(200);
/// Bytes of a message beyond its event, counted generously.
const BESIDE_AN_EVENT: usize = 16 << 10;
/// Bytes of redrive leases that are taken at once; they are all but empty.
const LEASES_BYTES: usize = 1 << 20;
/// For how long after its last fetch a queue subscription that is fetched goes on hearing events, and how old an event
/// may be that it is given.
pub(crate) const LISTENS_FOR: Duration = Duration::from_secs(60);

/// What a subscription that is fetched without an order takes from.
pub(crate) struct Sources {
    /// The log: one for each partition that has any of its events, and those of tenants that are isolated.
    log: Vec<PullConsumer>,
    /// How many of the first pass over events of tenants that are isolated.
    passing_over: usize,
    /// Leases of tenants whose dead letters are redriven; a queue subscription has none.
    redrive_leases: Option<PullConsumer>,
    /// Refused events that wait for their next attempt; a queue subscription has none.
    retries: Option<PullConsumer>,
}

impl Sources {
    /// Whether everything there is to take from could be opened.
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_settled() || self.retries.is_some()
    }

    /// Whether some of what is taken may be passed over, because its tenant is isolated.
    pub(crate) fn pass_over(&self) -> bool {
        self.passing_over > 0
    }

    /// Whether what is taken is settled: nothing of a queue subscription is.
    pub(super) fn is_settled(&self) -> bool {
        self.redrive_leases.is_some()
    }

    /// All that there is to take from.
    pub(super) fn all(&self) -> impl Iterator<Item = &PullConsumer> {
        self.log.iter().chain(&self.redrive_leases).chain(&self.retries)
    }
}

/// Messages that were delivered.
pub(crate) struct Taken {
    pub(crate) messages: Vec<jetstream::Message>,
    /// None was delivered before this, by the store's clock.
    pub(crate) since: Timestamp,
}

/// How many bytes of messages a pull takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MaxBytes {
    /// No more.
    Exactly(usize),
    /// No more, or one event, however large it is.
    OrOne(usize),
}

impl MaxBytes {
    fn bytes(self) -> usize {
        match self {
            Self::Exactly(bytes) | Self::OrOne(bytes) => bytes,
        }
    }
}

impl Store {
    /// What a subscription that is fetched takes from.
    pub(crate) async fn inbox_sources(&self, registered: &Registered) -> Result<Sources, StoreError> {
        let subscription = &registered.subscription;
        let mut log = Vec::new();
        if subscription.need == Need::Queue {
            for partition in self.partitions_of(subscription) {
                log.extend(self.listener(registered, partition).await?);
            }
            return Ok(Sources {
                passing_over: 0,
                log,
                redrive_leases: None,
                retries: None,
            });
        }
        let mut others = Vec::new();
        for (partition, reader) in self.readers_of(registered) {
            let consumer = self.consumer(registered, partition, &reader).await?;
            if reader.tenant.is_none() && registered.isolates_in(partition.number) {
                log.extend(consumer);
            } else {
                others.extend(consumer);
            }
        }
        let passing_over = log.len();
        log.append(&mut others);
        let redrive_leases = Some(self.redrive_leases_consumer(&registered.id()).await?);
        if let Err(error) = self.sweep_retries(registered).await {
            debug!(subscription = %subscription.name, %error, "retries of an earlier subscription of this name were not deleted; they are deleted later");
        }
        let retries = match self.retries_consumer(registered).await {
            Ok(consumer) => Some(consumer),
            Err(error) => {
                // The account may have no more consumers to give: the log is fetched all the same.
                warn!(subscription = %subscription.name, %error, "the retries of a subscription can't be read now; a fetch brings none");
                None
            }
        };
        Ok(Sources {
            log,
            passing_over,
            redrive_leases,
            retries,
        })
    }

    /// A consumer that delivers what is stored from now on and is gone when nobody fetches: the store's own memory of who
    /// listens, shared by all instances. It carries no mark of Fanout's, so that no plan removes it.
    async fn listener(
        &self,
        registered: &Registered,
        partition: &Partition,
    ) -> Result<Option<PullConsumer>, StoreError> {
        let Some(filter) = partition.slot.narrow(&registered.subscription.filter) else {
            return Ok(None);
        };
        if partition.is_retired() {
            return Ok(None);
        }
        let name = listener_name(&registered.id());
        let config = Config {
            name: Some(name.clone()),
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::None,
            filter_subjects: filter.subject_filters(&partition.template),
            inactive_threshold: LISTENS_FOR,
            memory_storage: true,
            num_replicas: 1,
            ..Config::default()
        };
        let log = self.log(partition.number).await?;
        let made = log.create_consumer(config).await;
        made.map(Some)
            .map_err(StoreError::when(format!("make consumer {name}")))
    }

    /// Up to `most` redrive leases that nobody has.
    pub(crate) async fn take_redrive_leases(&self, sources: &Sources, most: usize) -> Result<Taken, StoreError> {
        self.take_of(sources.redrive_leases.as_ref(), most, MaxBytes::Exactly(LEASES_BYTES))
            .await
    }

    /// Up to `most` refused events that are there, due or not.
    pub(crate) async fn take_retries(
        &self,
        sources: &Sources,
        most: usize,
        max_bytes: MaxBytes,
    ) -> Result<Taken, StoreError> {
        self.take_of(sources.retries.as_ref(), most, max_bytes).await
    }

    async fn take_of(
        &self,
        consumer: Option<&PullConsumer>,
        most: usize,
        max_bytes: MaxBytes,
    ) -> Result<Taken, StoreError> {
        let since = self.now();
        let messages = match consumer {
            Some(consumer) if most > 0 => at_once(self, std::slice::from_ref(consumer), 0, most, max_bytes).await?,
            _ => Vec::new(),
        };
        Ok(Taken { messages, since })
    }

    /// Up to `most` events that are there of what passes over events of tenants that are isolated, those among them. It begins as
    /// [`Store::take`] does.
    pub(crate) async fn take_passing_over(
        &self,
        sources: &Sources,
        (from, most): (usize, usize),
        max_bytes: MaxBytes,
    ) -> Result<Taken, StoreError> {
        let since = self.now();
        let passing_over = sources.log.get(..sources.passing_over).unwrap_or_default();
        let messages = at_once(self, passing_over, from, most, max_bytes).await?;
        Ok(Taken { messages, since })
    }

    /// Up to `most` events that are there, of together at most `max_bytes`. Each of what holds them has its share, beginning
    /// with that of the number `from`.
    pub(crate) async fn take(
        &self,
        sources: &Sources,
        (from, most): (usize, usize),
        max_bytes: MaxBytes,
    ) -> Result<Taken, StoreError> {
        let since = self.now();
        let messages = at_once(self, &sources.log, from, most, max_bytes).await?;
        Ok(Taken { messages, since })
    }
}

fn listener_name(subscription: &SubscriptionId) -> String {
    // No subscription's name has an `@`.
    format!("{subscription}@inbox")
}

/// What is there now. Each consumer in turn gives its share of what is asked for, and those that have more fill up what
/// the others left: one with a long backlog does not keep the others from being heard.
async fn at_once(
    store: &Store,
    consumers: &[PullConsumer],
    from: usize,
    most: usize,
    max_bytes: MaxBytes,
) -> Result<Vec<jetstream::Message>, StoreError> {
    let taken = those_that_fit(store, consumers, (from, most), max_bytes.bytes()).await?;
    let largest = usize::try_from(store.policy().max_event_bytes).unwrap_or(usize::MAX);
    let one = largest.saturating_add(BESIDE_AN_EVENT);
    if !taken.is_empty() || matches!(max_bytes, MaxBytes::Exactly(_)) || max_bytes.bytes() >= one {
        return Ok(taken);
    }
    // What is there may be larger than what was asked for, and would never be given.
    those_that_fit(store, consumers, (from, 1), one).await
}

async fn those_that_fit(
    store: &Store,
    consumers: &[PullConsumer],
    (from, most): (usize, usize),
    max_bytes: usize,
) -> Result<Vec<jetstream::Message>, StoreError> {
    let mut taken = Vec::new();
    let mut bytes_left = max_bytes;
    let from = from.checked_rem(consumers.len()).unwrap_or_default();
    let (later, sooner) = consumers.split_at(from);
    let mut asked: Vec<_> = sooner.iter().chain(later).collect();
    while !asked.is_empty() {
        let mut have_more = Vec::new();
        let mut left = asked.len();
        for consumer in asked {
            if taken.len() >= most || bytes_left == 0 {
                return Ok(taken);
            }
            let share = (most - taken.len()).div_ceil(left);
            left -= 1;
            let before = taken.len();
            match pull(store, consumer, share, &mut bytes_left, &mut taken).await {
                Ok(()) => {}
                // What was taken is delivered; who begins with this consumer is told what is wrong with it.
                Err(_) if !taken.is_empty() => return Ok(taken),
                Err(e) => return Err(e),
            }
            if taken.len() - before == share {
                have_more.push(consumer);
            }
        }
        asked = have_more;
    }
    Ok(taken)
}

/// Takes up to `most` messages that are there, and that fit `bytes_left`.
async fn pull(
    store: &Store,
    consumer: &PullConsumer,
    most: usize,
    bytes_left: &mut usize,
    taken: &mut Vec<jetstream::Message>,
) -> Result<(), StoreError> {
    let mut pulling = pin!(pull_all(store, consumer, most, bytes_left, taken));
    if let Ok(pulled) = timeout(IS_FULL, &mut pulling).await {
        return pulled;
    }
    if is_full(consumer).await? {
        return Ok(());
    }
    timeout(AT_ONCE, pulling)
        .await
        .map_err(StoreError::when("deliver events in time"))?
}

async fn pull_all(
    store: &Store,
    consumer: &PullConsumer,
    most: usize,
    bytes_left: &mut usize,
    taken: &mut Vec<jetstream::Message>,
) -> Result<(), StoreError> {
    let mut batch = batch::at_once(store, consumer, (most, *bytes_left)).await?;
    while let Some(message) = batch.next().await {
        *bytes_left = bytes_left.saturating_sub(message.length);
        taken.push(message);
    }
    if batch.broke_off() && taken.is_empty() {
        // Told as the library tells it, which knows whether it is there.
        batch::is_there(consumer).await?;
    }
    Ok(())
}

/// Whether all that a consumer may deliver is in hand.
async fn is_full(consumer: &PullConsumer) -> Result<bool, StoreError> {
    let info = info(consumer).await?;
    let most = usize::try_from(info.config.max_ack_pending).unwrap_or(usize::MAX);
    Ok(info.num_ack_pending >= most)
}

/// What the server says of a consumer.
async fn info(consumer: &PullConsumer) -> Result<consumer::Info, StoreError> {
    timeout(AT_ONCE, consumer.get_info())
        .await
        .map_err(StoreError::when("say in time what waits"))?
        .map_err(StoreError::when("say what waits"))
}
