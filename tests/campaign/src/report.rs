//! What rounds came to, as tables.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use fanout_campaign_checker::facts::Facts;
use fanout_campaign_checker::history::{Answer, Durability, Verdict, What};
use fanout_campaign_checker::{History, LAWS, Violation, recoveries};
use serde::{Deserialize, Serialize};

use crate::schedule::{Kind, Schedule};

/// One round's figures, kept beside its history.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) schedule: Schedule,
    seconds: u64,
    nats_server: String,
    lines: usize,
    calls: BTreeMap<String, u64>,
    events_stored: u64,
    deliveries: u64,
    deliveries_again: u64,
    acknowledged: u64,
    refused: u64,
    dead_letters: u64,
    statuses: u64,
    /// What programs and the operator changed: by name, asked for and done.
    #[serde(default)]
    operations: BTreeMap<String, (u64, u64)>,
    /// By kind: begun, and seen to happen.
    faults: BTreeMap<String, (u64, u64)>,
    /// By kind: from the heal to the first receipt of a call that was sent after it, in milliseconds.
    recoveries: BTreeMap<String, Vec<u64>>,
    /// By cause: receipts whose event is not in the log, and positions that gaps name.
    losses: BTreeMap<String, u64>,
    pub(crate) violations: Vec<(String, String)>,
}

impl Summary {
    /// Of a round.
    pub(crate) fn of(
        schedule: &Schedule,
        history: &History,
        violations: &[Violation],
        seconds: u64,
        nats_server: &str,
    ) -> Self {
        let facts = Facts::of(history);
        let mut calls = BTreeMap::new();
        for call in facts.publishes.values() {
            for i in 0..call.events.len() {
                let answer = call.answered.and_then(|(_, answers)| answers.get(i));
                let told = match answer {
                    Some(Answer::Done(receipt)) if receipt.duplicate => "stored before",
                    Some(Answer::Done(_)) => "stored",
                    Some(Answer::Refused(code)) => code,
                    Some(Answer::Unknown(_)) | None => "unknown outcome",
                };
                *calls.entry(told.to_owned()).or_default() += 1;
            }
        }
        let mut faults: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for fault in facts.faults.values() {
            let count = faults.entry(fault.kind.to_owned()).or_default();
            count.0 += 1;
            count.1 += u64::from(fault.seen);
        }
        let mut took: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for recovery in recoveries::of(&facts) {
            if let Some(publish) = recovery.publish {
                took.entry(recovery.fault.kind.to_owned())
                    .or_default()
                    .push(publish / 1_000);
            }
        }
        let verdicts = |is: fn(&Verdict) -> bool| {
            let settled = facts.deliveries.values().filter_map(|d| d.settled);
            settled.filter(|(_, verdict)| is(verdict)).count() as u64
        };
        let again: u64 = facts.deliveries_by_event().values().map(|d| d.len() as u64 - 1).sum();
        Self {
            schedule: schedule.clone(),
            seconds,
            nats_server: nats_server.to_owned(),
            lines: history.0.len(),
            calls,
            events_stored: facts.stored.len() as u64,
            deliveries: facts.deliveries.len() as u64,
            deliveries_again: again,
            acknowledged: verdicts(|v| *v == Verdict::Ack),
            refused: verdicts(|v| v.refusal().is_some()),
            dead_letters: facts.letters.len() as u64,
            statuses: facts.statuses.len() as u64,
            operations: operations(history),
            faults,
            recoveries: took,
            losses: losses(&facts),
            violations: violations.iter().map(|v| (v.law.to_owned(), v.what.clone())).collect(),
        }
    }

    /// Writes it beside the round's history.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        Ok(std::fs::write(folder.join("summary.json"), text)?)
    }

    /// In a line.
    pub(crate) fn line(&self) -> String {
        let (begun, seen) = self.faults.values().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        format!(
            "{} events in the log, {} deliveries, {seen} of {begun} faults seen to happen, {} violations, {} s",
            self.events_stored,
            self.deliveries,
            self.violations.len(),
            self.seconds
        )
    }
}

fn operations(history: &History) -> BTreeMap<String, (u64, u64)> {
    let mut operations: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in &history.0 {
        let (name, asked, done) = match &line.what {
            What::Operation { name, done, .. } => (name.as_str(), 1, u64::from(*done)),
            // The same subscription is asked for again when its connection breaks.
            What::Subscribed { .. } => ("subscribe", 1, 1),
            What::Unsubscribe { .. } => ("unsubscribe", 1, 0),
            What::Unsubscribed { .. } => ("unsubscribe", 0, 1),
            _ => continue,
        };
        let counted = operations.entry(name.to_owned()).or_default();
        *counted = (counted.0 + asked, counted.1 + done);
    }
    operations
}

