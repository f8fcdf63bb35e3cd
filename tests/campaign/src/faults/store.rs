//! What goes wrong in the store: leaders step down, and an operator takes away or overwrites what the bus has there.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::jetstream::{self, kv};
use fanout_campaign_checker::history::What;
use fanout_tests::nemesis::Nemesis;
use futures::TryStreamExt as _;

use super::{End, PATIENCE};
use crate::programs::GUEST;
use crate::schedule::Kind;
use crate::world::{World, partitions};

const REGISTRY: &str = "fanout_payments_registry";
/// The bus looks for gaps every thirty seconds: what is purged before the first look at it is not told.
const LOOKED_AT: Duration = Duration::from_secs(65);

pub(super) async fn step_down(world: &World, kind: Kind, target: usize) -> bool {
    let nemesis = Nemesis::on(&world.admin);
    let stepping = match kind {
        Kind::StepDownStream => {
            let Ok(stream) = stream(world, target).await else {
                return false;
            };
            tokio::spawn(async move {
                nemesis.step_down(&stream).await;
                true
            })
        }
        _ => {
            let Ok((stream, consumer)) = consumer(world, target).await else {
                return false;
            };
            tokio::spawn(async move { nemesis.step_down_consumer(&stream, &consumer).await })
        }
    };
    let abort = stepping.abort_handle();
    let done = tokio::time::timeout(PATIENCE, stepping).await;
    abort.abort();
    matches!(done, Ok(Ok(true)))
}

/// One of the bus's streams.
pub(super) async fn stream(world: &World, target: usize) -> Result<String> {
    let js = jetstream::new(world.admin.clone());
    let names: Vec<String> = js.stream_names().try_collect().await?;
    let mut names: Vec<_> = names
        .into_iter()
        .filter(|name| name.contains("fanout_payments"))
        .collect();
    names.sort();
    one_of(names, target)
}

/// One of the log's consumers, and its stream.
pub(super) async fn consumer(world: &World, target: usize) -> Result<(String, String)> {
    let js = jetstream::new(world.admin.clone());
    let mut all = Vec::new();
    for (_, stream) in partitions(&js).await? {
        let names: Vec<String> = js
            .get_stream_no_info(&stream)
            .await?
            .consumer_names()
            .try_collect()
            .await?;
        all.extend(names.into_iter().map(|name| (stream.clone(), name)));
    }
    all.sort();
    one_of(all, target)
}

fn one_of<T>(mut names: Vec<T>, target: usize) -> Result<T> {
    if names.is_empty() {
        bail!("there is none");
    }
    Ok(names.swap_remove(target % names.len()))
}

pub(super) async fn delete_consumer(world: &World, target: usize) -> bool {
    let Ok((stream, consumer)) = consumer(world, target).await else {
        return false;
    };
    let js = jetstream::new(world.admin.clone());
    js.delete_consumer_from_stream(&consumer, &stream)
        .await
        .is_ok_and(|deleted| deleted.success)
}

pub(super) async fn registry(world: &World) -> Result<kv::Store> {
    let js = jetstream::new(world.admin.clone());
    js.get_key_value(REGISTRY).await.context("the registry is not there")
}

/// Takes a key away as if it had never been, or overwrites it. The mark of a deleted key would end the subscription.
pub(super) async fn change_key(world: &World, kind: Kind, target: usize) -> Result<(bool, End)> {
    let bucket = registry(world).await?;
    let mut keys: Vec<String> = bucket.keys().await?.try_collect().await?;
    // What is put back of a guest's may be of one that has ended since.
    keys.retain(|key| !key.contains(GUEST));
    keys.sort();
    let key = one_of(keys, target)?;
    let entry = bucket.entry(&key).await?.context("it is not there")?;
    if kind == Kind::DeleteKey {
        let js = jetstream::new(world.admin.clone());
        let stream = js.get_stream(format!("KV_{REGISTRY}")).await?;
        stream.purge().filter(format!("$KV.{REGISTRY}.{key}")).await?;
        return Ok((bucket.get(&key).await?.is_none(), End::Nothing));
    }
    bucket.put(&key, "\u{0}not an entry".into()).await?;
    Ok((true, End::PutKey(key, entry.value.to_vec())))
}

/// Purges the events that are older than what the bus looks at between two looks for gaps.
pub(super) async fn purge(world: &World, target: usize) -> Result<bool> {
    let js = jetstream::new(world.admin.clone());
    let (partition, stream) = one_of(partitions(&js).await?, target)?;
    let mut log = js.get_stream(&stream).await?;
    let state = log.cached_info().state.clone();
    let before = world
        .recorder
        .now()
        .saturating_sub(u64::try_from(LOOKED_AT.as_micros())?);
    let (mut old, mut young) = (state.first_sequence, state.last_sequence + 1);
    while old < young {
        let middle = old.midpoint(young);
        let stored = log.get_raw_message(middle).await?.time.unix_timestamp_nanos();
        match world.recorder.at_wall(i64::try_from(stored)?) < before {
            true => old = middle + 1,
            false => young = middle,
        }
    }
    if old == state.first_sequence {
        return Ok(false);
    }
    // From here on they may be gone, whatever is answered.
    let purged = What::Purged {
        partition,
        first: state.first_sequence,
        last: old - 1,
    };
    world.recorder.tell("operator", purged);
    log.purge().sequence(old).await?;
    Ok(log.info().await?.state.first_sequence >= old)
}
