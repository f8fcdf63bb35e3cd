//! Moves a whole bus from one JetStream domain to another, while it runs: mirrors, deliveries that stand still, a fence at
//! the old store, promotion. All that is known of how far it came is in the stores of both ([`fanout_plan::migration`]).
//!
//! `copies`: mirrors, and that they are equal. `compared`: messages, as both stores give them. `stillness`: nothing is in flight. `switch`: the fence, and what follows it.
//!
//! nats-server 2.15.1: a mirror keeps numbers and times; one that has a window for ids from its beginning recognises, once
//! it is promoted, ids of what it mirrored; it does not follow deletions.

mod api;
mod checks;
mod compared;
mod copies;
mod stillness;
mod switch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use fanout_plan::Code;
use fanout_plan::migration::{self, AtOrigin, AtTarget, Pair, Stage};

use self::api::{mark, refused, state};
use super::{Store, StoreError};

/// What a stream says of the migration that it is part of: `to DOMAIN` where the bus leaves, `from DOMAIN` where it goes.
pub(in crate::jetstream) const MIGRATION: &str = "fanout-migration";

/// A migration of one bus.
pub struct Migration {
    from: Store,
    to: Store,
    from_domain: String,
    to_domain: String,
    /// Up to which number each stream was compared.
    compared: BTreeMap<String, u64>,
    /// Positions up to there that one of both did not give.
    unread: BTreeMap<String, Vec<u64>>,
    shows: Arc<dyn Fn(&Step) + Send + Sync>,
}

/// What a migration has just done. It can be ended behind each, and be run again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// This stream has a mirror.
    Mirrored(String),
    /// Nothing is delivered any more, and what is in flight is awaited.
    Withheld,
    /// Nothing is in flight, and each subscription says where it goes on.
    Still,
    /// Nothing is stored any more where the bus leaves.
    Closed,
    /// Every stream is equal in both stores.
    Equal,
    /// This mirror has become a stream.
    Promoted(String),
    /// Subscriptions may be delivered where the bus goes.
    Released,
    /// This stream is one like any other.
    Opened(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mirrored(stream) => write!(f, "{stream} is mirrored"),
            Self::Withheld => f.write_str("deliveries stand still; what is in flight is awaited"),
            Self::Still => f.write_str("nothing is in flight"),
            Self::Closed => f.write_str("publishing is refused"),
            Self::Equal => f.write_str("both stores are equal"),
            Self::Promoted(stream) => write!(f, "{stream} is promoted"),
            Self::Released => f.write_str("subscriptions are released"),
            Self::Opened(stream) => write!(f, "{stream} is open"),
        }
    }
}

/// A stream, as a migration shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StreamReport {
    /// Its name.
    pub stream: String,
    /// Messages where the bus leaves.
    pub messages: u64,
    /// Its last number there.
    pub last: u64,
    /// How far the mirror is; 0 where there is none.
    pub copied_to: u64,
    /// Up to which number both were compared, message by message.
    pub compared_to: u64,
}

/// What a switch came to.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Switched {
    /// For how long nothing was stored anywhere.
    pub refused_ms: u64,
    /// For how long nothing was delivered.
    pub undelivered_ms: u64,
    /// Subscriptions, and what of them had been delivered and not settled: it is delivered again.
    pub subscriptions: BTreeMap<String, usize>,
    /// The streams, equal in both.
    pub streams: Vec<StreamReport>,
}

impl Store {
    /// Why an instance leaves a bus alone that is on its way: by what a stream says of itself.
    pub(super) fn is_on_its_way(&self, said: &str) -> StoreError {
        let bus = &self.policy.bus;
        match said.strip_prefix("to ") {
            Some(domain) => refused(
                Code::BusMoved,
                format!(
                    "bus {bus} goes to JetStream domain {domain} by `fanout migrate`: nothing is stored here; connect to an instance there"
                ),
            ),
            None => refused(
                Code::BusMigrating,
                format!(
                    "bus {bus} is being copied to this store by `fanout migrate`: it begins here once that has switched"
                ),
            ),
        }
    }
}

