//! Mirrors of every stream, and whether they are equal to what they mirror: message by message, and position by position.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fanout_plan::Code;
use futures::future::try_join_all;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::StoreError;
use super::api::{refused, state};
use super::compared::messages;
use super::{MIGRATION, Migration, Step};

/// What a mirror can't have (nats-server 2.15.1: 10052, 10198), or takes from its origin.
const NOT_OF_A_MIRROR: [&str; 11] = [
    "subjects",
    "republish",
    "subject_transform",
    "allow_atomic",
    "allow_rollup_hdrs",
    "subject_delete_marker_ttl",
    "allow_msg_counter",
    "first_seq",
    "placement",
    // What its origin removes is removed there, too.
    "deny_delete",
    "deny_purge",
];
/// Messages that are read in one request.
const AT_ONCE: u64 = 512;
/// Positions that are removed at once.
const REMOVED_AT_ONCE: usize = 64;
/// How long mirrors may take to have all, once nothing new comes.
pub(super) const EQUAL_WITHIN: Duration = Duration::from_secs(10);
/// How often states are read that are waited for.
pub(super) const EVERY: Duration = Duration::from_millis(10);

/// Parts of what is compared that are read at once: while one is compared, the stores read others.
const PARTS: u64 = 3;

/// Which positions a stream holds.
struct Positions {
    first: u64,
    last: u64,
    missing: BTreeSet<u64>,
}

impl Positions {
    fn of(info: &Value) -> Self {
        let deleted = info["state"]["deleted"].as_array();
        Self {
            first: state(info, "first_seq"),
            last: state(info, "last_seq"),
            missing: deleted.into_iter().flatten().filter_map(Value::as_u64).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.first > self.last || self.first == 0
    }

    /// Whether there is something at a position.
    fn has(&self, position: u64) -> bool {
        (self.first..=self.last).contains(&position) && !self.missing.contains(&position)
    }

    /// The first position that one of both holds and the other does not.
    fn differs_at(&self, other: &Self) -> Option<u64> {
        match (self.is_empty(), other.is_empty()) {
            (true, true) => return None,
            (false, true) => return Some(self.first),
            (true, false) => return Some(other.first),
            (false, false) => {}
        }
        // The first position of what is not empty is held.
        if self.first != other.first {
            return Some(self.first.min(other.first));
        }
        let both = self.first..=self.last.min(other.last);
        let missing = |of: &Self| of.missing.range(both.clone()).copied().collect::<BTreeSet<_>>();
        let inside = missing(self).symmetric_difference(&missing(other)).next().copied();
        let behind = both.end() + 1..=self.last.max(other.last);
        inside.or_else(|| behind.into_iter().find(|at| self.has(*at) || other.has(*at)))
    }

    /// The last position that holds something.
    fn end(&self) -> u64 {
        (self.first..=self.last).rev().find(|at| self.has(*at)).unwrap_or(0)
    }
}

impl Migration {
    /// Makes the mirrors that are missing, or none of them.
    ///
    /// # Errors
    /// When a store refuses one or can't be reached.
    pub async fn copy(&self) -> Result<(), StoreError> {
        let mut made: Vec<String> = Vec::new();
        for stream in self.from.migrated_streams().await? {
            if self.to.raw_info(&stream, false).await?.is_some() {
                continue;
            }
            let Some(at) = self.from.raw_info(&stream, false).await? else {
                continue;
            };
            let mut config = at["config"].clone();
            if let Some(config) = config.as_object_mut() {
                config.retain(|member, _| !NOT_OF_A_MIRROR.contains(&member.as_str()));
            }
            config["mirror"] = json!({
                "name": stream,
                "external": { "api": format!("$JS.{}.API", self.from_domain) },
            });
            config["metadata"][MIGRATION] = format!("from {}", self.from_domain).into();
            let created = self.to.answer_of(&format!("STREAM.CREATE.{stream}"), &config).await;
            let made_it = created.and_then(|answer| match answer.get("error") {
                Some(error) => {
                    let what = format!("make the copy of {stream}");
                    Err(self.not_taken(&what, error, "nothing was changed; migrate again then"))
                }
                None => Ok(()),
            });
            if let Err(error) = made_it {
                for stream in &made {
                    self.remove_mirror(stream).await?;
                }
                return Err(error);
            }
            made.push(stream.clone());
            self.show(&Step::Mirrored(stream));
        }
        Ok(())
    }

