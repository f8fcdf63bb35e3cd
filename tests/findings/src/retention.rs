//! Question 2: what a consumer that was away finds when it is back. Bare JetStream, with a week scaled to seconds.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, Source};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::load::{consume, number, publish};
use crate::said::{Ears, Said};
use crate::server::{Node, until};
use crate::table::Table;

/// The stream that the consumer reads.
const STREAM: &str = "work";
/// The log that a sourced stream is fed from.
const LOG: &str = "log";
/// Scenarios at once, each with a server of its own.
const AT_ONCE: usize = 7;
const SUBJECT: &str = "payments.acme.webhook.invoice.paid";
/// How long nothing comes before nothing more is expected of a source: the server tries one again within 10 s.
const SOURCE_PATIENCE: Duration = Duration::from_secs(15);

/// How events are kept for the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// A log with a durable consumer on it.
    Log,
    WorkQueue,
    Interest,
    /// A work queue that sources the log.
    SourcedWorkQueue,
}

impl Kept {
    const ALL: [Self; 4] = [Self::Log, Self::WorkQueue, Self::Interest, Self::SourcedWorkQueue];

    fn name(self) -> &'static str {
        match self {
            Self::Log => "log, durable consumer",
            Self::WorkQueue => "work queue",
            Self::Interest => "interest",
            Self::SourcedWorkQueue => "log, sourced work queue",
        }
    }

    async fn create(self, js: &jetstream::Context, age: Duration, most: Option<i64>) -> Result<()> {
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

async fn reader(js: &jetstream::Context, ack_wait: Duration) -> Result<PullConsumer> {
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
    killed_and_drained(lab, &mut findings).await?;
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
async fn again(js: &jetstream::Context, ack_wait: Duration) -> Result<PullConsumer> {
    until("the consumer is there", async || reader(js, ack_wait).await.is_ok()).await?;
    reader(js, ack_wait).await
}

async fn offer(js: &jetstream::Context, events: u64) -> Result<(u64, u64)> {
    offer_from(js, 0, events).await
}

async fn offer_from(js: &jetstream::Context, first: u64, events: u64) -> Result<(u64, u64)> {
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

/// Where events are when the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// The queue was drained before; the last events were acknowledged just now.
    JustAccepted,
    /// A queue that holds a tenth of them is drained, and the others wait in the log until there is room.
    Backlog,
    /// The same, with one event left in the queue.
    BacklogNotDrained,
    /// Drained with a backlog, and the server stopped in order instead of killed.
    BacklogStopped,
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::JustAccepted => "drained, then events come and are acknowledged: killed",
            Self::Backlog => "a bounded queue drained, the rest waits in the log: killed",
            Self::BacklogNotDrained => "the same with one event left in the queue: killed",
            Self::BacklogStopped => "drained, the rest waits in the log: stopped in order",
        }
    }
}

