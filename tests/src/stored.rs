//! What the store holds, as somebody with a plain NATS client sees it.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use fanout_plan::ConsumerName;
use fanout_plan::floor::Floor;
use futures::TryStreamExt as _;

/// The names of a stream's consumers, sorted, and without the incarnations of their subscriptions.
pub async fn consumer_names<I>(stream: &Stream<I>) -> Option<Vec<String>> {
    let names: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
    let mut names: Vec<_> = names
        .into_iter()
        .map(|name| ConsumerName::from(name).without_incarnation())
        .collect();
    names.sort();
    Some(names)
}

/// The whole name of the consumer that has this one without its subscription's incarnation.
pub async fn consumer_name<I>(stream: &Stream<I>, name: &str) -> Option<String> {
    let names: Vec<String> = stream.consumer_names().try_collect().await.ok()?;
    let is_it = |whole: &String| ConsumerName::from(whole.as_str()).without_incarnation() == name;
    names.into_iter().find(is_it)
}

/// What is noted of the consumers of the bus `payments`: how far each is settled and delivered.
pub async fn floors(client: &async_nats::Client) -> Option<Vec<Floor>> {
    let js = async_nats::jetstream::new(client.clone());
    let bucket = js.get_stream("KV_fanout_payments_attempts").await.ok()?;
    let subjects = bucket.info_with_subjects("$KV.fanout_payments_attempts.*.floor.*");
    let subjects: Vec<(String, usize)> = subjects.await.ok()?.try_collect().await.ok()?;
    let mut floors = Vec::new();
    for (subject, _) in subjects {
        let entry = bucket.get_last_raw_message_by_subject(&subject).await.ok()?;
        floors.push(serde_json::from_slice(&entry.payload).ok()?);
    }
    Some(floors)
}

/// A dead letter of the bus `payments`.
///
/// # Panics
/// If there is none.
pub async fn dead_letter<I>(letters: &Stream<I>, subscription: &str, tenant: &str, offset: u64) -> StreamMessage {
    let subject = format!("fanout.dead.payments.{subscription}.{tenant}.0.{offset}.*");
    letters
        .get_last_raw_message_by_subject(&subject)
        .await
        .expect("there is a dead letter")
}

/// What is remembered of the gap of the first subscription that has one, in the bus `payments`.
pub async fn remembered_gap(client: &async_nats::Client) -> Option<serde_json::Value> {
    let js = async_nats::jetstream::new(client.clone());
    let bucket = js.get_stream_no_info("KV_fanout_payments_attempts").await.ok()?;
    let gaps = "$KV.fanout_payments_attempts.*.gap.*";
    let gap = bucket.get_last_raw_message_by_subject(gaps).await.ok()?;
    serde_json::from_slice(&gap.payload).ok()
}