    pub(super) async fn remove_mirror(&self, stream: &str) -> Result<(), StoreError> {
        self.to
            .request_api(&format!("STREAM.DELETE.{stream}"), &json!({}))
            .await
            .map(drop)
    }

    /// Removes what mirrors kept and their origins removed, and compares the rest, message by message, on from where it was
    /// compared.
    ///
    /// # Errors
    /// When something differs, or a store can't be read.
    pub async fn compare(&mut self) -> Result<(), StoreError> {
        self.compare_at_most(u64::MAX).await
    }

    /// The same for so many positions of each stream, for who shows how far it is, or has it done while the rest is copied.
    ///
    /// # Errors
    /// As [`Migration::compare`].
    pub async fn compare_at_most(&mut self, most: u64) -> Result<(), StoreError> {
        for stream in self.from.migrated_streams().await? {
            let (at, copy) = self.both(&stream).await?;
            self.trim(&stream, &at, &copy).await?;
            let done = self.compared.get(&stream).copied().unwrap_or(0);
            let begin = (done + 1).max(at.first).max(copy.first);
            let end = at.last.min(copy.last).min((begin - 1).saturating_add(most)).max(done);
            let mut unread = Vec::new();
            for position in self.unread.remove(&stream).unwrap_or_default() {
                // What is in one alone is removed, or was, or a replica did not have it yet.
                if at.has(position) && copy.has(position) {
                    unread.extend(self.compare_messages(&stream, position, position).await?);
                }
            }
            unread.extend(self.compare_messages(&stream, begin, end).await?);
            self.unread.insert(stream.clone(), unread);
            self.compared.insert(stream, end);
        }
        Ok(())
    }

    /// Waits until every mirror has all, and every position is in both or in none. To be called once nothing is stored any more.
    pub(super) async fn become_equal(&mut self) -> Result<(), StoreError> {
        let until = Instant::now() + EQUAL_WITHIN;
        let streams = self.from.migrated_streams().await?;
        try_join_all(streams.iter().map(|stream| self.has_all(stream, until))).await?;
        loop {
            self.compare().await?;
            let Some(stream) = self.left_to_compare().await? else {
                return Ok(());
            };
            if Instant::now() > until {
                return Err(self.not_equal(&stream, self.unread[&stream].first().copied()));
            }
            sleep(EVERY).await;
        }
    }

    /// Waits until a mirror has all that its origin has, and nothing else.
    async fn has_all(&self, stream: &str, until: Instant) -> Result<(), StoreError> {
        let mut differs_at = None;
        loop {
            let (at, copy) = self.both(stream).await?;
            if at.is_empty() || copy.last >= at.end() {
                self.trim(stream, &at, &copy).await?;
                let (at, copy) = self.both(stream).await?;
                differs_at = at.differs_at(&copy);
                if differs_at.is_none() {
                    return Ok(());
                }
            }
            if Instant::now() > until {
                return Err(self.not_equal(stream, differs_at));
            }
            sleep(EVERY).await;
        }
    }

    /// A stream of which both have something that was not read in both.
    async fn left_to_compare(&self) -> Result<Option<String>, StoreError> {
        for (stream, unread) in self.unread.iter().filter(|(_, unread)| !unread.is_empty()) {
            let (at, copy) = self.both(stream).await?;
            if unread.iter().any(|position| at.has(*position) || copy.has(*position)) {
                return Ok(Some(stream.clone()));
            }
        }
        Ok(None)
    }

