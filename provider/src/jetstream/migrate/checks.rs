//! What has to hold before anything is changed.

use std::time::Duration;

use fanout_plan::planner::{self, Asked};
use fanout_plan::{Code, migration};

use super::super::StoreError;
use super::Migration;
use super::api::refused;

/// How long the other domain may take to answer over the link.
const ANSWERS_IN: Duration = Duration::from_secs(2);

impl Migration {
    /// Whether it can go from here to there. Looks at both stores and changes nothing.
    ///
    /// # Errors
    /// Why it can't.
    pub async fn check(&self) -> Result<(), StoreError> {
        if let Some(problem) = migration::unsupported(self.from.policy()) {
            return Err(StoreError::Refused(vec![problem]));
        }
        self.check_streams().await?;
        self.check_subscriptions().await?;
        self.to.fits_the_server().map_err(|p| StoreError::Refused(vec![p]))?;
        let (ours, theirs) = (self.from.max_request(), self.to.max_request());
        if theirs < ours {
            return Err(self.not_migratable(&format!(
                "the server of domain {} takes messages of {theirs} bytes (`max_payload`), and that of domain {} of {ours}: give it as much",
                self.to_domain, self.from_domain
            )));
        }
        self.check_link().await
    }

    /// Whether there is room where it goes, judged before the first copy is made.
    ///
    /// # Errors
    /// What there is no room for.
    pub async fn check_room(&self) -> Result<(), StoreError> {
        let observed = self.to.observe().await?;
        let asked = Asked {
            wanted: &[],
            tenant: None,
            keep_partitions: false,
            max_payload: Some(self.to.max_request()),
            was_in_force: false,
        };
        let plan = planner::plan_around(self.to.policy(), asked, &observed, self.to.now());
        match plan.problems.is_empty() {
            true => Ok(()),
            false => Err(StoreError::Refused(plan.problems)),
        }
    }

    /// By what the streams are, whatever the policy says that was given here.
    async fn check_streams(&self) -> Result<(), StoreError> {
        for stream in self.from.migrated_streams().await? {
            let Some(info) = self.from.raw_info(&stream, false).await? else {
                continue;
            };
            let config = &info["config"];
            if config["mirror"].is_object() || config["sources"].is_array() {
                return Err(self.not_migratable(&format!("{stream} is a copy of another stream")));
            }
            if config["allow_msg_counter"] == true {
                return Err(self.not_migratable(&format!(
                    "{stream} holds counters, and a mirror of counters can't be promoted (nats-server 2.15): take the bound of stored bytes out of the policy, apply it, and remove the stream"
                )));
            }
            if self.from.names.partition_of(&stream).is_some() && config["retention"] != "limits" {
                return Err(self.not_migratable(&format!("{stream} is a work queue")));
            }
        }
        Ok(())
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
