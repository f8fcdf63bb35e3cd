//! Question 2, its worst case: a server that ends while a queue that a log feeds is drained.
//!
//! How far a source had come is written on the events that it brought. A drained queue holds none, so the server must
//! know it otherwise; what it does not know after a kill is what is measured here.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::load::{consume, number, publish};
use crate::proxy::Link;
use crate::retention::{Kept, LOG, STREAM, SUBJECT, again, offer, offer_from, reader};
use crate::said::{Ears, Said};
use crate::server::{Node, Spec, in_domain, ready, until};
use crate::table::{Table, ms};
use fanout_transport::testing::free_ports;

/// How long a source may take to resume.
const SOURCE_PATIENCE: Duration = Duration::from_secs(120);
/// How long nothing comes behind the mark before nothing more is expected: longer than what is under way is held.
const BEHIND_THE_MARK: Duration = Duration::from_secs(5);
const AGE: Duration = Duration::from_secs(3_600);
/// The number of the event that is published after all.
const MARK: u64 = u64::MAX >> 1;
/// Scenes at once: nearly all of it is waiting.
const AT_ONCE: usize = 14;
const ACK_WAIT: Duration = Duration::from_secs(2);

/// Where events are when the server ends, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    /// The queue was drained before; the last events were acknowledged just now.
    JustAccepted,
    /// A queue with room for a tenth, at the first moment at which it is empty while the log still holds a backlog.
    Bounded,
    /// The log is on another server, and grew while the link to it was cut.
    Behind,
    /// The same, with one event left in the queue.
    BehindNotDrained,
    /// The same, drained, and the server stopped in order instead of killed.
    BehindStopped,
}

impl Scene {
    fn name(self) -> &'static str {
        match self {
            Self::JustAccepted => "drained, then events are accepted: killed at once",
            Self::Bounded => "bounded to a tenth, seen drained: killed",
            Self::Behind => "drained, the log beyond a cut link has grown: killed",
            Self::BehindNotDrained => "the same, one event left in the queue: killed",
            Self::BehindStopped => "the same, drained: stopped in order",
        }
    }
}