    fn not_equal(&self, stream: &str, differs_at: Option<u64>) -> StoreError {
        match differs_at {
            Some(position) => refused(
                Code::CopyDiffers,
                format!(
                    "message {position} of {stream} is in one of domains {} and {}, and not in the other: the bus goes on where it was; take it back with `--back`",
                    self.to_domain, self.from_domain
                ),
            ),
            None => refused(
                Code::PlaceUnreachable,
                format!(
                    "the mirror of {stream} in domain {} does not follow domain {}: the bus goes on where it was; look at the link, and migrate once more",
                    self.to_domain, self.from_domain
                ),
            ),
        }
    }

    async fn both(&self, stream: &str) -> Result<(Positions, Positions), StoreError> {
        let both = tokio::try_join!(self.from.raw_info(stream, true), self.to.raw_info(stream, true))?;
        let (Some(at), Some(copy)) = both else {
            return Err(refused(
                Code::TopologyChanged,
                format!("{stream} was made or removed meanwhile: the bus goes on where it was; migrate once more"),
            ));
        };
        Ok((Positions::of(&at), Positions::of(&copy)))
    }

    /// Removes from a mirror what its origin has removed.
    async fn trim(&self, stream: &str, at: &Positions, copy: &Positions) -> Result<(), StoreError> {
        if copy.is_empty() {
            return Ok(());
        }
        if at.first > copy.first {
            let keep_from = at.first.min(copy.last + 1);
            self.to
                .request_api(&format!("STREAM.PURGE.{stream}"), &json!({ "seq": keep_from }))
                .await?;
        }
        let gone = at.missing.range(copy.first..=copy.last).copied();
        let gone = gone.filter(|position| copy.has(*position));
        futures::stream::iter(gone)
            .map(|position| async move {
                let subject = format!("STREAM.MSG.DELETE.{stream}");
                let request = json!({ "seq": position, "no_erase": true });
                // One that has expired meanwhile is as good.
                self.to.answer_of(&subject, &request).await.map(drop)
            })
            .buffer_unordered(REMOVED_AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// Compares the messages of two positions and all between, in a few parts at once. Returns those that one store did not
    /// give.
    async fn compare_messages(&self, stream: &str, begin: u64, end: u64) -> Result<Vec<u64>, StoreError> {
        let part = (end + 1).saturating_sub(begin).div_ceil(PARTS).max(AT_ONCE);
        let begins = (0..PARTS).map(|n| begin + n * part).filter(|from| *from <= end);
        let parts = begins.map(|from| self.compare_part(stream, from, end.min(from + part - 1)));
        Ok(try_join_all(parts).await?.concat())
    }

    /// The same for one part, one answer after the other.
    async fn compare_part(&self, stream: &str, begin: u64, end: u64) -> Result<Vec<u64>, StoreError> {
        let (mut from, mut unread) = (begin, Vec::new());
        while from <= end {
            let most = AT_ONCE.min(end - from + 1);
            let reads = (
                messages(&self.from, stream, from, most),
                messages(&self.to, stream, from, most),
            );
            let (ours, theirs) = tokio::try_join!(reads.0, reads.1)?;
            // An answer says nothing of what lies behind its last message, unless it is the stream's.
            let to = ours.reaches.min(theirs.reaches).min(end);
            for position in from..=to {
                match (ours.messages.get(&position), theirs.messages.get(&position)) {
                    (Some(one), Some(other)) if !one.is(other) => {
                        return Err(refused(
                            Code::CopyDiffers,
                            format!(
                                "message {position} of {stream} is not the same in both stores: the bus is where it was; take it back with `--back`"
                            ),
                        ));
                    }
                    (Some(_), None) | (None, Some(_)) => unread.push(position),
                    _ => {}
                }
            }
            from = to + 1;
        }
        Ok(unread)
    }
}
