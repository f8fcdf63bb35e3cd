//! Has a subscription go on at another place while the place that had it is lost: nothing can be asked of it, and it can't be told.
//!
//! The next place begins by what was written down of it elsewhere ([`super::last_known`]). Its entry is of a later stay: by that
//! the lost place, should it come back, finds at its first look that the subscription went on elsewhere, and lets it go
//! (`plan/planner/rivals.rs`).

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use fanout_plan::isolation::Reader;
use fanout_plan::last_known::LastKnown;
use fanout_plan::partition::Partition;
use fanout_plan::place::Places;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::withheld::Withheld;
use fanout_plan::{Code, PlaceName, Position, SubscriptionName, Timestamp};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::hand_over::{does_not_answer, has_no_registry, is_the_one, may_move, refused};
use super::registry::Entry;
use super::{Store, StoreError};

/// How often the lost place is asked, how long it is given each time, and how long is waited in between: a link that is made anew
/// is not a place that is lost.
const ASKED: usize = 3;
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const ASKED_AGAIN: Duration = Duration::from_millis(500);
/// How long the server remembers a consumer that only counts.
const COUNTS_FOR: Duration = Duration::from_secs(5);

/// What came of having a subscription go on while its place is lost.
#[derive(Clone, Debug)]
pub struct WentOn {
    /// Which subscription.
    pub subscription: SubscriptionName,
    /// The place that is lost; `None` where the subscription was at its next place already.
    pub from: Option<PlaceName>,
    /// The place that has it.
    pub to: PlaceName,
    /// When that was written down last by which it goes on, by the clock of that store. Nothing of it changed from then on
    /// until shortly before its place was lost.
    pub known_at: Option<Timestamp>,
    /// Events that it is given from now on of what is here: those of them that the lost place had handled since come again.
    pub may_come_again: u64,
    /// Events that waited for a retry: they are delivered as if for the first time.
    pub retries: usize,
    /// What the lost place is known to have stored and is not here.
    pub not_mirrored: Vec<NotMirrored>,
}

/// Events of a lost place that are not at another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotMirrored {
    /// The first position.
    pub first: Position,
    /// The last that is known of.
    pub last: Position,
}

/// What is known elsewhere of a subscription at a place that does not answer.
struct Lost {
    place: PlaceName,
    known: LastKnown,
    at: Timestamp,
}

impl Store {
    /// Has a subscription whose place is lost go on at another place, by what was written down of it there, or at a third one that
    /// can be read.
    ///
    /// # Errors
    /// When the place that has it answers, nothing is known of it, it can't be at that place, or that place can't be changed.
    pub async fn take_from_lost(&self, name: &SubscriptionName, to: &PlaceName) -> Result<WentOn, StoreError> {
        let went_on = self.take_step_by_step(name, to).await;
        went_on.map_err(|error| does_not_answer(name, error))
    }

    async fn take_step_by_step(&self, name: &SubscriptionName, to: &PlaceName) -> Result<WentOn, StoreError> {
        let places = self.places_to_move(name)?;
        let next = self.store_at(places, to)?;
        let have = next.registered_at(to, name).await?;
        if let Some(have) = have.as_ref().filter(|have| have.withheld.is_none()) {
            let other = self.another_than(have, places, to).await?;
            is_the_one(have, other.as_ref().map(|(place, other)| (place, other)), to)?;
            return Ok(WentOn::is_there(name, to));
        }
        let lost = self.lost_places(places, name, to).await?;
        let known = self.last_known_of(&lost, places, name, to).await?;
        // What is known of an earlier stay says nothing of what came after it.
        let is_later = |lost: &Lost| {
            let of = &lost.known.registered;
            have.as_ref()
                .is_none_or(|have| have.id() != of.id() || of.stay > have.stay)
        };
        let Some(lost) = known.filter(is_later) else {
            if let Some(have) = have.filter(|have| matches!(have.withheld, Some(Withheld::MovesTo(_)))) {
                next.take_back_from_lost(&have).await?;
                return Ok(WentOn::is_there(name, to));
            }
            return Err(refused(
                Code::UnknownSubscription,
                format!(
                    "nothing is known of a subscription {name} at a place that can't be read: what a place has is known at the others within some seconds, for as long as events are retained; without `--from-lost` it is handed over by a place that can be read"
                ),
            ));
        };
        may_move(&lost.known.registered, places, to)?;
        let moved = lost.known.begun_elsewhere();
        // Of a move that was interrupted: they are older than what is known, and everything that they are of is delivered.
        next.forget_copies(&moved).await?;
        next.take_over(&moved).await?;
        let observed = next.observe().await?;
        let next = next.with_layout(observed.topology.layout());
        Ok(WentOn {
            subscription: name.clone(),
            from: Some(lost.place.clone()),
            to: to.clone(),
            known_at: Some(lost.at),
            may_come_again: next.count_what_comes(&moved).await?,
            retries: lost.known.waiting(),
            not_mirrored: next.not_mirrored(&lost).await?,
        })
    }

