//! What the server says of events that the log let go after they were delivered and before they were settled: an
//! advisory each (nats-server 2.15.1, `MSG_TERMINATED`, "Unacknowledged message was deleted"). Of events that were given
//! to nobody it says nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::Subscriber as NatsSubscriber;
use fanout_plan::ConsumerName;
use fanout_plan::gap::{Advisories, MAX_NOTED};
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tracing::debug;

use super::Store;

/// Of all streams and consumers of the account; those of the bus are picked out.
const ADVISORIES: &str = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.*.*";

static NONE: BTreeSet<u64> = BTreeSet::new();

/// An advisory, as far as it matters here.
#[derive(Debug, Deserialize)]
struct Advisory<'a> {
    stream: &'a str,
    consumer: &'a str,
    stream_seq: u64,
    reason: Option<&'a str>,
}

/// Offsets of events that went unsettled, by partition and consumer.
#[derive(Debug, Default)]
pub(crate) struct Unsettled {
    advisories: Option<NatsSubscriber>,
    received: BTreeMap<(u32, ConsumerName), BTreeSet<u64>>,
    /// When it was listened to last, and whether nothing was missed since the time before.
    last: Option<Instant>,
    all: bool,
}

impl Unsettled {
    /// Takes in what came since the last time; what came before a longer silence than `within` may be missing.
    pub(crate) async fn listen(&mut self, store: &Store, within: Duration) {
        self.all = self.advisories.is_some() && self.last.is_some_and(|then| then.elapsed() <= within);
        self.last = Some(Instant::now());
        loop {
            let Some(advisories) = &mut self.advisories else {
                match store.nats().subscribe(ADVISORIES).await {
                    Ok(advisories) => self.advisories = Some(advisories),
                    Err(error) => debug!(%error, "the advisories of terminated events are not received"),
                }
                return;
            };
            match advisories.next().now_or_never() {
                None => return,
                Some(None) => (self.advisories, self.all) = (None, false),
                Some(Some(message)) => self.take(store, &message.payload),
            }
        }
    }

    fn take(&mut self, store: &Store, advisory: &[u8]) {
        let Ok(advisory) = serde_json::from_slice::<Advisory<'_>>(advisory) else {
            return;
        };
        // Somebody may terminate too, for a reason of their own; Fanout does not.
        if !advisory
            .reason
            .is_some_and(|r| r.contains("was deleted") || r.contains("stream limits"))
        {
            return;
        }
        let Some(partition) = store.partition_of(advisory.stream) else {
            return;
        };
        let of_consumer = (partition, advisory.consumer.into());
        let offsets = self.received.entry(of_consumer).or_default();
        offsets.insert(advisory.stream_seq);
        while offsets.len() > MAX_NOTED {
            offsets.pop_first();
        }
    }

    /// The advisories of a consumer that were received and are not forgotten.
    pub(crate) fn advisories(&self, partition: u32, consumer: &ConsumerName) -> Advisories<'_> {
        Advisories {
            unsettled: self.received.get(&(partition, consumer.clone())).unwrap_or(&NONE),
            all: self.all,
        }
    }

    /// Forgets consumers other than these.
    pub(crate) fn keep(&mut self, consumers: &BTreeSet<(u32, ConsumerName)>) {
        self.received.retain(|of_consumer, _| consumers.contains(of_consumer));
    }

    /// Forgets what is reported, or never will be.
    pub(crate) fn forget(&mut self, partition: u32, consumer: &ConsumerName, is_over: impl Fn(u64) -> bool) {
        let of_consumer = (partition, consumer.clone());
        if let Some(offsets) = self.received.get_mut(&of_consumer) {
            offsets.retain(|offset| !is_over(*offset));
            if offsets.is_empty() {
                self.received.remove(&of_consumer);
            }
        }
    }
}
