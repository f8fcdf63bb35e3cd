//! The switch: the old store is closed, the mirrors become streams, and the bus begins there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fanout_plan::Code;
use fanout_plan::migration::Stage;
use futures::future::try_join_all;
use serde_json::{Value, json};

use super::super::account::refusal;
use super::super::apply::MADE_AT;
use super::super::leases::{Contender, Lease};
use super::super::observe::moment;
use super::super::{Store, StoreError};
use super::api::{mark, refused};
use super::{MIGRATION, Migration, Step, Switched};

/// What a closed stream had, as JSON.
const HAD: &str = "fanout-migration-had";
/// Which members of its configuration these are.
const TAKEN: [&str; 2] = ["subjects", "republish"];
/// For how long whoever migrates a bus owns its migration.
const TERM: Duration = Duration::from_secs(2);

/// The subject that a closed stream has, on which its last message is stored.
fn of_the_closed(stream: &str) -> String {
    format!("fanout.moved.{stream}")
}

impl Migration {
    /// Switches: deliveries are drained, publishing is refused, what is missing is copied, mirrors are promoted. Until the log
    /// is promoted, which is the first, what fails or is refused leaves the bus where it was. May be called again after it was
    /// cut short.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn switch(&mut self, drain_within: Duration) -> Result<Switched, StoreError> {
        let mut lease = self.own().await?;
        let outcome = self.switch_once(drain_within);
        let outcome = owned(&mut lease, outcome).await;
        lease.release().await;
        outcome
    }

    async fn switch_once(&mut self, drain_within: Duration) -> Result<Switched, StoreError> {
        let stood = Instant::now();
        let mut began = stood;
        let mut unsettled = BTreeMap::new();
        if self.stage().await?.goes_back() {
            match self.close_when_still(stood + drain_within).await {
                Ok((closed_at, of)) => (began, unsettled) = (closed_at, of),
                Err(error) => {
                    self.give_back().await?;
                    return Err(error);
                }
            }
            let first = self.promote_first().await;
            // What the server refused it has not done. Where it said nothing it may have: then nothing is opened.
            if let Err(StoreError::Refused(_)) = first
                && self.stage().await?.goes_back()
            {
                self.give_back().await?;
            }
            first?;
        }
        self.promote().await?;
        self.release(&self.to).await?;
        self.show(&Step::Released);
        self.open().await?;
        let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(Switched {
            refused_ms: ms(began),
            undelivered_ms: ms(stood),
            subscriptions: unsettled,
            streams: self.streams().await?,
        })
    }

    /// Closes the old store once nothing is in flight, and waits until the mirrors are equal.
    async fn close_when_still(&mut self, until: Instant) -> Result<(Instant, BTreeMap<String, usize>), StoreError> {
        // What an earlier run has closed is open again until it is known that nothing is in flight.
        self.close(false).await?;
        let mut unsettled = BTreeMap::new();
        loop {
            let still = self.stand_still(until).await?;
            unsettled.extend(still.unsettled.clone());
            // Most of what there is to compare was stored until now, and somebody may have made a stream there.
            let ready = async {
                self.compare().await?;
                self.check_target().await
            };
            if let Err(error) = ready.await {
                still.release().await;
                return Err(error);
            }
            let began = Instant::now();
            self.close(true).await?;
            self.show(&Step::Closed);
            if self.all_are_still().await? {
                if !self.is_still(&still).await? {
                    still.release().await;
                    return Err(refused(
                        Code::NotDrained,
                        format!(
                            "bus {}: an instance was given events although its deliveries stand still: nothing was switched, and the bus goes on where it was; migrate once more",
                            self.from.policy().bus
                        ),
                    ));
                }
                self.become_equal().await?;
                self.show(&Step::Equal);
                return Ok((began, unsettled));
            }
            // A subscription was made meanwhile.
            self.close(false).await?;
            if Instant::now() > until {
                still.release().await;
                return Err(refused(
                    Code::NotDrained,
                    format!(
                        "bus {}: subscriptions go on to be made: nothing was switched, and the bus goes on where it was; migrate once more",
                        self.from.policy().bus
                    ),
                ));
            }
        }
    }

    /// Takes the subjects from every stream where the bus leaves, or gives them back. The last message of a closed stream says
    /// where it ends, so that its copy ends there, too.
    async fn close(&self, closed: bool) -> Result<(), StoreError> {
        let streams = self.from.migrated_streams().await?;
        let each = streams.iter().map(|stream| async move {
            let Some(info) = self.from.raw_info(stream, false).await? else {
                return Ok(());
            };
            if mark(&info, MIGRATION).is_some() == closed {
                return Ok(());
            }
            let mut config = info["config"].clone();
            if closed {
                let had: Value = TAKEN.iter().map(|member| (*member, config[*member].clone())).collect();
                config["metadata"][HAD] = had.to_string().into();
                config["metadata"][MIGRATION] = format!("to {}", self.to_domain).into();
                config["subjects"] = json!([of_the_closed(stream)]);
                config["republish"] = Value::Null;
            } else {
                config = reopened(config)?;
            }
            self.from
                .request_api(&format!("STREAM.UPDATE.{stream}"), &config)
                .await?;
            if closed {
                // One that is full takes none, and ends with what it has.
                let marker = self.from.nats().request(of_the_closed(stream), "".into()).await;
                marker.map(drop).map_err(StoreError::when(format!("end {stream}")))?;
            } else {
                self.from.remove_marker(stream).await?;
            }
            Ok::<_, StoreError>(())
        });
        try_join_all(each).await.map(drop)
    }

    /// Has the bus go on where it was.
    async fn give_back(&self) -> Result<(), StoreError> {
        self.close(false).await?;
        self.resume().await?;
        self.release(&self.from).await
    }

    /// Leaves the bus where it was, and removes the mirrors.
    ///
    /// # Errors
    /// When a stream was promoted already, or a store can't be reached.
    pub async fn back(&self) -> Result<(), StoreError> {
        let mut lease = self.own().await?;
        let outcome = owned(&mut lease, self.back_once()).await;
        lease.release().await;
        outcome
    }

    async fn back_once(&self) -> Result<(), StoreError> {
        let stage = self.stage().await?;
        if !stage.goes_back() {
            return Err(refused(
                Code::BusMoved,
                format!(
                    "bus {} is {} in domain {}: it can't go back by this; go on with `fanout migrate`, or migrate it the other way",
                    self.from.policy().bus,
                    stage.as_str(),
                    self.to_domain
                ),
            ));
        }
        if stage != Stage::NotBegun {
            self.give_back().await?;
        }
        for stream in self.to.migrated_streams().await? {
            let info = self.to.raw_info(&stream, false).await?;
            if info.is_some_and(|info| mark(&info, MIGRATION).is_some() && info["config"]["mirror"].is_object()) {
                self.remove_mirror(&stream).await?;
            }
        }
        Ok(())
    }

    /// Makes a stream of the newest part of the log: as long as it is a mirror, nothing is stored where the bus goes, and it can go
    /// back. What another stream there holds is most likely one of its subjects.
    async fn promote_first(&self) -> Result<(), StoreError> {
        let streams = self.from.migrated_streams().await?;
        let parts = streams
            .iter()
            .filter_map(|s| Some((self.from.names.partition_of(s)?, s)));
        let Some((_, first)) = parts.max() else {
            return Ok(());
        };
        self.promote_one(
            first,
            "nothing was switched, and the bus goes on where it was; migrate once more then",
        )
        .await
    }

    /// Makes ordinary streams of all mirrors, which are marked until all are.
    async fn promote(&self) -> Result<(), StoreError> {
        let goes_on =
            "the log was promoted already, and nothing is stored until the rest is: run `fanout migrate` again then";
        let streams = self.from.migrated_streams().await?;
        try_join_all(streams.iter().map(|stream| self.promote_one(stream, goes_on)))
            .await
            .map(drop)
    }

    /// The same for one. `then` is said of what the server refuses.
    async fn promote_one(&self, stream: &str, then: &str) -> Result<(), StoreError> {
        let both = tokio::try_join!(self.from.raw_info(stream, false), self.to.raw_info(stream, false))?;
        let (Some(at), Some(copy)) = both else {
            return Ok(());
        };
        if copy["config"]["mirror"].is_object() {
            let mut config = reopened(at["config"].clone())?;
            config["placement"] = copy["config"]["placement"].clone();
            config["metadata"][MIGRATION] = format!("from {}", self.from_domain).into();
            if self.from.names.partition_of(stream).is_some()
                && let Some(info) = self.to.stream_info(stream).await?
            {
                // Which makes it the log that it says it is.
                config["metadata"][MADE_AT] = moment(info.created).nanoseconds().to_string().into();
            }
            let answer = self.to.answer_of(&format!("STREAM.UPDATE.{stream}"), &config).await?;
            if let Some(error) = answer.get("error") {
                return Err(self.not_taken(&format!("make a stream of the copy of {stream}"), error, then));
            }
            self.show(&Step::Promoted(stream.to_owned()));
        }
        self.to.remove_marker(stream).await
    }

    /// What the server of the target answered that it does not do.
    pub(super) fn not_taken(&self, what: &str, error: &Value, then: &str) -> StoreError {
        let known = refusal(error["err_code"].as_u64().unwrap_or(0));
        let (code, what_to_do) = known.unwrap_or((Code::StoreRefused, "look up what it says"));
        refused(
            code,
            format!(
                "bus {}: the server of domain {} did not {what}: {} ({}): {what_to_do}; {then}",
                self.from.policy().bus,
                self.to_domain,
                error["description"].as_str().unwrap_or_default(),
                error["err_code"]
            ),
        )
    }

    /// Lets instances begin where the bus goes.
    async fn open(&self) -> Result<(), StoreError> {
        let streams = self.from.migrated_streams().await?;
        // An instance does not begin before the last.
        let Some((last, others)) = streams.split_last() else {
            return Ok(());
        };
        try_join_all(others.iter().map(|stream| self.open_one(stream))).await?;
        self.open_one(last).await
    }

    async fn open_one(&self, stream: &str) -> Result<(), StoreError> {
        let Some(info) = self.to.raw_info(stream, false).await? else {
            return Ok(());
        };
        if mark(&info, MIGRATION).is_none() {
            return Ok(());
        }
        let mut config = info["config"].clone();
        if let Some(marks) = config["metadata"].as_object_mut() {
            marks.remove(MIGRATION);
        }
        self.to.request_api(&format!("STREAM.UPDATE.{stream}"), &config).await?;
        self.show(&Step::Opened(stream.to_owned()));
        Ok(())
    }

    /// Of two who migrate a bus at once one waits, and is refused.
    async fn own(&self) -> Result<Lease, StoreError> {
        let mut contender = Contender::new(&self.from, "migration", "migration", TERM);
        let until = Instant::now() + 3 * TERM;
        while Instant::now() < until {
            if let Some(lease) = self.from.contend(&mut contender).await? {
                return Ok(lease);
            }
            tokio::time::sleep(TERM / 40).await;
        }
        Err(is_owned())
    }
}

