//! Question 2: what a consumer that was away finds when it is back. Bare JetStream, with a week scaled to seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source};
use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::load::{consume, number};
use crate::said::{Ears, Said};
use crate::server::{Node, until};
use crate::table::Table;

/// The stream that the consumer reads.
pub(crate) const STREAM: &str = "work";
/// The log that a sourced stream is fed from.
pub(crate) const LOG: &str = "log";
/// Scenarios at once, each with a server of its own.
const AT_ONCE: usize = 7;
pub(crate) const SUBJECT: &str = "payments.acme.webhook.invoice.paid";

/// How events are kept for the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A log with a durable consumer on it.
    Log,
    WorkQueue,
    Interest,
    /// A work queue that sources the log.
    SourcedWorkQueue,
}

impl Kept {
    const ALL: [Self; 4] = [Self::Log, Self::WorkQueue, Self::Interest, Self::SourcedWorkQueue];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Log => "log, durable consumer",
            Self::WorkQueue => "work queue",
            Self::Interest => "interest",
            Self::SourcedWorkQueue => "log, sourced work queue",
        }
    }

    pub(crate) async fn create(self, js: &jetstream::Context, age: Duration, most: Option<i64>) -> Result<()> {
        let limits = |name: &str, subjects: bool| Config {
            name: name.into(),
            subjects: if subjects {
                vec!["payments.*.webhook.>".into()]
            } else {
                Vec::new()
            },
            max_age: age,
            max_messages: most.unwrap_or(-1),
            discard: DiscardPolicy::New,
            ..Config::default()
        };
        let stream = match self {
            Self::Log => limits(STREAM, true),
            Self::WorkQueue => Config {
                retention: RetentionPolicy::WorkQueue,
                ..limits(STREAM, true)
            },
            Self::Interest => Config {
                retention: RetentionPolicy::Interest,
                ..limits(STREAM, true)
            },
            Self::SourcedWorkQueue => {
                // The bound is the work queue's; the log is as large as it needs to be.
                js.create_stream(Config {
                    max_messages: -1,
                    ..limits(LOG, true)
                })
                .await?;
                Config {
                    retention: RetentionPolicy::WorkQueue,
                    sources: Some(vec![Source {
                        name: LOG.into(),
                        ..Source::default()
                    }]),
                    ..limits(STREAM, false)
                }
            }
        };
        js.create_stream(stream).await.context("create the stream")?;
        Ok(())
    }
}

pub(crate) async fn reader(js: &jetstream::Context, ack_wait: Duration) -> Result<PullConsumer> {
    let config = pull::Config {
        durable_name: Some("invoicing".into()),
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        ..pull::Config::default()
    };
    js.create_consumer_on_stream(config, STREAM)
        .await
        .context("create the consumer")
}

/// What came of one scenario.
#[derive(Debug, Default)]
struct Outcome {
    accepted: u64,
    refused: u64,
    handled: u64,
    twice: u64,
    said: Said,
    /// What is still there to be read again afterwards.
    replayable: u64,
}

impl Outcome {
    fn lost(&self) -> u64 {
        self.accepted.saturating_sub(self.handled)
    }
}

/// What befalls the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    DownShorter,
    DownLonger,
    NotThereYet,
    Deleted,
    CrashedBeforeAck,
    ServerKilled,
    Full,
}

impl Fate {
    const ALL: [Self; 7] = [
        Self::DownShorter,
        Self::DownLonger,
        Self::NotThereYet,
        Self::Deleted,
        Self::CrashedBeforeAck,
        Self::ServerKilled,
        Self::Full,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::DownShorter => "down for half the age",
            Self::DownLonger => "down for longer than the age",
            Self::NotThereYet => "not made yet when events come",
            Self::Deleted => "deleted and made again",
            Self::CrashedBeforeAck => "crashed between work and acknowledgement",
            Self::ServerKilled => "the server killed while it reads",
            Self::Full => "the stream full while it is down",
        }
    }
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    let events = lab.scale.pick(50, 500, 2_000);
    // 7 days are so many seconds.
    let age = Duration::from_secs(lab.scale.pick(6, 10, 28));
    let mut table = Table::new(
        "fates",
        &[
            "the consumer is",
            "kept as",
            "accepted",
            "refused",
            "handled",
            "twice",
            "lost",
            "said about it",
            "can be read again",
        ],
    );
    // Most of it is waiting: several at once.
    let scenarios = Fate::ALL
        .into_iter()
        .flat_map(|fate| Kept::ALL.map(|kept| (fate, kept)));
    let mut log_lost = 0;
    let mut outcomes = stream::iter(scenarios)
        .map(|(fate, kept)| async move {
            lab.say(format!("{}: {}", fate.name(), kept.name()));
            (fate, kept, befall(fate, kept, events, age).await)
        })
        .buffered(AT_ONCE);
    while let Some((fate, kept, outcome)) = outcomes.next().await {
        let outcome = outcome.with_context(|| format!("{}: {}", fate.name(), kept.name()))?;
        lab.raw.note(&json!({
            "part": "fates", "fate": fate.name(), "kept": kept.name(), "age_s": age.as_secs(), "accepted": outcome.accepted,
            "refused": outcome.refused, "handled": outcome.handled, "twice": outcome.twice, "lost": outcome.lost(),
            "said": outcome.said.to_string(), "replayable": outcome.replayable,
        }))?;
        if fate == Fate::DownLonger && kept == Kept::Log {
            findings.figure("too-long-lost", format!("{} of {}", outcome.lost(), outcome.accepted));
            findings.figure("too-long-said", outcome.said.to_string());
        }
        if fate == Fate::NotThereYet && kept == Kept::Interest {
            findings.figure("interest-lost", format!("{} of {}", outcome.lost(), outcome.accepted));
        }
        if fate == Fate::ServerKilled && kept == Kept::Log {
            findings.figure("killed-twice", format!("{} of {}", outcome.twice, outcome.accepted));
        }
        if fate != Fate::DownLonger && kept == Kept::Log {
            log_lost += outcome.lost();
        }
        table.row(vec![
            fate.name().to_owned(),
            kept.name().to_owned(),
            outcome.accepted.to_string(),
            outcome.refused.to_string(),
            outcome.handled.to_string(),
            outcome.twice.to_string(),
            outcome.lost().to_string(),
            outcome.said.to_string(),
            outcome.replayable.to_string(),
        ]);
    }
    findings.figure("log-lost", log_lost.to_string());
    findings.tables.push(table);
    crate::drained::run(lab, &mut findings).await?;
    Ok(findings)
}

