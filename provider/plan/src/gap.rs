//! The retention gap: what a subscription loses when its events expire before it handles them. The server says nothing
//! of it (nats-server 2.15): what nobody was given vanishes without a word.
//!
//! A state that is carried from one observation of the log to the next. The events at the edge of expiry are noted while they
//! are still there, so that it can be said afterwards which they were.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::lost::Lost;
use crate::{TenantId, Timestamp};

/// The most events that are noted before they expire. Beyond, what is lost is counted but not reported by tenant.
pub const MAX_NOTED: usize = 10_000;

/// How long the server's advisory on an event that is gone is waited for.
const DOUBTED_FOR: Duration = Duration::from_secs(5);

/// A partition of the log as a subscription stands in it, observed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// When the log was made.
    pub made_at: Timestamp,
    /// The oldest offset that the log still holds; one beyond its last when it holds nothing.
    pub first: u64,
    /// The last offset that was ever stored.
    pub head: u64,
    /// The offset that was delivered last, or passed over: a purge moves it, too.
    pub delivered_to: u64,
    /// How many were delivered, each time one was.
    pub given: u64,
    /// Everything up to this offset is settled.
    pub settled_to: u64,
    /// The subscription wants every event that it is given: no pattern leaves some out.
    pub wants_all: bool,
    /// Nothing but its age takes an event out of the log, and whoever purges it.
    pub only_ages: bool,
    /// The oldest event that is not settled, and when it expires.
    pub oldest: Option<Expiring>,
}

/// An event and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiring {
    /// Its place.
    pub offset: u64,
    /// When the log lets it go.
    pub expires_at: Timestamp,
    /// Its tenant's own consumer gives it, and reports its loss; this one has yet to skip it.
    #[serde(default)]
    pub isolated: bool,
}

/// The server's advisories on events that were terminated: they went after they were delivered and before they were settled.
#[derive(Clone, Copy, Debug)]
pub struct Advisories<'a> {
    /// Their offsets.
    pub unsettled: &'a BTreeSet<u64>,
    /// Whether all were received since the observation before.
    pub all: bool,
}

/// What is remembered between observations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When the log was made that this speaks of; the epoch where nobody knows.
    #[serde(default)]
    pub made_at: Timestamp,
    /// The offset that was delivered last, at the last observation.
    pub delivered_to: u64,
    /// How many were delivered, at the last observation.
    #[serde(default)]
    pub given: u64,
    /// The last offset that was ever stored, at the last observation.
    #[serde(default)]
    pub head: u64,
    /// The oldest event that was not settled, at the last observation.
    pub oldest: Option<Expiring>,
    /// Events near their end that may not be settled, and whose.
    pub noted: BTreeMap<u64, TenantId>,
    /// Events that were delivered and are gone. If they were not settled, the server says so soon.
    #[serde(default)]
    pub doubted: BTreeMap<u64, TenantId>,
    /// When the last of them went.
    #[serde(default)]
    pub doubted_at: Timestamp,
    /// Events up to this offset need not be noted again.
    pub noted_to: u64,
    /// Every event that was stored before this and may not be settled is noted.
    pub noted_until: Timestamp,
    /// What was lost, and nobody has acknowledged yet.
    pub lost: Option<Lost>,
    /// Events of losses that somebody has acknowledged.
    #[serde(default)]
    pub seen_events: u64,
}