    /// What another place has under the name of a subscription, or had when it was read last, if that is another than this one.
    async fn another_than(
        &self,
        have: &Registered,
        places: &Places,
        to: &PlaceName,
    ) -> Result<Option<(PlaceName, Registered)>, StoreError> {
        let name = &have.subscription.name;
        let is_another = |other: &Registered| {
            let gives_way = other.has_moved() || matches!(other.withheld, Some(Withheld::StandsAt(_)));
            other.is_at_one_place() && !gives_way && other.id() != have.id()
        };
        let mut lost = Vec::new();
        for place in places.all.keys().filter(|place| *place != to) {
            match self.store_at(places, place)?.asked_for(name).await? {
                Some(Entry::There(other)) if is_another(&other) => return Ok(Some((place.clone(), *other))),
                None | Some(Entry::Nothing) => lost.push(place),
                Some(_) => {}
            }
        }
        let known = self.last_known_of(&lost, places, name, to).await?;
        let known = known.map(|lost| (lost.place, lost.known.registered));
        Ok(known.filter(|(_, other)| is_another(other)))
    }

    /// The places that may have a subscription and can't tell: they do not answer, or have come back without what they had. Where one
    /// that answers has it, it is handed over as it should be.
    async fn lost_places<'a>(
        &self,
        places: &'a Places,
        name: &SubscriptionName,
        to: &PlaceName,
    ) -> Result<Vec<&'a PlaceName>, StoreError> {
        let (mut lost, mut on_its_way) = (Vec::new(), None);
        for place in places.all.keys().filter(|place| *place != to) {
            let store = self.store_at(places, place)?;
            let answers = |what: &str| {
                Err(refused(
                    Code::PlaceNotLost,
                    format!(
                        "subscription {name}: place {place} answers, and {what}: `fanout move {name} --to {to}` without `--from-lost` hands it over, and has nothing come again"
                    ),
                ))
            };
            match store.asked_for(name).await? {
                None | Some(Entry::Nothing) => lost.push(place),
                Some(Entry::Ended(_)) => {}
                // What each place has of its own is another.
                Some(Entry::There(have)) if have.has_moved() || !have.is_at_one_place() => {}
                Some(Entry::There(have)) if matches!(have.withheld, Some(Withheld::StandsAt(_))) => {}
                Some(Entry::There(have)) => match have.withheld {
                    Some(Withheld::MovesTo(next)) if next != *to => on_its_way = Some((place, next)),
                    _ => return answers("has it"),
                },
                Some(Entry::Unreadable(problem)) => return Err(StoreError::Refused(vec![problem])),
            }
        }
        if let Some((place, next)) = on_its_way {
            return Err(refused(
                Code::Moving,
                format!(
                    "subscription {name} is being handed over from place {place} to place {next}: run `fanout move {name} --to {place}` first, with `--from-lost` where place {next} does not answer, and move it from there"
                ),
            ));
        }
        Ok(lost)
    }

    /// What this place's registry holds under a name; `None` where nobody answers.
    async fn asked_for(&self, name: &SubscriptionName) -> Result<Option<Entry>, StoreError> {
        for asked in 1..=ASKED {
            match timeout(ANSWERS_WITHIN, self.entry_of(name)).await {
                Ok(Ok((entry, _))) => return Ok(Some(entry)),
                // It came back without what it had.
                Ok(Err(error)) if has_no_registry(&error) => return Ok(Some(Entry::Nothing)),
                Ok(Err(error)) if error.answer().is_some() => return Err(error),
                Ok(Err(error)) => debug!(%error, "a place does not answer"),
                Err(_) => debug!("a place does not answer in time"),
            }
            if asked < ASKED {
                sleep(ASKED_AGAIN).await;
            }
        }
        Ok(None)
    }

    /// The newest of what is written down, at the places that can be read, of a subscription at those that are lost.
    async fn last_known_of(
        &self,
        lost: &[&PlaceName],
        places: &Places,
        name: &SubscriptionName,
        to: &PlaceName,
    ) -> Result<Option<Lost>, StoreError> {
        let mut newest: Option<Lost> = None;
        for by in places.all.keys() {
            let store = self.store_at(places, by)?;
            for of in lost.iter().filter(|of| **of != by) {
                let known = match timeout(ANSWERS_WITHIN, store.known_elsewhere(of, name)).await {
                    Ok(Ok(known)) => known,
                    Ok(Err(error)) if by == to => return Err(error),
                    _ => break,
                };
                let Some((known, at)) = known else { continue };
                if newest.as_ref().is_none_or(|have| have.known.knows() < known.knows()) {
                    let place = (*of).clone();
                    newest = Some(Lost { place, known, at });
                }
            }
        }
        Ok(newest)
    }

    /// Lets a subscription go on at this place that was on its way to the one that is lost, of which it is not known that it got
    /// there. Had it got there, that stay is over.
    pub(super) async fn take_back_from_lost(&self, have: &Registered) -> Result<(), StoreError> {
        let observed = self.observe().await?;
        let store = self.with_layout(observed.topology.layout());
        store.begin_later_stay(have).await?;
        store.take_back(have).await
    }

    /// How many events a subscription is given here, once its consumers are made.
    async fn count_what_comes(&self, moved: &Registered) -> Result<u64, StoreError> {
        let mut all = 0;
        for partition in self.partitions_of(&moved.subscription) {
            all += self.count_in(moved, partition).await?;
        }
        Ok(all)
    }

    async fn count_in(&self, moved: &Registered, partition: &Partition) -> Result<u64, StoreError> {
        let action = "count the events that come";
        let number = partition.number;
        let reader = Reader {
            partition: number,
            tenant: None,
        };
        let Some(filter) = moved.filter_of(&reader, partition) else {
            return Ok(0);
        };
        // Behind what was settled for sure; what waited for a retry is before that, and counted apart.
        let joined = moved.rejoined.as_ref().filter(|j| j.after.knows(number));
        let settled = moved.handed.as_ref().and_then(|handed| handed.given_to(number));
        let after = settled.or_else(|| joined.map(|j| j.after.of(number)));
        let after = after.unwrap_or_else(|| match moved.needs_now() {
            Need::Durable => moved.head.of(number),
            Need::Queue | Need::Backfill { .. } => 0,
        });
        let log = self.log(number).await?;
        let counts = log.create_consumer(pull::Config {
            filter_subjects: filter.subject_filters(&partition.template),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after + 1,
            },
            ack_policy: AckPolicy::None,
            headers_only: true,
            inactive_threshold: COUNTS_FOR,
            ..pull::Config::default()
        });
        let counts = counts.await.map_err(StoreError::when(action))?;
        let info = counts.cached_info();
        let pending = info.num_pending;
        if let Err(error) = log.delete_consumer(&info.name).await {
            debug!(%error, "a consumer that counted goes by itself");
        }
        Ok(pending)
    }

    /// What is known of that the lost place had stored, and that is not here.
    async fn not_mirrored(&self, lost: &Lost) -> Result<Vec<NotMirrored>, StoreError> {
        let mirrors = self.mirrors().await?;
        let missing = mirrors.iter().filter(|m| m.place == lost.place).filter_map(|m| {
            let head = lost.known.heads.of(m.partition).max(m.reached + m.lag.unwrap_or(0));
            (head > m.reached).then(|| NotMirrored {
                first: Position::new(m.partition, m.reached + 1),
                last: Position::new(m.partition, head),
            })
        });
        Ok(missing.collect())
    }
}

impl WentOn {
    /// There is nothing to do.
    fn is_there(name: &SubscriptionName, to: &PlaceName) -> Self {
        Self {
            subscription: name.clone(),
            from: None,
            to: to.clone(),
            known_at: None,
            may_come_again: 0,
            retries: 0,
            not_mirrored: Vec::new(),
        }
    }
}
