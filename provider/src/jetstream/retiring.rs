//! What is left at other places: at those that are retired, and of subscriptions that have moved.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanout_plan::partition::Layout;
use fanout_plan::place::{Place, Places};
use fanout_plan::retiring::RetiringPlace;
use fanout_plan::subscription::{Need, Progress, Registered};
use fanout_plan::{PlaceName, SubscriptionId};
use futures::future::join_all;
use tokio::time::timeout;

use super::elsewhere::{Held, missing};
use super::observe::log_state;
use super::{Store, StoreError};

/// How long the places may take, who all are asked at once: somebody waits for the status.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl Store {
    /// What is left at each place that is retired, as far as it and those that mirror it can be read now.
    pub async fn retiring(&self) -> Vec<RetiringPlace> {
        let Some(places) = &self.policy.places else {
            return Vec::new();
        };
        let retired = places.all.iter().filter(|(_, place)| place.retired);
        join_all(retired.map(|(name, place)| self.left_at(places, name, place))).await
    }

    /// The dead letters of some subscriptions that stayed at other places, as far as these can be read now: a subscription that moves
    /// leaves its letters behind.
    pub async fn letters_elsewhere<'a>(
        &self,
        subscriptions: impl Iterator<Item = &'a Registered>,
    ) -> BTreeMap<SubscriptionId, BTreeMap<PlaceName, u64>> {
        let moved: BTreeSet<_> = subscriptions.filter(|r| r.stay > 0).map(Registered::id).collect();
        let mut found: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        if moved.is_empty() {
            return found;
        }
        let others = self.policy.places.iter().flat_map(Places::others);
        let counted = others.map(|(name, place)| async move {
            let counts = timeout(ANSWERS_WITHIN, self.at(name, place).dead_letter_counts()).await;
            (name, counts.ok().and_then(Result::ok).unwrap_or_default())
        });
        for (name, counts) in join_all(counted).await {
            for (of, letters) in counts.into_iter().filter(|(of, _)| moved.contains(of)) {
                found.entry(of).or_default().insert(name.clone(), letters);
            }
        }
        found
    }

    async fn left_at(&self, places: &Places, name: &PlaceName, place: &Place) -> RetiringPlace {
        let mut left = RetiringPlace::new(name.clone());
        let there = self.at(name, place);
        let Ok(Ok(own)) = timeout(ANSWERS_WITHIN, there.count_left(&mut left)).await else {
            left.unread.insert(name.clone());
            return left.judged();
        };
        let stays = || {
            let others = places.all.iter().filter(|(other, _)| *other != name);
            others.filter(|(_, place)| !place.retired)
        };
        let nowhere = there.kept_nowhere(&own, stays().map(|(_, place)| place));
        match timeout(ANSWERS_WITHIN, nowhere).await {
            Ok(Ok(nowhere)) => left.kept_nowhere = nowhere,
            _ => drop(left.unread.insert(name.clone())),
        }
        let counted = stays().map(|(other, place)| {
            let own = &own;
            async move {
                let counted = timeout(ANSWERS_WITHIN, self.at(other, place).count_missing(place, own)).await;
                (other.clone(), counted.ok().and_then(Result::ok))
            }
        });
        for (other, missing) in join_all(counted).await {
            match missing {
                Some(missing) => drop(left.not_mirrored.insert(other, missing)),
                None => drop(left.unread.insert(other)),
            }
        }
        left.judged()
    }

    /// Counts what is left to do at this place. Returns its own partitions.
    async fn count_left(&self, left: &mut RetiringPlace) -> Result<Vec<Held>, StoreError> {
        let own = self.own_partitions().await;
        let own = own.map_err(StoreError::when("list its streams"))?;
        let scheduled = self.stream_info(&self.names.scheduled_stream()).await?;
        left.scheduled = scheduled.map_or(0, |info| info.state.messages);
        let here = self.with_layout(Layout {
            partitions: own
                .iter()
                .map(|held| (held.partition.number, held.partition.clone()))
                .collect(),
        });
        for registered in self.subscriptions().await?.values() {
            if registered.progress == Progress::Finished || registered.has_moved() {
                continue;
            }
            if registered.is_at_one_place() {
                left.subscriptions.insert(registered.subscription.name.clone());
            } else if registered.subscription.need != Need::Queue {
                let states = here.consumer_states(registered).await?;
                left.not_handled += states
                    .values()
                    .map(|s| (s.pending + s.unsettled).max(u64::from(!s.is_current)))
                    .sum::<u64>();
                left.not_handled += here.waiting_for_retry(registered).await?;
            }
        }
        Ok(own)
    }

    /// How many events of another place's partitions are not at this one, which is `place`.
    async fn count_missing(&self, place: &Place, theirs: &[Held]) -> Result<u64, StoreError> {
        let mut all = 0;
        for held in theirs.iter().filter(|held| place.keeps_any_of(&held.partition.slot)) {
            let number = held.partition.number;
            let info = self.stream_info(&self.names.partition(number)).await?;
            all += missing(info.as_ref().map(log_state).as_ref(), place, held);
        }
        Ok(all)
    }
}
