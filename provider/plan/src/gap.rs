//! The retention gap: what a subscription loses when its events expire before it handles them. The server says nothing
//! of it (nats-server 2.15): what nobody was given vanishes without a word.
//!
//! A state that is carried from one look at the log to the next. The events at the edge of expiry are noted while they
//! are still there, so that it can be said afterwards which they were.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::TenantId;

/// The most events that are noted before they expire. Beyond, what is lost is counted but not told by tenant.
pub const MAX_NOTED: usize = 10_000;

/// The most tenants that a loss names.
const MAX_TENANTS: usize = 1_000;

/// The most events that a loss names one by one.
const MAX_NAMED: usize = 1_000;

/// How long the server's word on an event that is gone is waited for, nanoseconds.
const DOUBTED_FOR: i64 = 5_000_000_000;

/// What one look at a partition of the log shows of a subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// When the log was made, nanoseconds since the Unix epoch.
    pub made_at: i64,
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
    /// The oldest event that is not settled, and when it expires, nanoseconds since the Unix epoch.
    pub oldest: Option<Expiring>,
}

/// An event and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expiring {
    /// Its place.
    pub offset: u64,
    /// When the log lets it go, nanoseconds since the Unix epoch.
    pub expires_at: i64,
    /// Its tenant's own consumer gives it, and tells of its loss; this one has yet to pass over it.
    #[serde(default)]
    pub isolated: bool,
}

/// What the server said meanwhile of events that went after they were delivered and before they were settled.
#[derive(Clone, Copy, Debug)]
pub struct Heard<'a> {
    /// Their offsets.
    pub unsettled: &'a BTreeSet<u64>,
    /// Whether it was listened to since the look before.
    pub all: bool,
}

/// What was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first offset that was lost.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Events that were lost between them, of those that were seen before they went.
    pub events: u64,
    /// The same by tenant.
    pub tenants: BTreeMap<TenantId, u64>,
    /// Whether that is all of them, and none of them was delivered at the last moment. What a subscriber still works on
    /// when it expires is among them, whatever comes of it. Never, where a pattern would have left some of them out.
    pub exact: bool,
    /// When it was last found, nanoseconds since the Unix epoch.
    pub at: i64,
    /// The first of the events that were lost now, and whose; nothing of it is remembered.
    #[serde(skip)]
    pub which: Vec<(u64, TenantId)>,
}

impl Lost {
    /// Adds what another consumer of the same subscription lost there. It names as many tenants as one loss does.
    pub fn merge(&mut self, other: &Self) {
        let at = self.at.max(other.at);
        self.join(other);
        self.at = at;
    }
}

/// What is remembered between looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When the log was made that this speaks of, nanoseconds since the Unix epoch; 0 where nobody knows.
    #[serde(default)]
    pub made_at: i64,
    /// The offset that was delivered last, at the last look.
    pub delivered_to: u64,
    /// How many were delivered, at the last look.
    #[serde(default)]
    pub given: u64,
    /// The last offset that was ever stored, at the last look.
    #[serde(default)]
    pub head: u64,
    /// The oldest event that was not settled, at the last look.
    pub oldest: Option<Expiring>,
    /// Events near their end that may not be settled, and whose.
    pub noted: BTreeMap<u64, TenantId>,
    /// Events that were delivered and are gone. If they were not settled, the server says so soon.
    #[serde(default)]
    pub doubted: BTreeMap<u64, TenantId>,
    /// When the last of them went, nanoseconds since the Unix epoch.
    #[serde(default)]
    pub doubted_at: i64,
    /// Events up to this offset need not be noted again.
    pub noted_to: u64,
    /// Every event that was stored before this and may not be settled is noted, nanoseconds since the Unix epoch.
    pub noted_until: i64,
    /// What was lost, and nobody has acknowledged yet.
    pub lost: Option<Lost>,
    /// Events of losses that somebody has acknowledged.
    #[serde(default)]
    pub seen_events: u64,
}