impl Migration {
    /// Between two stores of one policy. Changes nothing.
    ///
    /// # Errors
    /// When the two are not two domains, or a store can't be read.
    pub async fn between(from: Store, to: Store) -> Result<Self, StoreError> {
        let (from_domain, to_domain) = (from.domain().await?, to.domain().await?);
        let bus = &from.policy().bus;
        if from_domain.is_empty() || to_domain.is_empty() || from_domain == to_domain {
            return Err(refused(
                Code::NotMigratable,
                format!(
                    "bus {bus}: the two servers are in the JetStream domains `{from_domain}` and `{to_domain}`: give each server a domain of its own, and join them by a leaf node link"
                ),
            ));
        }
        Ok(Self {
            from,
            to,
            from_domain,
            to_domain,
            compared: BTreeMap::new(),
            unread: BTreeMap::new(),
            shows: Arc::new(|_| ()),
        })
    }

    /// The same, which shows each step that it has taken.
    #[must_use]
    pub fn showing(self, shows: impl Fn(&Step) + Send + Sync + 'static) -> Self {
        Self {
            shows: Arc::new(shows),
            ..self
        }
    }

    /// The domains from which and to which it goes.
    pub fn domains(&self) -> (&str, &str) {
        (&self.from_domain, &self.to_domain)
    }

    /// How far it has come.
    ///
    /// # Errors
    /// When the target holds what the migration did not make, or a store can't be read.
    pub async fn stage(&self) -> Result<Stage, StoreError> {
        let mut pairs = Vec::new();
        let streams = self.from.migrated_streams().await?;
        for stream in &streams {
            let Some(at) = self.from.raw_info(stream, false).await? else {
                continue;
            };
            let origin = match mark(&at, MIGRATION) {
                None => AtOrigin::Open,
                Some(said) if said == format!("to {}", self.to_domain) => AtOrigin::Closed,
                Some(said) => return Err(self.goes_elsewhere(said)),
            };
            let target = self.target(stream).await?;
            pairs.push(Pair {
                stream: stream.clone(),
                origin,
                target,
            });
        }
        if pairs.is_empty() {
            return Err(refused(
                Code::NotMigratable,
                format!(
                    "JetStream domain {} holds no bus {}: correct `--from`",
                    self.from_domain,
                    self.from.policy().bus
                ),
            ));
        }
        let begins = pairs.iter().all(|pair| pair.origin == AtOrigin::Open);
        for stream in self.to.migrated_streams().await? {
            // Once it has moved, the bus makes there what it needs.
            if begins && !streams.contains(&stream) {
                pairs.push(Pair {
                    origin: AtOrigin::Open,
                    target: self.target(&stream).await?,
                    stream,
                });
            }
        }
        migration::stage(&pairs).map_err(|p| StoreError::Refused(vec![p]))
    }

    fn goes_elsewhere(&self, said: &str) -> StoreError {
        refused(
            Code::BusMoved,
            format!(
                "bus {}: its migration goes {said}: go on with that one",
                self.from.policy().bus
            ),
        )
    }

    async fn target(&self, stream: &str) -> Result<AtTarget, StoreError> {
        let ours = format!("from {}", self.from_domain);
        Ok(match self.to.raw_info(stream, false).await? {
            None => AtTarget::Absent,
            Some(info) => match (mark(&info, MIGRATION), info["config"]["mirror"].is_object()) {
                (Some(said), true) if said == ours => AtTarget::Mirror,
                (Some(said), false) if said == ours => AtTarget::Promoted,
                _ => AtTarget::Open,
            },
        })
    }

    /// Every stream, and how far its copy is.
    ///
    /// # Errors
    /// When a store can't be read.
    pub async fn streams(&self) -> Result<Vec<StreamReport>, StoreError> {
        let mut all = Vec::new();
        for stream in self.from.migrated_streams().await? {
            let Some(at) = self.from.raw_info(&stream, false).await? else {
                continue;
            };
            let copy = self.to.raw_info(&stream, false).await?;
            all.push(StreamReport {
                messages: state(&at, "messages"),
                last: state(&at, "last_seq"),
                copied_to: copy.map_or(0, |copy| state(&copy, "last_seq")),
                compared_to: self.compared.get(&stream).copied().unwrap_or(0),
                stream,
            });
        }
        Ok(all)
    }

    fn show(&self, step: &Step) {
        (self.shows)(step);
    }
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migration")
            .field("from", &self.from_domain)
            .field("to", &self.to_domain)
            .finish_non_exhaustive()
    }
}