/// Another owns the migration.
fn is_owned() -> StoreError {
    refused(
        Code::BusMigrating,
        "another `fanout migrate` of this bus is under way: wait for it; one that was killed is waited for for some seconds".to_owned(),
    )
}

/// Acts as the owner of a migration, until another owns it.
async fn owned<T>(lease: &mut Lease, acts: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::select! {
        biased;
        outcome = acts => outcome,
        () = lease.keep() => Err(is_owned()),
    }
}

impl Store {
    async fn remove_marker(&self, stream: &str) -> Result<(), StoreError> {
        let purge = json!({ "filter": of_the_closed(stream) });
        self.request_api(&format!("STREAM.PURGE.{stream}"), &purge)
            .await
            .map(drop)
    }
}

/// A configuration with what it had before it was closed.
pub(super) fn reopened(mut config: Value) -> Result<Value, StoreError> {
    let Some(had) = config["metadata"][HAD].as_str() else {
        return Ok(config);
    };
    let had: Value = serde_json::from_str(had).map_err(StoreError::when("read what a closed stream had"))?;
    for member in TAKEN {
        config[member] = had[member].clone();
    }
    if let Some(marks) = config["metadata"].as_object_mut() {
        marks.remove(HAD);
        marks.remove(MIGRATION);
    }
    Ok(config)
}
