//! Event patterns: what it takes to read a log of which a subscription wants little, and when a hundred do.
//!
//! A rate counts the events that are read, whether or not a pattern leaves them out.

use anyhow::Result;
use async_nats::jetstream;
use async_nats::jetstream::message::PublishMessage;
use fanout_tests::LinkTo;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use crate::case::{Case, Size, in_turns};
use crate::delivery::{BARE, Counting, LOG, consumer, durable, read_all};
use crate::report::Report;
use crate::world::{PAYLOAD, World, subject};

/// Of so many events a pattern matches one, and so many subscriptions there are.
const IN: usize = 100;
/// The component of the hundred, and the tenant whose events they read.
const HUNDRED: &str = "hundred";

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    one(report, size).await?;
    many(report, size).await
}

/// One subscription, with a pattern and without.
async fn one(report: &mut Report, size: Size) -> Result<()> {
    let mut patterned = durable("patterned", "handler", "patterned");
    patterned.settings.push(("pattern".to_owned(), pattern(IN - 1)));
    let links = [durable("plain", "handler", "plain"), patterned];
    let world = World::start(None, &[], &links).await;
    let plain = Counting::serve(&world, "plain").await?;
    let matching = Counting::serve(&world, "patterned").await?;
    let events = size.events(20_000);
    let world = &world;
    let cases = vec![
        Case::new("bare pull consumer, an acknowledgement each", |r| async move {
            bare(&world.js, &format!("bare-{r}"), 1, events).await
        }),
        Case::new("handler, 64 at once, without a pattern", |r| {
            let plain = &plain;
            async move {
                let storing = stored(&world.js, "plain", format!("plain-{r}"), events);
                plain.of(events, storing).await
            }
        }),
        Case::new("the same, with a pattern that matches 1 of 100", |r| {
            let matching = &matching;
            async move {
                let storing = stored(&world.js, "patterned", format!("patterned-{r}"), events);
                // The last event matches: once it was handled, all were read.
                matching.of(events / IN, storing).await?;
                Ok(events)
            }
        }),
    ];
    in_turns(report, "read by 1 subscription", size, cases, || world.clear()).await
}

/// A hundred subscriptions, each with another pattern; each event matches one of them.
async fn many(report: &mut Report, size: Size) -> Result<()> {
    let settings = |i: usize| {
        let (name, pattern) = (format!("rule-{i}"), pattern(i));
        LinkTo::subscriber(
            HUNDRED,
            &["handler"],
            &[
                ("subscription", &name),
                ("need", "durable"),
                ("tenants", HUNDRED),
                ("concurrency", "64"),
                ("pattern", &pattern),
            ],
        )
        .named(&name)
    };
    let links: Vec<_> = (0..IN).map(settings).collect();
    let world = World::start(None, &[], &links).await;
    let all = Counting::serve(&world, HUNDRED).await?;
    let events = size.events(2_000);
    let world = &world;
    let cases = vec![
        Case::new("100 bare pull consumers, an acknowledgement each", |r| async move {
            bare(&world.js, &format!("bare-{r}"), IN, events).await
        }),
        Case::new("100 subscriptions, each with a pattern that matches 1 of 100", |r| {
            let all = &all;
            async move {
                let storing = stored(&world.js, HUNDRED, format!("hundred-{r}"), events);
                all.of(events, storing).await?;
                Ok(IN * events)
            }
        }),
    ];
    in_turns(report, "read by 100 subscriptions of one log", size, cases, || {
        world.clear()
    })
    .await
}

/// Matches the events whose number ends so.
fn pattern(i: usize) -> String {
    format!(r#"{{"data":{{"order":{{"number":[{i}]}}}}}}"#)
}

/// Straight into the stream, as the bus itself stores events, of which each says its number up to a hundred.
async fn stored(js: &jetstream::Context, tenant: &str, run: String, events: usize) -> Result<usize> {
    let (subject, run) = (&subject(tenant), &run);
    stream::iter(0..events)
        .map(|i| async move {
            let id = format!("{run}-{i}");
            let mut data = format!(r#"{{"order":{{"number":{},"currency":"eur"}},"note":""#, i % IN);
            let left = PAYLOAD.saturating_sub(data.len() + 2);
            data.push_str(&"x".repeat(left));
            data.push_str("\"}");
            let message = PublishMessage::build()
                .header("ce-specversion", "1.0")
                .header("ce-id", id.as_str())
                .header("ce-source", "/bench")
                .header("ce-type", "invoice.paid")
                .header("ce-tenant", tenant)
                .header("content-type", "application/json")
                .message_id(format!("{tenant}/{id}"))
                .payload(data.into());
            js.send_publish(subject.clone(), message).await?.await
        })
        .buffer_unordered(256)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(events)
}

/// The plain client: stores events, and reads all of them with each of so many durable consumers.
async fn bare(js: &jetstream::Context, run: &str, consumers: usize, events: usize) -> Result<usize> {
    let log = &js.get_stream_no_info(LOG).await?;
    let names: Vec<_> = (0..consumers).map(|i| format!("{run}-{i}")).collect();
    let mut readers = Vec::new();
    for name in &names {
        readers.push(consumer(js, name).await?);
    }
    let reading = readers.iter().map(|consumer| read_all(consumer, events));
    let storing = stored(js, BARE, run.to_owned(), events);
    let (stored, read) = tokio::join!(storing, futures::future::try_join_all(reading));
    read?;
    stored?;
    for name in &names {
        log.delete_consumer(name).await?;
    }
    Ok(consumers * events)
}
