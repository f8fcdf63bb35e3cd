//! How long a new owner of an order waits for what the last one had in its hands.
//!
//! The store delivers such an event again `delivery.ack-wait` after the last word of it, or at once when it was
//! nak'ed; thousands of them take their time. So it is not the whole wait that is bounded, but the silence in it: what the
//! store counts as delivered, and never gives again, must not hold up the rest for ever.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fanout_plan::Position;
use fanout_plan::isolation::Reader;

use crate::backoff::Backoff;
use crate::jetstream::ConsumerState;

/// What the store and the way to it may take besides.
const MARGIN: Duration = Duration::from_secs(1);

/// How long it is until the store is asked again what is in flight: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// What the store counts as delivered and not settled of one partition, and where that lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unsettled {
    count: u64,
    /// Behind this offset.
    from: u64,
    /// Up to this one.
    to: u64,
}

/// The same of those partitions that are read.
#[derive(Debug)]
pub(super) struct InFlightAtStore(BTreeMap<u32, Unsettled>);

impl InFlightAtStore {
    pub(super) fn of(states: &[(Reader, ConsumerState)], is_read: impl Fn(u32) -> bool) -> Self {
        let mut unsettled: BTreeMap<u32, Unsettled> = BTreeMap::new();
        let states = states.iter().filter(|(_, state)| state.unsettled > 0);
        for (Reader { partition, .. }, state) in states.filter(|(reader, _)| is_read(reader.partition)) {
            let of_partition = unsettled.entry(*partition).or_insert(Unsettled {
                count: 0,
                from: u64::MAX,
                to: 0,
            });
            of_partition.count += state.unsettled;
            of_partition.from = of_partition.from.min(state.settled_to);
            of_partition.to = of_partition.to.max(state.delivered_to);
        }
        Self(unsettled)
    }

    pub(super) fn count(&self) -> u64 {
        self.0.values().map(|unsettled| unsettled.count).sum()
    }

    /// Whether an event may be among them. A server that was killed has forgotten what it delivered last, and what was purged
    /// from the log is in flight no more.
    pub(super) fn may_have(&self, position: Position) -> bool {
        let of_partition = self.0.get(&position.partition);
        of_partition.is_some_and(|u| u.from < position.offset && position.offset <= u.to)
    }
}

#[derive(Debug)]
pub(super) struct Recovery {
    /// The longest silence that is waited out.
    patience: Duration,
    /// When the last event came back.
    last: Instant,
    check_at: Instant,
    pause: Backoff,
}

impl Recovery {
    pub(super) fn new(ack_wait: Duration, now: Instant) -> Self {
        Self {
            patience: ack_wait * 2 + MARGIN,
            last: now,
            check_at: now,
            pause: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// When the store is to be asked.
    pub(super) fn check_at(&self) -> Instant {
        self.check_at
    }

    /// It was asked.
    pub(super) fn checked(&mut self, now: Instant) {
        self.check_at = now + self.pause.next();
    }

    /// An event came that the last owner had.
    pub(super) fn came_back(&mut self, now: Instant) {
        self.last = now;
    }

    /// The silence since the last event came, if it is too long to wait for more.
    pub(super) fn is_over(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.last);
        (silent > self.patience).then_some(silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_goes_on_for_as_long_as_events_come_back() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND * 2, began);
        for second in 1..=60 {
            let now = began + SECOND * second;
            assert_eq!(recovery.is_over(now), None, "after {second} s");
            recovery.came_back(now);
        }
    }

    #[test]
    fn what_the_store_has_forgotten_or_let_go_is_not_waited_for() {
        let state = |unsettled, settled_to, delivered_to| ConsumerState {
            unsettled,
            settled_to,
            delivered_to,
            ..ConsumerState::default()
        };
        let of = |partition, tenant: Option<&str>| Reader {
            partition,
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        };
        let states = [
            (of(0, None), state(3, 10, 20)),
            (of(0, Some("acme")), state(1, 15, 30)),
            (of(1, None), state(0, 7, 7)),
            (of(2, None), state(5, 0, 9)),
        ];
        let there = InFlightAtStore::of(&states, |partition| partition != 2);
        assert_eq!(there.count(), 4);
        let may_have = |partition, offset| there.may_have(Position::new(partition, offset));
        assert!(!may_have(0, 10), "it is settled, or was purged");
        assert!(may_have(0, 11) && may_have(0, 30));
        assert!(!may_have(0, 31), "it was forgotten, and is delivered again");
        assert!(!may_have(1, 7), "nothing of its partition is in flight");
        assert!(!may_have(2, 5), "it is not read yet");
    }

    #[test]
    fn it_checks_often_at_first_and_then_less() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND, began);
        let checks = std::iter::repeat_with(|| {
            let at = recovery.check_at();
            recovery.checked(at);
            (at - began).as_millis()
        });
        assert_eq!(
            checks.take(7).collect::<Vec<_>>(),
            [0, 250, 750, 1750, 3750, 7750, 11750]
        );
    }

    #[test]
    fn it_ends_when_none_has_come_for_twice_the_hold() {
        let began = Instant::now();
        let mut recovery = Recovery::new(SECOND * 2, began);
        recovery.came_back(began + SECOND);
        assert_eq!(recovery.is_over(began + SECOND * 6), None);
        let late = began + SECOND * 7;
        assert_eq!(recovery.is_over(late), Some(SECOND * 6));
    }
}
