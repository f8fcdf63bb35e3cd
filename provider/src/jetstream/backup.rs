//! Copies the bus's streams out of the store and puts them back, as the server's own snapshots: messages, and the consumers
//! with how far they have come.
//!
//! The streams are taken one after another while the bus goes on, in the order in which nothing can fall between two of them:
//! what an event is taken out of comes before what it is then put into. What is kept in memory is not copied: the leases, which the
//! bus makes anew, and a log for which the policy says so.

use std::io::{Read, Write};
use std::time::Duration;

use async_nats::Request;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::StorageType;
use bytes::Bytes;
use fanout_plan::{Code, Problem};
use futures::{StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Store, StoreError};

/// The most bytes of a snapshot in one message.
const CHUNK: usize = 128 << 10;
/// A server that sends nothing of a snapshot for this long, or takes nothing of one, will not.
const CHUNK_WITHIN: Duration = Duration::from_secs(30);
/// The status at the end of a snapshot that is whole (204, nats-server 2.15).
const DONE: u16 = 204;
/// Where the server expects an answer to each part of a snapshot.
const FLOW: &str = "$JS.SNAPSHOT.ACK.";

/// A stream as a snapshot has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamCopy {
    /// Its name.
    pub name: String,
    /// Its configuration, as the server says it.
    config: Value,
    /// What it held, as the server says it.
    state: Value,
}

impl StreamCopy {
    /// How many messages it held.
    pub fn messages(&self) -> u64 {
        self.count("messages")
    }

    fn count(&self, of: &str) -> u64 {
        self.state.get(of).and_then(Value::as_u64).unwrap_or_default()
    }
}

/// What came of putting a stream back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It is there again.
    Now,
    /// It was there, and held what the copy holds.
    Before,
}