impl Gap {
    /// Moves on to what a look shows. What was stored before `expired_to` may have expired. Returns what was lost since
    /// the last look.
    pub fn look(&mut self, look: &Look, heard: Heard<'_>, expired_to: i64, now: i64) -> Option<Lost> {
        let made_at = std::mem::replace(&mut self.made_at, look.made_at);
        if made_at != 0 && made_at != look.made_at {
            // What waited went with the log before.
            let waited = self.oldest.filter(|oldest| !oldest.isolated);
            let found = self.begin_anew(waited.map(|oldest| (oldest.offset, self.head)), now);
            *self = Self {
                made_at: look.made_at,
                delivered_to: look.delivered_to,
                given: look.given,
                head: look.head,
                oldest: look.oldest,
                noted_to: look.settled_to,
                ..std::mem::take(self)
            };
            return found;
        }
        let before = self.delivered_to;
        let gone_to = look.first.saturating_sub(1);
        // What was delivered is in a subscriber's or an instance's hands: unless it is settled before it goes, the
        // server says so.
        let moved = look.delivered_to != before && look.given != self.given;
        let surely_delivered = if moved && look.delivered_to < look.first {
            look.delivered_to
        } else {
            before
        };
        let later = self.noted.split_off(&look.first);
        let gone = std::mem::replace(&mut self.noted, later);
        if now.saturating_sub(self.doubted_at) > DOUBTED_FOR {
            self.doubted.clear();
        }
        let in_doubt = gone.keys().any(|offset| *offset <= surely_delivered);
        if in_doubt {
            self.doubted_at = now;
        }
        let exact = look.wants_all
            && !(moved && look.delivered_to >= look.first)
            && self.noted_until >= expired_to
            && (heard.all || !in_doubt);
        let mut found = Lost {
            exact,
            at: now,
            ..Lost::default()
        };
        self.doubted.extend(gone);
        self.doubted.retain(|offset, tenant| {
            let is_lost = *offset > surely_delivered || heard.unsettled.contains(offset);
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
            && oldest.offset < look.first
            && (oldest.offset > surely_delivered || (look.only_ages && oldest.expires_at > now))
            && found.events == 0
        {
            (found.from, found.to) = (oldest.offset, gone_to);
            found.exact = false;
        }
        (self.delivered_to, self.given, self.head) = (look.delivered_to, look.given, look.head);
        self.oldest = look.oldest;
        self.noted.retain(|offset, _| *offset > look.settled_to);
        self.noted_to = self.noted_to.max(look.settled_to);
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

    /// Begins anew in another log, in which an offset means another event; what was lost stays told. Returns what went with the
    /// last one, from the first to the last offset.
    pub fn begin_anew(&mut self, lost: Option<(u64, u64)>, now: i64) -> Option<Lost> {
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
    pub fn is_near(&self, then: i64) -> bool {
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

impl Lost {
    fn add(&mut self, offset: u64, tenant: &TenantId) {
        if self.from == 0 {
            self.from = offset;
        }
        self.to = self.to.max(offset);
        self.events += 1;
        if self.which.len() < MAX_NAMED {
            self.which.push((offset, tenant.clone()));
        }
        self.of_tenant(tenant, 1);
    }

    fn of_tenant(&mut self, tenant: &TenantId, events: u64) {
        if let Some(count) = self.tenants.get_mut(tenant) {
            *count += events;
        } else if self.tenants.len() < MAX_TENANTS {
            self.tenants.insert(tenant.clone(), events);
        } else {
            self.exact = false;
        }
    }

    fn join(&mut self, more: &Self) {
        self.from = self.from.min(more.from);
        self.to = self.to.max(more.to);
        self.events += more.events;
        self.exact &= more.exact;
        self.at = more.at;
        for (tenant, events) in &more.tenants {
            self.of_tenant(tenant, *events);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// Everything that was delivered is settled.
    fn at(first: u64, delivered_to: u64) -> Look {
        Look {
            wants_all: true,
            made_at: 1,
            first,
            head: delivered_to,
            delivered_to,
            given: delivered_to,
            settled_to: delivered_to,
            only_ages: false,
            oldest: None,
        }
    }

    const NOTHING: Heard<'_> = Heard {
        unsettled: &BTreeSet::new(),
        all: true,
    };

    #[test]
    fn what_waited_in_a_log_that_is_another_now_is_lost() {
        let mut gap = Gap::default();
        let waits = Expiring {
            offset: 6,
            expires_at: 1_000,
            isolated: false,
        };
        let before = Look {
            made_at: 1,
            head: 8,
            settled_to: 5,
            oldest: Some(waits),
            ..at(1, 5)
        };
        assert_eq!(gap.look(&before, NOTHING, 0, 5), None);
        let after = Look { made_at: 2, ..at(1, 2) };
        let lost = gap.look(&after, NOTHING, 0, 6).unwrap();
        assert_eq!((lost.from, lost.to, lost.exact), (6, 8, false));
        assert_eq!(gap.look(&after, NOTHING, 0, 7), None, "told once");
        assert_eq!((gap.head, gap.oldest), (2, None));
    }

    #[test]
    fn a_loss_is_told_until_it_is_acknowledged_and_counted_for_ever() {
        let mut gap = Gap::default();
        assert_eq!((gap.acknowledge(), gap.has_lost()), (None, false));
        gap.note(1, tenant("acme"));
        gap.look(&at(2, 0), NOTHING, 0, 5).unwrap();
        assert!(gap.has_lost());
        assert_eq!(gap.acknowledge().map(|lost| lost.events), Some(1));
        assert_eq!((gap.lost.as_ref(), gap.seen_events, gap.has_lost()), (None, 1, true));
        gap.note(2, tenant("acme"));
        gap.look(&at(3, 0), NOTHING, 0, 6).unwrap();
        assert_eq!(
            (gap.lost.as_ref().map(|lost| lost.events), gap.seen_events),
            (Some(1), 1)
        );
    }

    #[test]
    fn what_expires_undelivered_is_told_by_position_and_tenant() {
        let mut gap = Gap::default();
        assert_eq!(gap.look(&at(1, 2), NOTHING, 0, 0), None);
        for (offset, name) in [(3, "acme"), (4, "acme"), (6, "globex")] {
            assert!(gap.note(offset, tenant(name)));
        }
        assert_eq!(
            gap.look(&at(3, 2), NOTHING, 0, 1),
            None,
            "what was delivered before may expire"
        );
        let lost = gap.look(&at(5, 2), NOTHING, 0, 2).unwrap();
        assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 4, 2, true));
        assert_eq!(lost.tenants, [(tenant("acme"), 2)].into());
        assert_eq!(lost.which, [(3, tenant("acme")), (4, tenant("acme"))]);
        assert!(gap.lost.as_ref().is_some_and(|lost| lost.which.is_empty()), "told once");
        let lost = gap.look(&at(7, 2), NOTHING, 0, 3).unwrap();
        assert_eq!((lost.from, lost.to, lost.events), (6, 6, 1));
        let all = gap.lost.clone().unwrap();
        assert_eq!((all.from, all.to, all.events, all.exact, all.at), (3, 6, 3, true, 3));
        assert_eq!(gap.look(&at(7, 2), NOTHING, 0, 4), None, "told once");
    }

    #[test]
    fn what_is_handled_at_the_last_moment_is_not_lost() {
        let mut gap = Gap::default();
        gap.look(&at(1, 0), NOTHING, 0, 0);
        for offset in 1..=4 {
            gap.note(offset, tenant("acme"));
        }
        assert_eq!(
            gap.look(&at(3, 4), NOTHING, 0, 1).map(|l| l.exact),
            Some(false),
            "it may have been"
        );
        let mut gap = Gap::default();
        gap.look(&at(1, 0), NOTHING, 0, 0);
        for offset in 1..=4 {
            gap.note(offset, tenant("acme"));
        }
        let lost = gap.look(&at(4, 2), NOTHING, 0, 1).unwrap();
        assert_eq!((lost.from, lost.events, lost.exact), (3, 1, true));
    }

    #[test]
    fn what_was_delivered_and_never_settled_is_lost_too() {
        let delivered = Look {
            settled_to: 1,
            ..at(1, 4)
        };
        let noted = || {
            let mut gap = Gap::default();
            gap.look(&delivered, NOTHING, 0, 0);
            for offset in 2..=5 {
                gap.note(offset, tenant("acme"));
            }
            gap
        };
        let unsettled = [3].into();
        let heard = Heard {
            unsettled: &unsettled,
            all: true,
        };
        let mut gap = noted();
        let lost = gap.look(&at(6, 4), heard, 0, 1).unwrap();
        assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 5, 2, true));
        assert_eq!(gap.look(&at(6, 4), heard, 0, 2), None, "told once");

        // The word comes after the look.
        let mut gap = noted();
        let held = Look {
            settled_to: 1,
            ..at(4, 4)
        };
        assert_eq!(gap.look(&held, NOTHING, 0, 1), None);
        assert!(gap.may_lose(3) && gap.may_lose(4));
        let lost = gap.look(&held, heard, 0, 1 + DOUBTED_FOR).unwrap();
        assert_eq!((lost.from, lost.to, lost.events, lost.exact), (3, 3, 1, true));
        assert_eq!(gap.look(&at(4, 4), heard, 0, 2 + DOUBTED_FOR), None);
        assert!(!gap.may_lose(2), "it was settled");

        // Nobody listened.
        let deaf = Heard { all: false, ..heard };
        assert_eq!(noted().look(&at(6, 4), deaf, 0, 1).map(|l| l.exact), Some(false));
    }

    #[test]
    fn what_went_with_another_log_is_told_and_nothing_else_of_it_is_remembered() {
        let mut gap = Gap::default();
        gap.look(&at(1, 4), NOTHING, 0, 0);
        gap.note(6, tenant("acme"));
        let lost = gap.begin_anew(Some((5, 9)), 3).unwrap();
        assert_eq!((lost.from, lost.to, lost.exact, lost.at), (5, 9, false, 3));
        assert_eq!(gap.begin_anew(None, 4), None);
        let left = Gap {
            lost: Some(lost),
            ..Gap::default()
        };
        assert_eq!(gap, left);
    }

    #[test]
    fn what_two_consumers_lost_is_told_together() {
        let lost = |from, to, who: &str, exact| Lost {
            from,
            to,
            events: 2,
            tenants: [(tenant(who), 2)].into(),
            exact,
            at: i64::try_from(to).unwrap(),
            ..Lost::default()
        };
        let mut all = lost(5, 9, "acme", true);
        all.merge(&lost(3, 7, "acme", true));
        all.merge(&lost(8, 12, "globex", false));
        let tenants = [(tenant("acme"), 4), (tenant("globex"), 2)].into();
        assert_eq!((all.from, all.to, all.events, all.exact, all.at), (3, 12, 6, false, 12));
        assert_eq!(all.tenants, tenants);
    }

    #[test]
    fn what_many_consumers_lost_names_a_bounded_number_of_tenants() {
        let of = |names: std::ops::Range<usize>| Lost {
            from: 1,
            to: 9,
            events: names.len() as u64,
            tenants: names.map(|i| (tenant(&format!("t{i}")), 1)).collect(),
            exact: true,
            at: 1,
            ..Lost::default()
        };
        let mut all = of(0..MAX_TENANTS);
        all.merge(&of(MAX_TENANTS - 1..MAX_TENANTS + 5));
        assert_eq!(all.tenants.len(), MAX_TENANTS);
        assert_eq!(
            all.tenants[&tenant(&format!("t{}", MAX_TENANTS - 1))],
            2,
            "those that are named go on"
        );
        assert_eq!(all.events, MAX_TENANTS as u64 + 6);
        assert!(!all.exact, "it is said that not all are named");
    }

    #[test]
    fn a_loss_that_nobody_watched_is_told_as_far_as_it_can_be() {
        let mut gap = Gap::default();
        let waits = Expiring {
            offset: 8,
            expires_at: 50,
            isolated: false,
        };
        let waiting = |oldest| Look {
            oldest: Some(oldest),
            ..at(1, 5)
        };
        gap.look(&waiting(waits), NOTHING, 0, 0);
        assert!(gap.is_near(50) && !gap.is_near(49));
        let lost = gap.look(&at(20, 5), NOTHING, 1, 99).unwrap();
        assert_eq!((lost.from, lost.to, lost.events, lost.exact), (8, 19, 0, false));

        // An operator's purge moves the consumer, and delivers nothing.
        let mut gap = Gap::default();
        gap.look(&waiting(waits), NOTHING, 0, 0);
        let purged = Look { given: 5, ..at(20, 19) };
        let lost = gap.look(&purged, NOTHING, 1, 99).unwrap();
        assert_eq!((lost.from, lost.to, lost.exact), (8, 19, false));
        assert_eq!(gap.look(&purged, NOTHING, 1, 99), None, "told once");

        // So does it with what was in a subscriber's hands.
        let mut gap = Gap::default();
        let held = Look {
            settled_to: 0,
            ..waiting(Expiring { offset: 3, ..waits })
        };
        gap.look(&held, NOTHING, 0, 0);
        let gone = |only_ages| Look {
            only_ages,
            ..at(20, 19)
        };
        assert_eq!(gap.clone().look(&gone(false), NOTHING, 1, 9), None);
        let lost = gap.look(&gone(true), NOTHING, 1, 9).unwrap();
        assert_eq!((lost.from, lost.to, lost.exact), (3, 19, false));

        // One that is isolated is told of by its tenant's consumer.
        let mut gap = Gap::default();
        gap.look(
            &waiting(Expiring {
                isolated: true,
                ..waits
            }),
            NOTHING,
            0,
            0,
        );
        assert!(gap.is_near(50), "what lies behind it may be near its end too");
        assert_eq!(gap.look(&at(20, 5), NOTHING, 1, 99), None);
    }

    proptest! {
        /// While nothing is delivered, every noted event is told exactly once, when it goes.
        #[test]
        fn nothing_is_told_twice_or_forgotten(steps in proptest::collection::vec((1u64..20, 0u64..20), 1..30)) {
            let mut gap = Gap::default();
            gap.look(&at(1, 0), NOTHING, 0, 0);
            let (mut head, mut first, mut told) = (0, 1, 0);
            for (more, expire) in steps {
                for _ in 0..more {
                    head += 1;
                    gap.note(head, tenant(if head % 2 == 0 { "even" } else { "odd" }));
                }
                first = (first + expire).min(head + 1);
                if let Some(lost) = gap.look(&at(first, 0), NOTHING, 0, 0) {
                    prop_assert!(lost.exact);
                    prop_assert_eq!(lost.to, first - 1);
                    told += lost.events;
                }
                prop_assert_eq!(told, first - 1);
                prop_assert_eq!(gap.noted.len() as u64, head - told);
            }
            let by_tenant: u64 = gap.lost.iter().flat_map(|l| l.tenants.values()).sum();
            prop_assert_eq!(by_tenant, told);
        }
    }
}
