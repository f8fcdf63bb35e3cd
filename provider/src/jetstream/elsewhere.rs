//! What the other places of a bus hold, read over whatever joins them; and how far this place is behind.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::context::ContextBuilder;
use fanout_plan::partition::Partition;
use fanout_plan::place::Place;
use fanout_plan::status::MirrorStatus;
use fanout_plan::{Code, PlaceName, Problem};
use futures::future::join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::timeout;

use super::apply::MADE_BY;
use super::observe::{log_state, partition};
use super::{Store, StoreError};

/// How long the other places may take together, who all are asked at once: somebody may wait for the plan.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

impl Store {
    /// The own partitions of each other place, or why they can't be read now.
    pub(super) async fn observe_elsewhere(&self) -> BTreeMap<PlaceName, Result<Vec<Partition>, Problem>> {
        let others = self.policy.places.iter().flat_map(|places| places.others());
        let read = others.map(|(name, place)| async move {
            let found = timeout(ANSWERS_WITHIN, self.partitions_at(place)).await;
            let why = match found {
                Ok(Ok(found)) => return (name.clone(), Ok(found)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nobody answered within {ANSWERS_WITHIN:?}"),
            };
            let message = format!(
                "place {name}: JetStream domain {} can't be read from here ({why}): what is mirrored of it goes on by itself once the link is back, and what is new there is mirrored then",
                place.domain
            );
            (name.clone(), Err(Problem::new(Code::PlaceUnreachable, message)))
        });
        join_all(read).await.into_iter().collect()
    }

    async fn partitions_at(&self, place: &Place) -> Result<Vec<Partition>, async_nats::Error> {
        let js = ContextBuilder::new()
            .api_prefix(place.api().subject())
            .timeout(ANSWERS_WITHIN)
            .build(self.nats());
        let mut found = Vec::new();
        let mut all = js.streams();
        while let Some(info) = all.try_next().await? {
            let Some(number) = self.names.partition_of(&info.config.name) else {
                continue;
            };
            let is_ours = info.config.metadata.contains_key(MADE_BY);
            let partition = partition(number, &info.config).filter(|p| is_ours && !p.is_mirror());
            found.extend(partition);
        }
        Ok(found)
    }

    /// How far each mirror is behind what it mirrors, as far as this place knows.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn mirrors(&self) -> Result<Vec<MirrorStatus>, StoreError> {
        let mirrors = self.layout.partitions.values().filter(|p| p.is_mirror());
        let read: Vec<_> = mirrors.filter_map(|p| Some((p.place.clone()?, p.number))).collect();
        futures::stream::iter(read)
            .map(|(place, partition)| async move {
                let log = self.log(partition).await?;
                let info = log
                    .get_info()
                    .await
                    .map_err(StoreError::when("read the state of a mirror"))?;
                let state = log_state(&info);
                let mirror = state.mirror.unwrap_or_default();
                Ok::<_, StoreError>(MirrorStatus {
                    place,
                    partition,
                    reached: state.head,
                    lag: mirror.heard_ago.map(|_| mirror.lag),
                    heard_seconds_ago: mirror.heard_ago.map(|ago| ago.as_secs()),
                })
            })
            .buffered(READS)
            .try_collect()
            .await
    }
}

/// Reads of streams under way at once.
const READS: usize = 16;
