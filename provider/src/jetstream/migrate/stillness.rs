//! Nothing is delivered any more, and nothing that was delivered is unsettled: then each subscription says where it goes on.
//!
//! Each subscription is withheld in the registry, so that its instances stop, and is handed on to itself
//! ([`fanout_plan::handed`]): what goes on, here or where the bus goes, begins behind what was settled and passes over what was
//! settled beyond that. Who has an order, or redrives dead letters, loses its ownership first.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use fanout_plan::subscription::{Need, Registered};
use fanout_plan::topology::LEASES_AGE;
use fanout_plan::withheld::Withheld;
use fanout_plan::{Code, ConsumerName, Problem};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::time::sleep;

use super::super::acknowledgement::{Acknowledgement, acknowledge};
use super::super::{Contender, Store, StoreError, order_of, redrives_of};
use super::api::{consumer_name, refused};
use super::copies::EVERY;
use super::{Migration, Step};

/// Subscriptions that are brought to a standstill at once.
const AT_ONCE: usize = 16;

/// What stands still, and how much each consumer had given by then.
#[derive(Default)]
pub(super) struct Stillness {
    given: BTreeMap<(String, String), u64>,
    in_hand: Vec<jetstream::Message>,
    /// What had been delivered and not settled.
    pub(super) unsettled: BTreeMap<String, usize>,
}

impl Stillness {
    /// Gives back what was taken.
    pub(super) async fn release(&self) {
        for message in &self.in_hand {
            acknowledge(message, Acknowledgement::Nak(Duration::ZERO)).await;
        }
    }

    fn take_in(&mut self, other: Self) {
        self.given.extend(other.given);
        self.in_hand.extend(other.in_hand);
        self.unsettled.extend(other.unsettled);
    }
}

impl Migration {
    /// Subscriptions of which the store keeps something.
    async fn kept(&self) -> Result<Vec<Registered>, StoreError> {
        let registry = self.from.registry().await?;
        let policy = self.from.policy();
        let kept = registry.entries.into_values();
        // What is at most once, and in no store, goes on until the store is closed.
        Ok(kept
            .filter(|r| r.subscription.need != Need::Queue || r.subscription.keeps_a_place(policy))
            .collect())
    }

    fn has_migrated(&self, registered: &Registered) -> bool {
        registered.withheld == Some(Withheld::Migrated(self.to_domain.clone()))
    }

    /// Whether every subscription says where it goes on: one may have been made meanwhile.
    pub(super) async fn all_are_still(&self) -> Result<bool, StoreError> {
        Ok(self.kept().await?.iter().all(|r| self.has_migrated(r)))
    }