impl Gap {
    /// Moves on to what is observed. What was stored before `expired_to` may have expired. Returns what was lost since
    /// the last observation.
    pub fn observe(
        &mut self,
        now_there: &Observation,
        advisories: Advisories<'_>,
        expired_to: Timestamp,
        now: Timestamp,
    ) -> Option<Lost> {
        let made_at = std::mem::replace(&mut self.made_at, now_there.made_at);
        if made_at != Timestamp::EPOCH && made_at != now_there.made_at {
            // What waited went with the log before.
            let waited = self.oldest.filter(|oldest| !oldest.isolated);
            let found = self.begin_anew(waited.map(|oldest| (oldest.offset, self.head)), now);
            *self = Self {
                made_at: now_there.made_at,
                delivered_to: now_there.delivered_to,
                given: now_there.given,
                head: now_there.head,
                oldest: now_there.oldest,
                noted_to: now_there.settled_to,
                ..std::mem::take(self)
            };
            return found;
        }
        let before = self.delivered_to;
        let gone_to = now_there.first.saturating_sub(1);
        // What was delivered is in a subscriber's or an instance's hands: unless it is settled before it goes, the
        // server says so.
        let moved = now_there.delivered_to != before && now_there.given != self.given;
        let surely_delivered = if moved && now_there.delivered_to < now_there.first {
            now_there.delivered_to
        } else {
            before
        };
        let later = self.noted.split_off(&now_there.first);
        let gone = std::mem::replace(&mut self.noted, later);
        if now.since(self.doubted_at) > DOUBTED_FOR {
            self.doubted.clear();
        }
        let in_doubt = gone.keys().any(|offset| *offset <= surely_delivered);
        if in_doubt {
            self.doubted_at = now;
        }
        let exact = now_there.wants_all
            && !(moved && now_there.delivered_to >= now_there.first)
            && self.noted_until >= expired_to
            && (advisories.all || !in_doubt);
        let mut found = Lost {
            exact,
            at: now,
            ..Lost::default()
        };
        self.doubted.extend(gone);
        self.doubted.retain(|offset, tenant| {
            let is_lost = *offset > surely_delivered || advisories.unsettled.contains(offset);
            if is_lost {
                found.add(*offset, tenant);
            }
            !is_lost
        });
        while self.doubted.len() > MAX_NOTED {
            self.doubted.pop_first();
        }
        // The oldest one that waited is gone although it was not noted: an instance was away, or the log was full.
        if let Some(oldest) = self.oldest
            && !oldest.isolated
            && oldest.offset < now_there.first
            && (oldest.offset > surely_delivered || (now_there.only_ages && oldest.expires_at > now))
            && found.events == 0
        {
            (found.from, found.to) = (oldest.offset, gone_to);
            found.exact = false;
        }
        (self.delivered_to, self.given, self.head) = (now_there.delivered_to, now_there.given, now_there.head);
        self.oldest = now_there.oldest;
        self.noted.retain(|offset, _| *offset > now_there.settled_to);
        self.noted_to = self.noted_to.max(now_there.settled_to);
        if found.from == 0 {
            return None;
        }
        match &mut self.lost {
            Some(lost) => lost.join(&found),
            None => {
                self.lost = Some(Lost {
                    which: Vec::new(),
                    ..found.clone()
                });
            }
        }
        Some(found)
    }

    /// Begins anew in another log, in which an offset means another event; what was lost stays reported. Returns what went with the
    /// last one, from the first to the last offset.
    pub fn begin_anew(&mut self, lost: Option<(u64, u64)>, now: Timestamp) -> Option<Lost> {
        let found = lost.map(|(from, to)| Lost {
            from,
            to,
            at: now,
            ..Lost::default()
        });
        let mut all = self.lost.take();
        if let Some(found) = &found {
            match &mut all {
                Some(all) => all.join(found),
                None => all = Some(found.clone()),
            }
        }
        *self = Self {
            lost: all,
            seen_events: self.seen_events,
            ..Self::default()
        };
        found
    }

    /// Takes over what was lost before the subscription was put back to a place.
    pub fn take_over(&mut self, before: &Self) {
        self.seen_events += before.seen_events;
        match (&mut self.lost, &before.lost) {
            (Some(lost), Some(more)) => lost.merge(more),
            (None, lost) => self.lost.clone_from(lost),
            (Some(_), None) => {}
        }
    }

    /// Acknowledges what was lost so far: it is reported no more, and still counted.
    pub fn acknowledge(&mut self) -> Option<Lost> {
        let lost = self.lost.take()?;
        self.seen_events += lost.events;
        Some(lost)
    }

    /// Whether there is a loss to remember, for as long as the subscription lasts.
    pub fn has_lost(&self) -> bool {
        self.lost.is_some() || self.seen_events > 0
    }

    /// Whether what the server says of an offset may still matter.
    pub fn may_lose(&self, offset: u64) -> bool {
        self.noted.contains_key(&offset) || self.doubted.contains_key(&offset)
    }

    /// Whether the oldest event that waits expires before `then`.
    pub fn is_near(&self, then: Timestamp) -> bool {
        self.oldest.is_some_and(|o| o.expires_at <= then)
    }

    /// Notes an event that will expire soon. Returns whether there is room for more.
    pub fn note(&mut self, offset: u64, tenant: TenantId) -> bool {
        if self.noted.len() >= MAX_NOTED {
            return false;
        }
        self.noted.insert(offset, tenant);
        self.noted_to = self.noted_to.max(offset);
        true
    }
}

#[cfg(test)]
mod tests;
