//! Hands a subscription over from one place to another.
//!
//! Each step is idempotent, and the place that has the subscription delivers nothing from the first one on:
//!
//! 1. Its entry says that it moves (compare and swap): its instances stop.
//! 2. What they have in flight is awaited. What they gave back is taken here, so that what is delivered and not settled is known by
//!    its offsets. Then the server pauses the consumer: a frozen instance that comes back is given nothing.
//! 3. Attempts, losses and retries are written at the next place.
//! 4. The next place's registry has it, with what was settled. It begins.
//! 5. The first place's entry says where it is. What was kept there goes.

use std::future::Future;
use std::time::{Duration, Instant};

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::message::PublishMessage;
use fanout_plan::isolation::Reader;
use fanout_plan::place::Places;
use fanout_plan::subscription::Registered;
use fanout_plan::withheld::Withheld;
use fanout_plan::{Code, PlaceName, Problem, Round, SubscriptionName};
use fanout_transport::causes;
use futures::TryStreamExt as _;
use tracing::debug;

use super::drained::{Drained, release};
use super::refusal::{found, there};
use super::{Store, StoreError};

/// What came of handing a subscription over.
#[derive(Clone, Debug)]
pub struct HandedOver {
    /// Which subscription.
    pub subscription: SubscriptionName,
    /// The place that had it; `None` where it was at its place already.
    pub from: Option<PlaceName>,
    /// The place that has it.
    pub to: PlaceName,
    /// Events that were delivered and not settled: they are delivered again.
    pub comes_again: usize,
    /// Events that wait for their next attempt, which went along.
    pub retries: usize,
    /// Dead letters that stay at the place where they are.
    pub dead_letters: u64,
    /// How long nothing was delivered, as far as it is known here.
    pub stood_still: Duration,
}

impl Store {
    /// Hands a subscription over to a place, with everything that is kept for it. What is in flight is awaited for `within`; what
    /// was interrupted goes on where it was.
    ///
    /// # Errors
    /// When a place can't be read or changed, what is in flight is not settled in time, or the subscription is none that is at
    /// one place.
    pub async fn hand_over(
        &self,
        name: &SubscriptionName,
        to: &PlaceName,
        within: Duration,
    ) -> Result<HandedOver, StoreError> {
        let handed = self.hand_over_step_by_step(name, to, within).await;
        handed.map_err(|error| does_not_answer(name, error))
    }