    /// Withholds every subscription, and awaits what is in flight.
    pub(super) async fn stand_still(&self, until: Instant) -> Result<Stillness, StoreError> {
        let observed = self.from.observe().await?;
        let from = &self.from.clone().with_layout(observed.topology.layout());
        let withheld: Vec<_> = futures::stream::iter(self.kept().await?)
            .map(|seen| self.withhold(from, seen))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        self.show(&Step::Withheld);
        let each = futures::stream::iter(withheld)
            .map(|seen| self.bring_to_a_stand(from, seen, until))
            .buffer_unordered(AT_ONCE);
        let results: Vec<_> = each.collect().await;
        let (mut still, mut failed) = (Stillness::default(), None);
        for result in results {
            match result {
                Ok(one) => still.take_in(one),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(error) = failed {
            still.release().await;
            return Err(not_drained(error));
        }
        self.show(&Step::Still);
        Ok(still)
    }

    async fn withhold(&self, from: &Store, seen: Registered) -> Result<Registered, StoreError> {
        if self.has_migrated(&seen) {
            return Ok(seen);
        }
        let migrates = Withheld::Migrates(self.to_domain.clone());
        let now = from.withhold(&seen, Some(&migrates)).await?;
        now.ok_or_else(|| StoreError::Raced {
            what: format!("subscription {}", seen.subscription.name),
        })
    }

    /// The same for one.
    async fn bring_to_a_stand(&self, from: &Store, seen: Registered, until: Instant) -> Result<Stillness, StoreError> {
        for owns in [order_of(&seen.id()), redrives_of(&seen.id())] {
            self.depose(from, &seen, &owns, until).await?;
        }
        let mut still = Stillness::default();
        let has_migrated = self.has_migrated(&seen);
        let drained = match has_migrated {
            // An earlier run has awaited it, and nothing was given since.
            true => Vec::new(),
            false => from.drain_all(&seen, until).await?,
        };
        let retries = match from.still_retries(&seen, until).await {
            Ok(retries) => retries,
            Err(error) => {
                super::super::drained::release(&drained).await;
                return Err(error);
            }
        };
        if let Some(retries) = retries {
            still
                .given
                .insert((from.names.retries(), retries.consumer), retries.given);
            still.in_hand.extend(retries.in_hand);
        }
        if has_migrated {
            return Ok(still);
        }
        let unsettled = drained.iter().map(|d| d.comes_again).sum();
        still.unsettled.insert(seen.subscription.name.to_string(), unsettled);
        for one in &drained {
            let consumer = seen.consumer_of(&one.reader).to_string();
            let stream = from.names.partition(one.reader.partition);
            still.given.insert((stream, consumer), one.given);
        }
        let given = drained.iter().map(|d| (d.reader.clone(), d.to, d.except.clone()));
        let moved = Registered {
            withheld: Some(Withheld::Migrated(self.to_domain.clone())),
            ..seen.handed_over(given.collect())
        };
        still.in_hand.extend(drained.into_iter().flat_map(|d| d.unsettled));
        let written = async {
            from.carry_losses(&seen, &moved).await?;
            match from.hand_on(&seen, &moved).await? {
                true => Ok(()),
                false => Err(StoreError::Raced {
                    what: format!("subscription {}", seen.subscription.name),
                }),
            }
        };
        if let Err(error) = written.await {
            still.release().await;
            return Err(error);
        }
        Ok(still)
    }

    /// Takes an ownership from whoever has it: who had it acts as an owner no more, and nobody contends for what is withheld.
    async fn depose(&self, from: &Store, seen: &Registered, owns: &str, until: Instant) -> Result<(), StoreError> {
        if from.owner(owns).await?.is_none() {
            return Ok(());
        }
        let term = from.policy().delivery.ack_wait;
        let term = term.clamp(Duration::from_secs(1), LEASES_AGE);
        let mut contender = Contender::new(from, owns, "migration", term);
        loop {
            if let Some(lease) = from.contend(&mut contender).await? {
                lease.release().await;
                return Ok(());
            }
            if Instant::now() > until {
                return Err(refused(
                    Code::NotDrained,
                    format!(
                        "subscription {}: the instance that owns its order or its redriven dead letters has not let go of them",
                        seen.subscription.name
                    ),
                ));
            }
            sleep(EVERY).await;
        }
    }

    /// Whether nobody was given anything since, now that the store is closed; then no consumer is left by which anybody could
    /// be, or could settle anything.
    pub(super) async fn is_still(&self, still: &Stillness) -> Result<bool, StoreError> {
        let streams = self.from.migrated_streams().await?;
        let consumers = self.from.settling_consumers(&streams).await?;
        let delivers = |stream: &str| stream == self.from.names.retries() || self.from.partition_of(stream).is_some();
        for (stream, consumer) in consumers.iter().filter(|(stream, _)| delivers(stream)) {
            let given = consumer["delivered"]["consumer_seq"].as_u64().unwrap_or(0);
            let then = still.given.get(&(stream.clone(), consumer_name(consumer).to_owned()));
            let is_still = match then {
                Some(then) => *then == given,
                // What an earlier run has paused, or an instance made for what is withheld.
                None => given == 0 || consumer["paused"] == true,
            };
            if !is_still {
                return Ok(false);
            }
        }
        futures::stream::iter(consumers)
            .map(|(stream, consumer): (String, Value)| async move { self.from.remove_consumer(&stream, &consumer).await })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(true)
    }

    /// Lets every subscription of a store be delivered that this migration withholds.
    pub(super) async fn release(&self, store: &Store) -> Result<(), StoreError> {
        let ours = [
            Some(Withheld::Migrates(self.to_domain.clone())),
            Some(Withheld::Migrated(self.to_domain.clone())),
        ];
        let registry = store.registry().await?;
        let withheld = registry.entries.into_values().filter(|r| ours.contains(&r.withheld));
        futures::stream::iter(withheld)
            .map(|seen| async move { store.withhold(&seen, None).await.map(drop) })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// Has the consumers of the old store that stand still deliver again. A subscription that was handed on goes on by others: by
    /// those that it had, an instance that does not know it yet would be given what it is given once more.
    pub(super) async fn resume(&self) -> Result<(), StoreError> {
        let streams = self.from.migrated_streams().await?;
        let registry = self.from.registry().await?;
        for (stream, consumer) in self.from.settling_consumers(&streams).await? {
            let name = ConsumerName::from(consumer_name(&consumer));
            let of = name.subscription().and_then(|of| registry.entries.get(&of));
            let was_its = |of: &Registered| self.has_migrated(of) && of.consumer_name() != name;
            if self.from.partition_of(&stream).is_some() && of.is_some_and(was_its) {
                self.from.remove_consumer(&stream, &consumer).await?;
            } else if consumer["paused"] == true {
                let subject = format!("CONSUMER.PAUSE.{stream}.{}", consumer_name(&consumer));
                // One that its instance has removed meanwhile is as good.
                self.from.answer_of(&subject, &serde_json::json!({})).await?;
            }
        }
        Ok(())
    }
}

/// What was not settled in time, as a migration says it.
fn not_drained(error: StoreError) -> StoreError {
    let StoreError::Refused(problems) = error else {
        return error;
    };
    let said = problems.into_iter().map(|problem| match problem.code {
        Code::StillInFlight | Code::NotDrained => Problem::new(
            Code::NotDrained,
            format!(
                "{}; nothing was switched, and the bus goes on where it was: end the subscriber that holds them, or give it longer with `--drain-seconds`",
                problem.message.split(": its deliveries").next().unwrap_or_default()
            ),
        ),
        _ => problem,
    });
    StoreError::Refused(said.collect())
}
