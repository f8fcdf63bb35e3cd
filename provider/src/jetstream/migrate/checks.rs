//! What has to hold before anything is changed.

use std::time::Duration;

use async_nats::jetstream::stream;
use fanout_plan::migration::{self, Stage};
use fanout_plan::planner::Observed;
use fanout_plan::topology::Topology;
use fanout_plan::{Code, in_force};
use futures::future::try_join_all;
use serde_json::Value;

use super::super::observe::{self, bucket_spec, partition, stream_spec};
use super::super::{Store, StoreError};
use super::api::refused;
use super::switch::reopened;
use super::{MIGRATION, Migration};

/// How long the other domain may take to answer over the link.
const ANSWERS_IN: Duration = Duration::from_secs(2);

impl Migration {
    /// Whether it can go from here to there, and how far it has come. Looks at both stores and changes nothing.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn check(&self) -> Result<Stage, StoreError> {
        let (supported, stage) = (self.check_kind().await, self.stage().await);
        let goes_on = stage.as_ref().is_ok_and(|stage| !stage.goes_back());
        if !goes_on {
            // What lies there is in nobody's way as long as the bus can't go anywhere.
            supported?;
            self.check_policy().await?;
        }
        let stage = stage?;
        if !goes_on {
            self.check_subscriptions().await?;
            self.to.fits_the_server().map_err(|p| StoreError::Refused(vec![p]))?;
            let (ours, theirs) = (self.from.max_request(), self.to.max_request());
            if theirs < ours {
                return Err(self.not_migratable(&format!(
                    "the server of domain {} takes messages of {theirs} bytes (`max_payload`), and that of domain {} of {ours}: give it as much",
                    self.to_domain, self.from_domain
                )));
            }
            self.check_link().await?;
        }
        if stage != Stage::Done {
            self.check_target().await?;
        }
        Ok(stage)
    }

    /// By what the policy and the streams are, whichever of both is right.
    async fn check_kind(&self) -> Result<(), StoreError> {
        if let Some(problem) = migration::unsupported(self.from.policy()) {
            return Err(StoreError::Refused(vec![problem]));
        }
        for (stream, config) in self.from.migrated_configs().await? {
            let is_copy = config.mirror.is_some() || config.sources.is_some();
            if is_copy && config.metadata.contains_key(MIGRATION) {
                // Which migration's, says how far that has come.
                continue;
            }
            if let Some(number) = self.from.names.partition_of(&stream) {
                let Some(part) = partition(number, &config) else {
                    return Err(self.not_migratable(&format!("{stream} was not made by Fanout")));
                };
                if let Some(problem) = migration::unsupported_part(self.from.policy(), &part) {
                    return Err(StoreError::Refused(vec![problem]));
                }
            }
            if config.allow_message_counter {
                return Err(self.not_migratable(&format!(
                    "{stream} holds counters, and a mirror of counters can't be promoted (nats-server 2.15): take the bound of stored bytes out of the policy, apply it, and remove the stream"
                )));
            }
            if is_copy {
                return Err(self.not_migratable(&format!("{stream} is a copy of another stream")));
            }
        }
        Ok(())
    }

    /// Whether the policy is the one that the bus is under.
    async fn check_policy(&self) -> Result<(), StoreError> {
        let name = self.from.names.dead_letters();
        let Some(letters) = self.from.stream_info(&name).await? else {
            return Ok(());
        };
        let theirs = observe::in_force(&letters.config);
        let another = theirs.and_then(|theirs| in_force::is_another(self.from.policy(), &theirs));
        another.map_or(Ok(()), |p| Err(StoreError::Refused(vec![p])))
    }

    /// Whether the store that the bus goes to can hold its streams as they are, whatever the policy says of them.
    pub(super) async fn check_target(&self) -> Result<(), StoreError> {
        let (bus, topology, account) = tokio::try_join!(
            self.from.migrated_topology(),
            self.to.migrated_topology(),
            self.to.account()
        )?;
        let mut target = Observed {
            account,
            topology,
            ..Observed::default()
        };
        // Of all others the subjects are noted.
        self.to.streams_of_the_account(&mut target).await?;
        let problems = migration::refusals(self.to.policy(), &bus, &target);
        match problems.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Refused(problems)),
        }
    }

    /// What can't be read can't be taken along.
    async fn check_subscriptions(&self) -> Result<(), StoreError> {
        let registry = self.from.registry().await?;
        let elsewhere = registry.entries.values().filter(|r| !r.migrates());
        let elsewhere = elsewhere.filter_map(fanout_plan::subscription::Registered::withheld_problem);
        let problems: Vec<_> = registry.unreadable.into_values().chain(elsewhere).collect();
        match problems.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Refused(problems)),
        }
    }

    /// What mirrors will need.
    async fn check_link(&self) -> Result<(), StoreError> {
        let subject = format!("$JS.{}.API.INFO", self.from_domain);
        let asked = tokio::time::timeout(ANSWERS_IN, self.to.nats().request(subject, "".into())).await;
        if matches!(asked, Ok(Ok(_))) {
            return Ok(());
        }
        Err(refused(
            Code::PlaceUnreachable,
            format!(
                "bus {}: JetStream domain {} can't be reached from the server of domain {}: join them by a leaf node link in the bus's account; nothing was changed",
                self.from.policy().bus,
                self.from_domain,
                self.to_domain
            ),
        ))
    }

    fn not_migratable(&self, why: &str) -> StoreError {
        refused(
            Code::NotMigratable,
            format!(
                "bus {} can't be migrated: {why}; nothing was changed",
                self.from.policy().bus
            ),
        )
    }
}

impl Store {
    /// The streams that a migration takes along, each as it is while it is not closed.
    async fn migrated_configs(&self) -> Result<Vec<(String, stream::Config)>, StoreError> {
        let names = self.migrated_streams().await?;
        let infos = try_join_all(names.iter().map(|name| self.raw_info(name, false))).await?;
        let open = |(name, info): (String, Option<Value>)| {
            let config = reopened(info?["config"].clone()).and_then(|open| {
                serde_json::from_value(open).map_err(StoreError::when(format!("describe stream {name}")))
            });
            Some(config.map(|config| (name, config)))
        };
        names.into_iter().zip(infos).filter_map(open).collect()
    }

    /// The same, in the planner's words.
    async fn migrated_topology(&self) -> Result<Topology, StoreError> {
        let mut topology = Topology::default();
        for (name, config) in self.migrated_configs().await? {
            if let Some(bucket) = name.strip_prefix("KV_") {
                let spec = bucket_spec(bucket.to_owned(), &config);
                topology.buckets.insert(spec.name.clone(), spec);
            } else {
                let part = self.names.partition_of(&name).and_then(|n| partition(n, &config));
                topology.streams.insert(name, stream_spec(&config, part));
            }
        }
        Ok(topology)
    }
}