    async fn hand_over_step_by_step(
        &self,
        name: &SubscriptionName,
        to: &PlaceName,
        within: Duration,
    ) -> Result<HandedOver, StoreError> {
        let places = self.places_to_move(name)?;
        let next = self.store_at(places, to)?;
        let have = next.registered_at(to, name).await?;
        let (mut found, mut unread): (Option<(PlaceName, Self, Registered)>, _) = (None, Ok(()));
        let mut not_begun = Vec::new();
        for place in places.all.keys().filter(|place| *place != to) {
            let store = self.store_at(places, place)?;
            match store.registered(name).await {
                Ok(Some(registered)) if !matches!(registered.withheld, Some(Withheld::StandsAt(_))) => {
                    let is_last = !registered.has_moved();
                    let here = registered.withheld == Some(Withheld::MovedTo(to.clone()));
                    // One that is at every place is found where there is no other, to be said.
                    if let Some((earlier, _, before)) = &found
                        && is_last
                        && registered.is_at_one_place()
                        && !before.has_moved()
                    {
                        is_the_one(&registered, Some((earlier, before)), place)?;
                    }
                    let rank = |r: &Registered| (r.is_at_one_place(), !r.has_moved(), r.stay);
                    let before = found.as_ref().map(|(.., before)| rank(before));
                    if (is_last || here) && before.is_none_or(|before| before <= rank(&registered)) {
                        found = Some((place.clone(), store, registered));
                    }
                }
                Ok(_) => {}
                // It has none where the bus has not begun.
                Err(error) if has_no_registry(&error) => not_begun.push(place.to_string()),
                Err(error) => {
                    debug!(%place, %error, "a place can't be read");
                    unread = Err(error);
                }
            }
        }
        if let Some(have) = have.filter(|have| !have.has_moved()) {
            let other = found.as_ref().filter(|(.., seen)| !seen.has_moved());
            is_the_one(&have, other.map(|(place, _, seen)| (place, seen)), to)?;
            return self.finish(&next, have, found, to).await;
        }
        let Some((place, from, seen)) = found.filter(|(.., seen)| !seen.has_moved()) else {
            // It may be there.
            unread?;
            let lost = match not_begun.as_slice() {
                [] => String::new(),
                places => format!(
                    "; the bus has not begun at {}: where one of these had it, and has lost its store, `--from-lost` has it go on",
                    places.join(", ")
                ),
            };
            return Err(refused(
                Code::UnknownSubscription,
                format!("no place of this bus has a subscription {name}: `fanout status` lists those of a place{lost}"),
            ));
        };
        may_move(&seen, places, to)?;
        let moves = Withheld::MovesTo(to.clone());
        if seen.withheld.as_ref().is_some_and(|withheld| *withheld != moves) {
            // What was copied to the place that it was to move to is cleared by whoever takes that move back.
            return Err(StoreError::Refused(seen.withheld_problem().into_iter().collect()));
        }
        let was_interrupted = seen.withheld.is_some();
        let observed = from.observe().await?;
        let from = from.with_layout(observed.topology.layout());
        let began = Instant::now();
        let Some(seen) = from.withhold(&seen, Some(&moves)).await? else {
            return Err(StoreError::Raced {
                what: format!("subscription {name}"),
            });
        };
        let until = began + within;
        let cleared = async {
            // Of a move that was begun before and taken back while this place was lost: what it copied could not be cleared. Of one
            // that goes on now, what it copied is as it was.
            match was_interrupted {
                true => Ok(()),
                false => next.forget_copies(&seen).await,
            }
        };
        let drained = match from.stand_still(&seen, until, cleared).await {
            Ok(drained) => drained,
            Err(error) => {
                if was_interrupted {
                    next.forget_copies(&seen).await?;
                }
                from.take_back(&seen).await?;
                return Err(error);
            }
        };
        let comes_again = drained.iter().map(|d| d.comes_again).sum();
        let given = drained.iter().map(|d| (d.reader.clone(), d.to, d.except.clone()));
        let moved = seen.handed_over(given.collect());
        let retries = from.copy_retries(&seen, &next).await?;
        from.copy_attempts(&seen, &moved, &next).await?;
        next.take_over(&moved).await?;
        let stood_still = began.elapsed();
        let mut dead_letters = from.dead_letter_counts().await.unwrap_or_default();
        from.withhold(&seen, Some(&Withheld::MovedTo(to.clone()))).await?;
        from.let_go(&seen).await?;
        Ok(HandedOver {
            subscription: name.clone(),
            from: Some(place),
            to: to.clone(),
            comes_again,
            retries,
            dead_letters: dead_letters.remove(&seen.id()).unwrap_or(0),
            stood_still,
        })
    }

