//! Whether the servers write each event to their disks before they answer: `sync_interval: always`. No client of an
//! ordinary account can ask for it, unless its operator lets it: the system account exports the service
//! `$SYS.REQ.SERVER.PING.JSZ`, and the bus's account imports it (nats-server 2.15).

use std::time::Duration;

use async_nats::StatusCode;
use fanout_plan::policy::Durability;
use fanout_plan::{Code, Problem};
use futures::StreamExt as _;
use serde::Deserialize;

use super::Store;

/// Asks every server of the cluster.
const ASK: &str = "$SYS.REQ.SERVER.PING.JSZ";

/// How long the first server may take, and each further one.
const PATIENCE: Duration = Duration::from_millis(500);

/// The most servers that are heard.
const MOST: usize = 64;

/// What is known of the promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It is kept, or none was made.
    Kept,
    /// Nobody could say.
    Unverified(Problem),
    /// It is not kept.
    Broken(Problem),
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
}

#[derive(Deserialize)]
struct Data {
    config: Option<Config>,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    sync_always: bool,
}

impl Store {
    /// Whether a receipt's promise is kept.
    pub(crate) async fn promise(&self) -> Promise {
        if self.policy.durability == Durability::Acknowledged {
            return Promise::Kept;
        }
        let bus = &self.policy.bus;
        let servers = self.ask().await.unwrap_or_default();
        let slack: Vec<_> = servers
            .iter()
            .filter(|(_, always)| !always)
            .map(|(name, _)| name.as_str())
            .collect();
        if !slack.is_empty() {
            return Promise::Broken(Problem::new(
                Code::DurabilityNotKept,
                format!(
                    "bus {bus} promises `durability` = `on-disk`, and {} answers before an event is on disk: set `jetstream {{ sync_interval: always }}` there, or ask for `acknowledged`; until then nothing is published",
                    slack.join(", ")
                ),
            ));
        }
        if servers.is_empty() {
            return Promise::Unverified(Problem::new(
                Code::DurabilityUnverified,
                format!(
                    "bus {bus} promises `durability` = `on-disk`, and its account may not ask the servers whether they keep it: set `jetstream {{ sync_interval: always }}` on each, and let the account import {ASK} to have it checked"
                ),
            ));
        }
        Promise::Kept
    }

    /// Each server with JetStream that answers, and whether it writes each event to its disk.
    async fn ask(&self) -> Result<Vec<(String, bool)>, async_nats::Error> {
        let nats = self.nats();
        let inbox = nats.new_inbox();
        let mut answers = nats.subscribe(inbox.clone()).await?;
        nats.publish_with_reply(ASK, inbox, "{\"config\":true}".into()).await?;
        let mut servers = Vec::new();
        while let Ok(Some(answer)) = tokio::time::timeout(PATIENCE, answers.next()).await {
            if answer.status == Some(StatusCode::NO_RESPONDERS) || servers.len() >= MOST {
                break;
            }
            // A server without JetStream has no configuration of it, and stores nothing.
            if let Ok(Answer {
                server,
                data: Some(Data { config: Some(config) }),
            }) = serde_json::from_slice(&answer.payload)
            {
                servers.push((server.name, config.sync_always));
            }
        }
        Ok(servers)
    }
}