async fn befall(fate: Fate, kept: Kept, events: u64, age: Duration) -> Result<Outcome> {
    let mut node = Node::alone().await?;
    let js = node.jetstream().await?;
    let most = (fate == Fate::Full).then_some(i64::try_from(events / 2)?);
    kept.create(&js, age, most).await?;
    let ack_wait = Duration::from_secs(1);
    let ears = Ears::open(&node).await?;
    let mut outcome = Outcome::default();
    let mut seen = BTreeSet::new();
    if fate != Fate::NotThereYet {
        reader(&js, ack_wait).await?;
    }
    (outcome.accepted, outcome.refused) = offer(&js, events).await?;
    match fate {
        Fate::DownShorter | Fate::NotThereYet => tokio::time::sleep(age / 2).await,
        Fate::DownLonger => {
            tokio::time::sleep(age * 3 / 2).await;
            // A second half that is young enough.
            let (accepted, refused) = offer_from(&js, events, events).await?;
            outcome.accepted += accepted;
            outcome.refused += refused;
        }
        Fate::Deleted => {
            js.delete_consumer_from_stream("invoicing", STREAM).await?;
        }
        Fate::CrashedBeforeAck => crash_before_ack(&js, &mut seen, events / 10).await?,
        Fate::ServerKilled => {
            let consumer = reader(&js, ack_wait).await?;
            read(&consumer, events / 2, ack_wait, &mut outcome, &mut seen).await?;
            node.restart().await?;
        }
        Fate::Full => {}
    }
    let consumer = again(&js, ack_wait).await?;
    read(&consumer, u64::MAX, ack_wait * 3 / 2, &mut outcome, &mut seen).await?;
    outcome.handled = seen.len() as u64;
    outcome.replayable = replayable(&js, kept).await?;
    outcome.said = ears.heard().await;
    Ok(outcome)
}

/// The consumer, made again if it is gone. After a restart the server may need a moment.
pub(crate) async fn again(js: &jetstream::Context, ack_wait: Duration) -> Result<PullConsumer> {
    until("the consumer is there", async || reader(js, ack_wait).await.is_ok()).await?;
    reader(js, ack_wait).await
}

pub(crate) async fn offer(js: &jetstream::Context, events: u64) -> Result<(u64, u64)> {
    offer_from(js, 0, events).await
}

pub(crate) async fn offer_from(js: &jetstream::Context, first: u64, events: u64) -> Result<(u64, u64)> {
    let (mut accepted, mut refused) = (0, 0);
    for i in first..first + events {
        match js.publish(SUBJECT, crate::load::event(i)).await?.await {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
    }
    Ok((accepted, refused))
}

async fn read(
    consumer: &PullConsumer,
    count: u64,
    patience: Duration,
    outcome: &mut Outcome,
    seen: &mut BTreeSet<u64>,
) -> Result<()> {
    consume(consumer, count, patience, |message| {
        if let Some(n) = number(&message.payload)
            && !seen.insert(n)
        {
            outcome.twice += 1;
        }
    })
    .await?;
    Ok(())
}

/// Works on some events, and is gone before it acknowledges them.
async fn crash_before_ack(js: &jetstream::Context, seen: &mut BTreeSet<u64>, count: u64) -> Result<()> {
    let consumer = reader(js, Duration::from_secs(1)).await?;
    let mut batch = consumer
        .batch()
        .max_messages(usize::try_from(count)?)
        .expires(Duration::from_secs(2))
        .messages()
        .await?;
    while let Some(Ok(message)) = batch.next().await {
        seen.extend(number(&message.payload));
    }
    Ok(())
}

async fn replayable(js: &jetstream::Context, kept: Kept) -> Result<u64> {
    let name = if kept == Kept::SourcedWorkQueue { LOG } else { STREAM };
    Ok(js.get_stream(name).await?.cached_info().state.messages)
}