/// What the server's end costs.
pub(crate) async fn run(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let rounds = lab.scale.pick(1, 2, 10);
    let events = lab.scale.pick(100, 1_000, 1_000);
    let mut table = Table::new(
        "drained",
        &[
            "when the server ends",
            "kept as",
            "times",
            "lost, each time",
            "of",
            "all there after, at most",
            "said about it",
        ],
    );
    let cases = [
        (Scene::JustAccepted, Kept::Log),
        (Scene::JustAccepted, Kept::WorkQueue),
        (Scene::JustAccepted, Kept::SourcedWorkQueue),
        (Scene::Bounded, Kept::SourcedWorkQueue),
        (Scene::Behind, Kept::SourcedWorkQueue),
        (Scene::BehindNotDrained, Kept::SourcedWorkQueue),
        (Scene::BehindStopped, Kept::SourcedWorkQueue),
    ];
    // A source beyond a link takes most of a minute to resume, which a smoke run has not.
    let cases = lab.scale.pick(&cases[..4], &cases[..], &cases[..]);
    let all = cases.iter().copied().flat_map(|case| (0..rounds).map(move |_| case));
    lab.say(format!("{} servers ended, {AT_ONCE} at a time", cases.len() * rounds));
    let ends: Vec<End> = stream::iter(all)
        .map(|(scene, kept)| async move {
            let end = match scene {
                Scene::JustAccepted => just_accepted(kept, events).await,
                Scene::Bounded => bounded(kept, events).await,
                _ => behind(scene, events).await,
            };
            end.with_context(|| format!("{}: {}", scene.name(), kept.name()))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut sourced = Sourced::default();
    for ((scene, kept), ends) in cases.iter().zip(ends.chunks(rounds)) {
        let mut said = Said::default();
        for (round, end) in ends.iter().enumerate() {
            said.merge(&end.said);
            lab.raw.note(&json!({
                "part": "drained", "scene": scene.name(), "kept": kept.name(), "round": round, "accepted": end.accepted,
                "lost": end.lost, "resumed_ms": end.resumed.as_millis() as u64, "said": end.said.to_string(),
            }))?;
        }
        let lost: Vec<_> = ends.iter().map(|e| e.lost.to_string()).collect();
        let accepted = ends.first().map_or(0, |e| e.accepted);
        let resumed = ends.iter().map(|e| e.resumed).max().unwrap_or_default();
        if *kept == Kept::SourcedWorkQueue {
            let of = accepted * ends.len() as u64;
            sourced.ended += ends.len();
            sourced.lost += ends.iter().map(|e| e.lost).sum::<u64>();
            sourced.of += of;
            sourced.resumed = sourced.resumed.max(resumed);
            sourced.said.merge(&said);
        }
        table.row(vec![
            scene.name().to_owned(),
            kept.name().to_owned(),
            rounds.to_string(),
            lost.join(", "),
            accepted.to_string(),
            ms(resumed.as_secs_f64() * 1_000.0),
            said.to_string(),
        ]);
    }
    findings.figure("drained-ends", sourced.ended.to_string());
    findings.figure("drained-lost", format!("{} of {}", sourced.lost, sourced.of));
    findings.figure("drained-resumed", ms(sourced.resumed.as_secs_f64() * 1_000.0));
    findings.figure("drained-said", sourced.said.to_string());
    findings.tables.push(table);
    Ok(())
}

/// All ends of servers with a sourced work queue.
#[derive(Default)]
struct Sourced {
    ended: usize,
    lost: u64,
    of: u64,
    resumed: Duration,
    said: Said,
}

/// What one end of a server cost.
struct End {
    accepted: u64,
    lost: u64,
    /// From the mark's publish until all was read that comes.
    resumed: Duration,
    said: Said,
}

impl End {
    /// Puts a mark into the log and reads until it comes. A source keeps the log's order: what was accepted before, and
    /// did not come with it, never comes.
    async fn read(
        js: &jetstream::Context,
        log: &jetstream::Context,
        accepted: u64,
        mut seen: BTreeSet<u64>,
        ears: Ears,
    ) -> Result<Self> {
        let consumer = again(js, ACK_WAIT).await?;
        until("the log takes the mark", async || {
            offer_from(log, MARK, 1).await.is_ok_and(|(accepted, _)| accepted == 1)
        })
        .await?;
        let start = Instant::now();
        while !seen.contains(&MARK) {
            if start.elapsed() > SOURCE_PATIENCE {
                bail!("the source has not resumed in {SOURCE_PATIENCE:?}");
            }
            consume(&consumer, 1, Duration::from_millis(500), |m| {
                seen.extend(number(&m.payload))
            })
            .await?;
        }
        // What was delivered before the end and not acknowledged comes again, later than its place.
        while (seen.len() as u64) <= accepted {
            let missing = accepted + 1 - seen.len() as u64;
            let got = consume(&consumer, missing, BEHIND_THE_MARK, |m| seen.extend(number(&m.payload))).await?;
            if got == 0 {
                break;
            }
        }
        seen.remove(&MARK);
        Ok(Self {
            accepted,
            lost: accepted.saturating_sub(seen.len() as u64),
            resumed: start.elapsed(),
            said: ears.heard().await,
        })
    }
}

async fn just_accepted(kept: Kept, events: u64) -> Result<End> {
    let mut node = Node::alone().await?;
    let js = node.jetstream().await?;
    let ears = Ears::open(&node).await?;
    kept.create(&js, AGE, None).await?;
    let consumer = reader(&js, ACK_WAIT).await?;
    let mut seen = BTreeSet::new();
    publish(&js, events, |_| SUBJECT.to_owned()).await?;
    work_off(&consumer, events, &mut seen).await?;
    let (accepted, _) = offer_from(&js, events, events).await?;
    node.restart().await?;
    End::read(&js, &js, events + accepted, seen, ears).await
}

async fn bounded(kept: Kept, events: u64) -> Result<End> {
    let mut node = Node::alone().await?;
    let js = node.jetstream().await?;
    let ears = Ears::open(&node).await?;
    let room = events / 10;
    kept.create(&js, AGE, Some(i64::try_from(room)?)).await?;
    let consumer = reader(&js, ACK_WAIT).await?;
    let (accepted, _) = offer(&js, events).await?;
    let queue = js.get_stream(STREAM).await?;
    let held = async || anyhow::Ok(queue.get_info().await?.state.messages);
    until("the queue is full", async || {
        held().await.is_ok_and(|held| held >= room)
    })
    .await?;
    let mut seen = BTreeSet::new();
    while (seen.len() as u64) < accepted {
        match held().await? {
            0 => break,
            held => work_off(&consumer, held, &mut seen).await?,
        }
    }
    node.restart().await?;
    End::read(&js, &js, accepted, seen, ears).await
}

async fn behind(scene: Scene, events: u64) -> Result<End> {
    let port = free_ports(1)[0];
    let hub = Node::start(&Spec {
        domain: Some("hub".into()),
        leaf_port: Some(port),
        ..Spec::named("hub")
    })
    .await?;
    let link = Link::to(port).await?;
    let mut leaf = Node::start(&Spec {
        domain: Some("leaf".into()),
        leaf_of: Some(link.port()),
        ..Spec::named("leaf")
    })
    .await?;
    ready(&leaf.jetstream_of("hub").await?).await?;
    let (log, js) = (hub.jetstream().await?, leaf.jetstream().await?);
    let ears = Ears::open(&leaf).await?;
    log.create_stream(Config {
        name: LOG.into(),
        subjects: vec!["payments.*.webhook.>".into()],
        max_age: AGE,
        ..Config::default()
    })
    .await
    .context("create the log")?;
    js.create_stream(Config {
        name: STREAM.into(),
        retention: RetentionPolicy::WorkQueue,
        max_age: AGE,
        sources: Some(vec![Source {
            name: LOG.into(),
            external: Some(in_domain("hub")),
            ..Source::default()
        }]),
        ..Config::default()
    })
    .await
    .context("create the queue")?;
    let consumer = reader(&js, ACK_WAIT).await?;
    let first = events / 10;
    let (mut accepted, _) = offer(&log, first).await?;
    let queue = js.get_stream(STREAM).await?;
    until("the queue has the first ones", async || {
        queue.get_info().await.is_ok_and(|i| i.state.messages >= first)
    })
    .await?;
    let mut seen = BTreeSet::new();
    let left = u64::from(scene == Scene::BehindNotDrained);
    work_off(&consumer, first - left, &mut seen).await?;
    link.cut();
    accepted += offer_from(&log, first, events - first).await?.0;
    if scene == Scene::BehindStopped {
        leaf.stop().await?;
    }
    leaf.restart().await?;
    link.heal();
    ready(&leaf.jetstream_of("hub").await?).await?;
    End::read(&js, &log, accepted, seen, ears).await
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
