//! Who looks after the bus: asks for its status, pauses, rewinds, redrives, with the command line and against the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fanout_campaign_checker::history::{Status, What};
use fanout_tests::BusStatus;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{Current, GUEST, dice};
use crate::recorder::Recorder;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The subscriptions that are there throughout.
const SUBSCRIPTIONS: [&str; 4] = ["billing", "audit", "replay", "handled"];

#[derive(Clone)]
pub(crate) struct Operator {
    guest: Current,
    recorder: Arc<Recorder>,
    servers: String,
    policy: PathBuf,
}

impl Operator {
    pub(crate) fn new(recorder: Arc<Recorder>, servers: String, policy: &Path, guest: Current) -> Self {
        Self {
            guest,
            recorder,
            servers,
            policy: policy.to_owned(),
        }
    }

    /// The subscriptions that are asked about: as the bus knows them, and as the history does.
    pub(crate) fn subscriptions(&self) -> Vec<(&'static str, String)> {
        let always = SUBSCRIPTIONS.map(|name| (name, name.to_owned()));
        always
            .into_iter()
            .chain(self.guest.name().map(|name| (GUEST, name)))
            .collect()
    }

    /// Goes about it until it is told to stop; nothing is paused then, unless the store is away.
    pub(crate) async fn run(self, seed: u64, stop: CancellationToken) {
        let mut dice = dice(seed, "operator");
        while !stop.is_cancelled() {
            let mut heads = None;
            for _ in 0..3 {
                // A store that is away has no status.
                heads = self.status().await.ok().and_then(|status| status.heads).or(heads);
                wait(&mut dice, &stop).await;
            }
            match dice.random_range(0..6) {
                0 => {
                    self.operation("pause", "billing", &[]).await;
                    wait(&mut dice, &stop).await;
                    self.operation("resume", "billing", &[]).await;
                }
                1 => {
                    let heads: Vec<_> = heads.into_iter().flat_map(|heads| heads.0).collect();
                    let Some((partition, head)) = heads.choose(&mut dice) else {
                        continue;
                    };
                    let to = head.saturating_sub(dice.random_range(1..150)).max(1);
                    let to = format!("position:{partition}/{to}");
                    let subscription = "audit".to_owned();
                    self.recorder.tell("operator", What::Rewind { subscription });
                    self.operation("rewind", "audit", &["--to", &to]).await;
                }
                2 | 3 => self.redrive().await,
                _ => {}
            }
        }
    }

    /// The status of the bus, which goes into the history.
    pub(crate) async fn status(&self) -> Result<BusStatus> {
        let (asked, there) = (self.recorder.now(), self.subscriptions());
        let told: BusStatus = serde_json::from_value(self.json(&["status"], &[]).await?)?;
        let still = self.subscriptions();
        // Of a guest's that came or went meanwhile nobody knows which of them was asked about.
        for (under, name) in there.into_iter().filter(|one| still.contains(one)) {
            let Some(s) = told.subscription(under) else { continue };
            for lost in &s.lost {
                let (partition, first, last) = (lost.first.partition, lost.first.offset, lost.last.offset);
                let (subscription, count, exact) = (name.clone(), lost.count, lost.exact);
                let gap = What::Gap {
                    subscription,
                    partition,
                    first,
                    last,
                    count,
                    exact,
                };
                self.recorder.tell("operator", gap);
            }
            let (Some(pending), Some(in_flight), Some(waiting)) = (s.pending, s.in_flight, s.waiting_for_retry) else {
                continue;
            };
            self.recorder.tell(
                "operator",
                What::Status(Status {
                    asked,
                    subscription: name,
                    pending,
                    in_flight,
                    waiting,
                    dead_letters: s.dead_letters.unwrap_or(0),
                    lost: s.lost_events.unwrap_or(0),
                }),
            );
        }
        Ok(told)
    }

    /// The dead letters, as the command line lists them.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<Value>> {
        let listed = self.json(&["dead-letters", "list"], &["--limit", "1000000"]).await?;
        Ok(listed["dead_letters"].as_array().cloned().unwrap_or_default())
    }

    /// Gives all dead letters to their subscriptions again.
    pub(crate) async fn redrive(&self) {
        let done = self.run_verb(&["dead-letters", "redrive"], &["--all"]).await.is_ok();
        self.tell("redrive", "all", done);
    }

    /// Does something to a subscription.
    pub(crate) async fn operation(&self, verb: &str, subscription: &str, more: &[&str]) {
        let more: Vec<_> = [subscription].into_iter().chain(more.iter().copied()).collect();
        let done = self.run_verb(&[verb], &more).await.is_ok();
        self.tell(verb, subscription, done);
    }

    fn tell(&self, name: &str, on: &str, done: bool) {
        let (name, on) = (name.to_owned(), on.to_owned());
        self.recorder.tell("operator", What::Operation { name, on, done });
    }

    async fn json(&self, verb: &[&str], more: &[&str]) -> Result<Value> {
        let verb: Vec<_> = ["--json"].into_iter().chain(verb.iter().copied()).collect();
        Ok(serde_json::from_str(&self.run_verb(&verb, more).await?)?)
    }

    async fn run_verb(&self, verb: &[&str], more: &[&str]) -> Result<String> {
        let mut command = Command::new(fanout_tests::beside_the_tests("fanout"));
        command
            .args(verb)
            .arg(&self.policy)
            .args(more)
            .env("NATS_URL", &self.servers)
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .context("it takes too long")??;
        if !output.status.success() {
            bail!("{verb:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

async fn wait(dice: &mut StdRng, stop: &CancellationToken) {
    let pause = Duration::from_millis(dice.random_range(500..2_500));
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}