fn losses(facts: &Facts<'_>) -> BTreeMap<String, u64> {
    let mut losses = BTreeMap::new();
    for (event, sent, at, receipt) in facts.receipts() {
        if receipt.duplicate || facts.stored.contains_key(&event.id) {
            continue;
        }
        let cause = if facts.is_purged(receipt.position) {
            "accepted, then purged by the operator"
        } else if facts.may_be_lost_with_power(sent, at) {
            "accepted, and lost with the power of all servers, as `acknowledged` allows"
        } else {
            "accepted, and in the log no more"
        };
        *losses.entry(cause.to_owned()).or_default() += 1;
    }
    // A gap is told by each status until somebody has seen it, and grows: the last one says all.
    let told = facts
        .gaps
        .iter()
        .map(|gap| ((gap.subscription, gap.partition), gap.last + 1 - gap.first));
    let told: BTreeMap<_, _> = told.collect();
    if !told.is_empty() {
        let name = "positions that were told as gaps, over all subscriptions".to_owned();
        losses.insert(name, told.values().sum());
    }
    losses
}

/// All summaries below a folder, oldest first.
pub(crate) fn all(folder: &Path) -> Result<Vec<Summary>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .with_context(|| format!("there are no rounds in {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path().join("summary.json")))
        .filter(|path| path.exists())
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?))
        .collect()
}

/// The tables of many rounds, as Markdown.
pub(crate) fn tables(rounds: &[Summary]) -> String {
    let mut text = String::new();
    worlds(&mut text, rounds);
    faults(&mut text, rounds);
    operated(&mut text, rounds);
    sums(
        &mut text,
        "What publishers were told of an event",
        rounds.iter().flat_map(|r| &r.calls),
    );
    sums(&mut text, "Losses, by cause", rounds.iter().flat_map(|r| &r.losses));
    laws(&mut text, rounds);
    text
}

fn worlds(text: &mut String, rounds: &[Summary]) {
    let mut by_world: BTreeMap<(usize, &str), Vec<&Summary>> = BTreeMap::new();
    for round in rounds {
        let durability = match round.schedule.durability {
            Durability::Acknowledged => "acknowledged",
            Durability::OnDisk => "on-disk",
        };
        by_world
            .entry((round.schedule.replicas, durability))
            .or_default()
            .push(round);
    }
    *text += "| servers | durability | nats-server | rounds | minutes | faults | events | deliveries | of them again | refused | dead letters at the end | statuses | violations |\n";
    *text += "| ---: | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for ((replicas, durability), rounds) in by_world {
        let sum = |of: fn(&Summary) -> u64| rounds.iter().map(|r| of(r)).sum::<u64>();
        let mut versions: Vec<_> = rounds.iter().map(|r| r.nats_server.as_str()).collect();
        versions.dedup();
        line(
            text,
            &[
                replicas.to_string(),
                durability.to_owned(),
                versions.join(", "),
                rounds.len().to_string(),
                (sum(|r| r.seconds) / 60).to_string(),
                sum(|r| r.faults.values().map(|f| f.1).sum()).to_string(),
                sum(|r| r.events_stored).to_string(),
                sum(|r| r.deliveries).to_string(),
                sum(|r| r.deliveries_again).to_string(),
                sum(|r| r.refused).to_string(),
                sum(|r| r.dead_letters).to_string(),
                sum(|r| r.statuses).to_string(),
                sum(|r| r.violations.len() as u64).to_string(),
            ],
        );
    }
}

fn faults(text: &mut String, rounds: &[Summary]) {
    *text += "\n| fault | begun | seen to happen | to the next receipt: p50 | p99 | worst |\n| --- | ---: | ---: | ---: | ---: | ---: |\n";
    for kind in Kind::value_variants() {
        let name = kind.name();
        let counts = rounds.iter().filter_map(|r| r.faults.get(&name));
        let (begun, seen) = counts.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        let mut took: Vec<u64> = rounds
            .iter()
            .filter_map(|r| r.recoveries.get(&name))
            .flatten()
            .copied()
            .collect();
        took.sort_unstable();
        let at = |part: usize| match took.len() {
            0 => "-".to_owned(),
            n => format!("{} ms", took[((n * part).div_ceil(100)).clamp(1, n) - 1]),
        };
        line(
            text,
            &[
                format!("`{name}`"),
                begun.to_string(),
                seen.to_string(),
                at(50),
                at(99),
                at(100),
            ],
        );
    }
}

fn operated(text: &mut String, rounds: &[Summary]) {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (name, (asked, done)) in rounds.iter().flat_map(|r| &r.operations) {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + asked, sum.1 + done);
    }
    *text += "\n| what programs and the operator did | asked for | done |\n| --- | ---: | ---: |\n";
    for (name, (asked, done)) in sums {
        line(text, &[format!("`{name}`"), asked.to_string(), done.to_string()]);
    }
}

fn sums<'a>(text: &mut String, title: &str, counted: impl Iterator<Item = (&'a String, &'a u64)>) {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, count) in counted {
        *sums.entry(name).or_default() += count;
    }
    *text += &format!("\n| {title} | events |\n| --- | ---: |\n");
    for (name, count) in sums {
        line(text, &[name.to_owned(), count.to_string()]);
    }
}

fn laws(text: &mut String, rounds: &[Summary]) {
    *text += "\n| law | demands | rounds that broke it |\n| --- | --- | ---: |\n";
    for law in LAWS {
        let broke = rounds
            .iter()
            .filter(|r| r.violations.iter().any(|(name, _)| name == law.name))
            .count();
        line(text, &[law.name.to_owned(), law.demands.to_owned(), broke.to_string()]);
    }
}

fn line(text: &mut String, cells: &[String]) {
    *text += &format!("| {} |\n", cells.join(" | "));
}