    /// Returns once everything that was delivered is settled or in hand here, and what has to be done meanwhile is done. Where either
    /// fails, nothing is in hand.
    async fn stand_still(
        &self,
        seen: &Registered,
        until: Instant,
        meanwhile: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<Vec<Drained>, StoreError> {
        let (drained, done) = tokio::join!(self.drain_all(seen, until), meanwhile);
        let drained = drained?;
        let retries_are_still = match done {
            Ok(()) => self.still_retries(seen, until).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = retries_are_still {
            release(&drained).await;
            return Err(error);
        }
        Ok(drained)
    }

    /// What is to be done where the place has the subscription already: it was interrupted, or is not to move at all.
    async fn finish(
        &self,
        here: &Self,
        have: Registered,
        other: Option<(PlaceName, Self, Registered)>,
        to: &PlaceName,
    ) -> Result<HandedOver, StoreError> {
        let mut from = None;
        if let Some(Withheld::MovesTo(place)) = &have.withheld {
            let is_place = |places: &&Places| places.all.contains_key(place);
            let next = match self.policy.places.as_ref().filter(is_place) {
                Some(places) => Some(self.store_at(places, place)?),
                None => None,
            };
            let there = match &next {
                Some(next) => Some(next.registered(&have.subscription.name).await),
                None => None,
            };
            let (Some(next), Some(there)) = (next, there.filter(|there| !there.as_ref().is_err_and(has_no_registry)))
            else {
                // That place was taken out of the policy meanwhile, or has lost its store: nothing can be asked of it, and should the
                // subscription have got there, that stay is over.
                here.take_back_from_lost(&have).await?;
                return Ok(HandedOver::is_there(&have, from, to));
            };
            let there = there?;
            if there.is_some_and(|there| there.id() == have.id() && there.withheld.is_none()) {
                here.withhold(&have, Some(&Withheld::MovedTo(place.clone()))).await?;
                let moved = Withheld::MovedTo(place.clone());
                return Err(StoreError::Refused(vec![moved.problem(&have.subscription.name)]));
            }
            // Nobody else has it: it goes on here.
            next.forget_copies(&have).await?;
            let observed = here.observe().await?;
            here.with_layout(observed.topology.layout()).take_back(&have).await?;
        } else if let Some((place, store, seen)) = other.filter(|(.., seen)| seen.id() == have.id()) {
            store.withhold(&seen, Some(&Withheld::MovedTo(to.clone()))).await?;
            let observed = store.observe().await?;
            store.with_layout(observed.topology.layout()).let_go(&seen).await?;
            // Where it had said so, all that was left to do is to let go.
            from = (!seen.has_moved()).then_some(place);
        } else if let Some(problem) = have.withheld_problem() {
            return Err(StoreError::Refused(vec![problem]));
        }
        Ok(HandedOver::is_there(&have, from, to))
    }

    /// What this place, which is named, has of a subscription that is to be there.
    pub(super) async fn registered_at(
        &self,
        place: &PlaceName,
        name: &SubscriptionName,
    ) -> Result<Option<Registered>, StoreError> {
        let bus = &self.policy.bus;
        self.registered(name).await.map_err(|error| match has_no_registry(&error) {
            true => refused(
                Code::PlaceUnreachable,
                format!(
                    "subscription {name}: the servers of place {place} answer, and bus {bus} has not begun there: start an instance with `--place {place}`, or run `fanout apply --place {place}`, and move it then"
                ),
            ),
            false => error,
        })
    }

    /// The places that a subscription can be moved between.
    pub(super) fn places_to_move(&self, name: &SubscriptionName) -> Result<&Places, StoreError> {
        self.policy.places.as_ref().ok_or_else(|| {
            refused(
                Code::ConflictingSettings,
                format!(
                    "subscription {name} can't be moved: the policy of bus {} has no places; name them as `[places.NAME]`",
                    self.policy.bus
                ),
            )
        })
    }

    pub(super) fn store_at(&self, places: &Places, name: &PlaceName) -> Result<Self, StoreError> {
        let place = places.all.get(name).ok_or_else(|| {
            let known: Vec<_> = places.all.keys().map(ToString::to_string).collect();
            refused(
                Code::UnknownPlace,
                format!("{name} is none of the policy's places: {}", known.join(", ")),
            )
        })?;
        Ok(self.at(name, place))
    }

    /// Lets a subscription's deliveries go on where they were.
    pub(super) async fn take_back(&self, seen: &Registered) -> Result<(), StoreError> {
        let readers: Vec<_> = self.readers_of(seen).map(|(_, reader)| reader).collect();
        for reader in readers {
            let name = seen.consumer_of(&reader);
            let resumed = self.log(reader.partition).await?.resume_consumer(&name).await;
            there(resumed, format!("let consumer {name} go on"))?;
        }
        let name = super::retries::retries_consumer_name(seen);
        let resumed = self.retry_stream().await?.resume_consumer(&name).await;
        there(resumed, format!("let consumer {name} of the retries go on"))?;
        self.withhold(seen, None).await.map(drop)
    }

    /// Clears at the next place what was copied there by a move that is taken back: it goes on to change where it was, and a later
    /// move would find it as it is now.
    pub(super) async fn forget_copies(&self, seen: &Registered) -> Result<(), StoreError> {
        let observed = self.observe().await?;
        self.with_layout(observed.topology.layout()).let_go(seen).await
    }

    /// Writes what waits for a retry at another place, too. Returns how many these are.
    async fn copy_retries(&self, seen: &Registered, next: &Self) -> Result<usize, StoreError> {
        let action = "copy the events that wait for a retry";
        let round = Round::of(seen);
        let of = self.names.retry_filter(&seen.id().name, Some(round));
        let stream = self.stream(self.names.retries()).await?;
        let subjects = stream.info_with_subjects(of).await.map_err(StoreError::when(action))?;
        let subjects: Vec<String> = subjects
            .map_ok(|(subject, _)| subject)
            .try_collect()
            .await
            .map_err(StoreError::when(action))?;
        for subject in &subjects {
            let waiting = found(stream.get_last_raw_message_by_subject(subject).await, action)?;
            let (Some(waiting), Some((round, at))) = (waiting, self.names.retry_of(subject)) else {
                continue;
            };
            let message = PublishMessage::build()
                .headers(waiting.headers.clone())
                .payload(waiting.payload)
                .expected_stream(next.names.retries());
            // One that is there was written before this was interrupted.
            let there = next.names.retry(&seen.id().name, round, at);
            next.swap(there, message, 0).await.map_err(StoreError::when(action))?;
        }
        Ok(subjects.len())
    }

    /// Writes the failed attempts of events that can come again at another place, and what the subscription has lost.
    async fn copy_attempts(&self, seen: &Registered, moved: &Registered, next: &Self) -> Result<(), StoreError> {
        let action = "copy failed attempts";
        let bucket = self.names.attempts();
        let stream = self.stream(format!("KV_{bucket}")).await?;
        let round = format!("{}={}", seen.id().name, Round::of(seen));
        let mut rounds = vec![round.clone()];
        for partition in self.layout.partitions.values().filter(|p| !p.log.is_unsaid()) {
            rounds.push(format!("{round}={}", partition.log));
        }
        let prefix = format!("$KV.{bucket}.");
        for round in rounds {
            let subjects = stream
                .info_with_subjects(format!("{prefix}{round}.>"))
                .await
                .map_err(StoreError::when(action))?;
            let subjects: Vec<String> = subjects
                .map_ok(|(subject, _)| subject)
                .try_collect()
                .await
                .map_err(StoreError::when(action))?;
            for subject in subjects {
                let entry = found(stream.get_last_raw_message_by_subject(&subject).await, action)?;
                let entry = entry.filter(|e| e.headers.get("KV-Operation").is_none());
                let (Some(entry), Some(key)) = (entry, subject.strip_prefix(&prefix)) else {
                    continue;
                };
                let message = PublishMessage::build().payload(entry.payload);
                let there = next.entry_subject(&bucket, key);
                next.swap(there, message, 0).await.map_err(StoreError::when(action))?;
            }
        }
        for (_, reader) in self.readers_of(seen) {
            let told = self.remembered_gap(seen, &reader).await?.gap;
            if told.has_lost() {
                let all = Reader { tenant: None, ..reader };
                let mut remembered = next.remembered_gap(moved, &all).await?;
                if !remembered.gap.has_lost() {
                    remembered.gap.take_over(&told);
                    next.remember_gap(moved, &all, remembered).await?;
                }
            }
        }
        Ok(())
    }
}

impl HandedOver {
    /// The place has it.
    fn is_there(have: &Registered, from: Option<PlaceName>, to: &PlaceName) -> Self {
        Self {
            subscription: have.subscription.name.clone(),
            from,
            to: to.clone(),
            comes_again: 0,
            retries: 0,
            dead_letters: 0,
            stood_still: Duration::ZERO,
        }
    }
}

/// Whether an answer says that there is no registry: the bus has not begun there, or its store has lost what it had.
pub(super) fn has_no_registry(error: &StoreError) -> bool {
    let answer = error.answer();
    answer.is_some_and(|a| a.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Whether what the next place has under a name is the subscription that is to be there, by what another place has of it.
///
/// # Errors
/// When they are two, or it is none that is at one place.
pub(super) fn is_the_one(
    have: &Registered,
    other: Option<(&PlaceName, &Registered)>,
    to: &PlaceName,
) -> Result<(), StoreError> {
    let name = &have.subscription.name;
    let another = other.filter(|(_, other)| other.is_at_one_place() && other.id() != have.id());
    match another {
        Some((place, _)) if !have.is_at_one_place() => Err(refused(
            Code::SubscriptionConflict,
            format!(
                "subscription {name}: place {to} has one of this name that is given the events of place {to} alone, and that of place {place} can't be there beside it: end the one at place {to}, or have one of both under another name, and run it again"
            ),
        )),
        // One that is withheld says why.
        Some((place, _)) if have.withheld.is_none() => Err(refused(
            Code::SubscriptionConflict,
            format!(
                "subscription {name}: places {to} and {place} each have one of this name, made while they could not see each other: the older one stands once both places are joined, and the other waits; end one of both, and run it again"
            ),
        )),
        None if !have.is_at_one_place() => Err(is_at_every_place(name)),
        _ => Ok(()),
    }
}

fn is_at_every_place(name: &SubscriptionName) -> StoreError {
    refused(
        Code::ConflictingSettings,
        format!("subscription {name} is at every place, each with its own events: there is nothing to move"),
    )
}

/// Whether a subscription can be at another place.
pub(super) fn may_move(seen: &Registered, places: &Places, to: &PlaceName) -> Result<(), StoreError> {
    let name = &seen.subscription.name;
    if !seen.is_at_one_place() {
        return Err(is_at_every_place(name));
    }
    if places.all.get(to).is_some_and(|place| place.retired) {
        return Err(refused(
            Code::PlaceRetired,
            format!("subscription {name}: place {to} is retired, and takes nothing new: move it to another"),
        ));
    }
    let keeps = places.all.get(to).map_or(&[][..], |place| &place.keeps);
    let wanted = &seen.subscription.filter.tenants;
    if !keeps.is_empty() && (wanted.is_empty() || !wanted.iter().all(|t| keeps.contains(t))) {
        return Err(refused(
            Code::WouldLoseEvents,
            format!(
                "subscription {name}: place {to} does not keep the other places' events of all its tenants: add them to `places.{to}.keeps`, or narrow the subscription"
            ),
        ));
    }
    Ok(())
}

/// What is said where a place does not answer while a subscription is moved.
pub(super) fn does_not_answer(name: &SubscriptionName, error: StoreError) -> StoreError {
    if !matches!(error, StoreError::Unavailable { .. }) {
        return error;
    }
    refused(
        Code::PlaceUnreachable,
        format!(
            "subscription {name}: a place that is needed to move it does not answer ({}): run it again once the link between the places is back; where the place that has it is lost for good, `--from-lost` has it go on at one that is there",
            causes(&error)
        ),
    )
}

pub(super) fn refused(code: Code, message: String) -> StoreError {
    StoreError::Refused(vec![Problem::new(code, message)])
}