/// What the server's end costs.
async fn killed_and_drained(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let rounds = lab.scale.pick(1, 4, 20);
    let events = lab.scale.pick(100, 1_000, 1_000);
    let mut table = Table::new(
        "drained",
        &[
            "when the server ends",
            "kept as",
            "times",
            "with a loss",
            "lost, each time",
            "of",
            "said about it",
        ],
    );
    let cases = [
        (Scene::JustAccepted, Kept::Log),
        (Scene::JustAccepted, Kept::WorkQueue),
        (Scene::JustAccepted, Kept::SourcedWorkQueue),
        (Scene::Backlog, Kept::SourcedWorkQueue),
        (Scene::BacklogNotDrained, Kept::SourcedWorkQueue),
        (Scene::BacklogStopped, Kept::SourcedWorkQueue),
    ];
    let all = cases.into_iter().flat_map(|case| (0..rounds).map(move |_| case));
    lab.say(format!("{} servers ended, {AT_ONCE} at a time", cases.len() * rounds));
    let ends: Vec<End> = stream::iter(all)
        .map(|(scene, kept)| async move {
            let end = end(scene, kept, events).await;
            end.with_context(|| format!("{}: {}", scene.name(), kept.name()))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    for ((scene, kept), ends) in cases.iter().zip(ends.chunks(rounds)) {
        let mut said = Said::default();
        for (round, end) in ends.iter().enumerate() {
            said.merge(&end.said);
            lab.raw.note(&json!({
                "part": "drained", "scene": scene.name(), "kept": kept.name(), "round": round, "accepted": end.accepted,
                "lost": end.lost, "said": end.said.to_string(),
            }))?;
        }
        let lost: Vec<_> = ends.iter().map(|e| e.lost.to_string()).collect();
        let with_a_loss = ends.iter().filter(|e| e.lost > 0).count();
        if (*scene, *kept) == (Scene::Backlog, Kept::SourcedWorkQueue) {
            findings.figure("drained-losses", format!("{with_a_loss} of {rounds}"));
            let most = ends.iter().map(|e| e.lost).max().unwrap_or(0);
            findings.figure("drained-lost", format!("{most} of {events}"));
            findings.figure("drained-said", said.to_string());
        }
        table.row(vec![
            scene.name().to_owned(),
            kept.name().to_owned(),
            rounds.to_string(),
            with_a_loss.to_string(),
            lost.join(", "),
            ends.first().map_or(0, |e| e.accepted).to_string(),
            said.to_string(),
        ]);
    }
    findings.tables.push(table);
    Ok(())
}

/// What one end of a server cost.
struct End {
    accepted: u64,
    lost: u64,
    said: Said,
}

async fn end(scene: Scene, kept: Kept, events: u64) -> Result<End> {
    let mut node = Node::alone().await?;
    let js = node.jetstream().await?;
    let ears = Ears::open(&node).await?;
    let room = events / 10;
    let most = (scene != Scene::JustAccepted).then_some(i64::try_from(room)?);
    kept.create(&js, Duration::from_secs(3_600), most).await?;
    let consumer = reader(&js, Duration::from_secs(2)).await?;
    let mut seen = BTreeSet::new();
    let accepted = match scene {
        Scene::JustAccepted => {
            publish(&js, events, |_| SUBJECT.to_owned()).await?;
            work_off(&consumer, events, &mut seen).await?;
            // The queue is drained. These are acknowledged by the log, and the server dies at once.
            let (accepted, _) = offer_from(&js, events, events).await?;
            events + accepted
        }
        _ => {
            let (accepted, _) = offer(&js, events).await?;
            let queue = js.get_stream(STREAM).await?;
            until("the queue is full", async || {
                queue.get_info().await.is_ok_and(|i| i.state.messages >= room)
            })
            .await?;
            let left = u64::from(scene == Scene::BacklogNotDrained);
            work_off(&consumer, room - left, &mut seen).await?;
            accepted
        }
    };
    if scene == Scene::BacklogStopped {
        node.stop().await?;
    }
    node.restart().await?;
    let consumer = again(&js, Duration::from_secs(2)).await?;
    while (seen.len() as u64) < accepted {
        let missing = accepted - seen.len() as u64;
        let got = consume(&consumer, missing, SOURCE_PATIENCE, |m| seen.extend(number(&m.payload))).await?;
        if got == 0 {
            break;
        }
    }
    Ok(End {
        accepted,
        lost: accepted.saturating_sub(seen.len() as u64),
        said: ears.heard().await,
    })
}

/// Handles so many, each acknowledgement confirmed by the server.
async fn work_off(consumer: &PullConsumer, count: u64, seen: &mut BTreeSet<u64>) -> Result<()> {
    let mut left = count;
    while left > 0 {
        let batch = consumer
            .batch()
            .max_messages(usize::try_from(left)?.min(500))
            .expires(Duration::from_secs(2))
            .messages()
            .await?;
        let messages: Vec<_> = batch.filter_map(async |m| m.ok()).collect().await;
        let confirmed = messages.iter().map(jetstream::Message::double_ack);
        for confirmed in futures::future::join_all(confirmed).await {
            confirmed.map_err(|e| anyhow::anyhow!("an acknowledgement is not confirmed: {e}"))?;
        }
        seen.extend(messages.iter().filter_map(|m| number(&m.payload)));
        left -= messages.len() as u64;
    }
    Ok(())
}