impl Store {
    /// The bus's streams that are on disk, in the order in which they are to be copied; and the names of those that the
    /// policy has in memory, which are not.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn streams_to_copy(&self) -> Result<(Vec<String>, Vec<String>), StoreError> {
        let names: Vec<String> = self
            .js
            .stream_names()
            .try_collect()
            .await
            .map_err(StoreError::when("list its streams"))?;
        let bucket = |name: String| format!("KV_{name}");
        // A floor says how far a log was handled: it is never ahead of the log. An event that is due is published and marked before it
        // is removed; one that is refused is stored elsewhere before it is settled.
        let before = [
            bucket(self.names.registry()),
            bucket(self.names.attempts()),
            self.names.usage(),
            self.names.scheduled_stream(),
            self.names.marks(),
        ];
        let after = [self.names.retries(), self.names.dead_letters(), self.names.journal()];
        let mut logs: Vec<_> = names.iter().filter_map(|name| self.names.partition_of(name)).collect();
        logs.sort_unstable();
        let logs = logs.into_iter().map(|number| self.names.partition(number));
        let (mut on_disk, mut in_memory) = (Vec::new(), Vec::new());
        let all = before.into_iter().chain(logs).chain(after);
        for name in all.filter(|name| names.contains(name)) {
            match self.stream_info(&name).await? {
                Some(info) if info.config.storage == StorageType::Memory => in_memory.push(name),
                Some(_) => on_disk.push(name),
                None => {}
            }
        }
        Ok((on_disk, in_memory))
    }

    /// Copies a stream and its consumers.
    ///
    /// # Errors
    /// When the store can't be read, or the copy can't be written.
    pub async fn copy_stream(&self, name: &str, to: &mut impl Write) -> Result<StreamCopy, StoreError> {
        let action = format!("copy stream {name}");
        let nats = self.nats();
        let inbox = nats.new_inbox();
        let mut coming = nats
            .subscribe(inbox.clone())
            .await
            .map_err(StoreError::when(&*action))?;
        let asked = json!({ "deliver_subject": inbox, "no_consumers": false, "chunk_size": CHUNK });
        let said = self.js.request(format!("STREAM.SNAPSHOT.{name}"), &asked).await;
        let said: Value = match said.map_err(StoreError::when(&*action))? {
            Response::Ok(said) => said,
            Response::Err { error } => return Err(StoreError::when(&*action)(error)),
        };
        loop {
            let part = timeout(CHUNK_WITHIN, coming.next())
                .await
                .map_err(StoreError::when(&*action))?;
            let Some(part) = part else {
                return Err(StoreError::when(&*action)("the connection was closed"));
            };
            if part.payload.is_empty() {
                if let Some(status) = part.status.filter(|status| status.as_u16() != DONE) {
                    let why = part.description.unwrap_or_default();
                    return Err(StoreError::when(&*action)(format!(
                        "the server broke it off: {status} {why}"
                    )));
                }
                break;
            }
            to.write_all(&part.payload).map_err(StoreError::when(&*action))?;
            // Without an answer it sends no more than a window.
            if let Some(reply) = part.reply.filter(|reply| reply.starts_with(FLOW)) {
                nats.publish(reply, Bytes::new())
                    .await
                    .map_err(StoreError::when(&*action))?;
            }
        }
        Ok(StreamCopy {
            name: name.to_owned(),
            config: said["config"].clone(),
            state: said["state"].clone(),
        })
    }

    /// Puts a stream back, with as many copies as the policy says. One that is there already, and holds as much as the copy, is
    /// left alone: a restore that was interrupted is finished by the same once more.
    ///
    /// # Errors
    /// When another stream is in its place, the copy can't be read, or the store does not take it.
    pub async fn restore_stream(&self, copy: &StreamCopy, from: &mut impl Read) -> Result<Restored, StoreError> {
        let name = &copy.name;
        let action = format!("restore stream {name}");
        if let Some(there) = self.stream_info(name).await? {
            let state = &there.state;
            if (state.messages, state.last_sequence) == (copy.messages(), copy.count("last_seq")) {
                return Ok(Restored::Before);
            }
            return Err(StoreError::Refused(vec![Problem::new(
                Code::BackupConflict,
                format!(
                    "stream {name} is there, and holds {} messages up to {} where the backup has {} up to {}: a restore replaces nothing. \
                     Delete it, or restore into an account that has none of the bus's streams",
                    state.messages,
                    state.last_sequence,
                    copy.messages(),
                    copy.count("last_seq"),
                ),
            )]));
        }
        let mut config = copy.config.clone();
        config["num_replicas"] = self.policy.retention.replicas.into();
        let asked = json!({ "config": config, "state": copy.state });
        let said = self.js.request(format!("STREAM.RESTORE.{name}"), &asked).await;
        let said: Value = match said.map_err(StoreError::when(&*action))? {
            Response::Ok(said) => said,
            Response::Err { error } => return Err(StoreError::when(&*action)(error)),
        };
        let Some(to) = said["deliver_subject"].as_str().map(str::to_owned) else {
            return Err(StoreError::when(&*action)("the server does not say where to"));
        };
        let nats = self.nats();
        let mut chunk = vec![0; CHUNK.min(nats.max_payload())];
        loop {
            let read = from.read(&mut chunk).map_err(StoreError::when(&*action))?;
            let part = Request::new().payload(Bytes::copy_from_slice(&chunk[..read]));
            // Nothing more is the end, and its answer comes once the stream is there.
            let answer = nats.send_request(to.clone(), part.timeout(Some(CHUNK_WITHIN))).await;
            let answer = answer.map_err(StoreError::when(&*action))?.payload;
            if !answer.is_empty()
                && let Response::Err { error } =
                    serde_json::from_slice::<Response<Value>>(&answer).map_err(StoreError::when(&*action))?
            {
                return Err(StoreError::when(&*action)(error));
            }
            if read == 0 {
                return Ok(Restored::Now);
            }
        }
    }
}
