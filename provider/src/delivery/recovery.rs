//! How long a new owner of an order waits for what the last one had in its hands.
//!
//! The store delivers such an event again `delivery.ack-wait` after the last word of it, or at once when it was
//! nak'ed; thousands of them take their time. So it is not the whole wait that is bounded, but the silence in it: what the
//! store counts as delivered, and never gives again, must not hold up the rest for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fanout_plan::isolation::Reader;

use crate::backoff::Backoff;
use crate::jetstream::ConsumerState;

/// What the store and the way to it may take besides.
const MARGIN: Duration = Duration::from_secs(1);

/// How long it is until the store is asked again what is in flight: at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// What the store counts as delivered and not settled of one reader at one moment, and where that lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct InFlightAtStore {
    pub(super) count: u64,
    /// Behind this offset.
    pub(super) from: u64,
    /// Up to this one.
    pub(super) to: u64,
}

impl InFlightAtStore {
    /// Whether an event of this offset may be among them. A server that was killed has forgotten what it delivered last, what
    /// was purged from the log is in flight no more, and what is delivered after the answer is newer.
    fn may_have(&self, offset: u64) -> bool {
        self.from < offset && offset <= self.to
    }
}

impl From<&ConsumerState> for InFlightAtStore {
    fn from(state: &ConsumerState) -> Self {
        Self {
            count: state.unsettled,
            from: state.settled_to,
            to: state.delivered_to,
        }
    }
}

/// The store's last answer of a reader, and how many of those events are here. More may come after the answer; those that
/// the reader is given for the first time lie behind it and do not count.
#[derive(Debug)]
struct Awaited {
    at_store: InFlightAtStore,
    here: u64,
}

/// What is awaited of each reader until all is here that the last owner had of it. From then on a reader needs no more: of
/// what it is delivered it misses nothing ([`super::reading`]).
#[derive(Debug)]
pub(super) struct Recovery {
    /// `None` of a reader that has not begun.
    readers: BTreeMap<Reader, Option<Awaited>>,
    /// The longest silence that is waited out.
    patience: Duration,
    /// When the last event came back.
    last: Instant,
    check_at: Instant,
    pause: Backoff,
}

impl Recovery {
    pub(super) fn new(readers: impl IntoIterator<Item = Reader>, ack_wait: Duration, now: Instant) -> Self {
        Self {
            readers: readers.into_iter().map(|reader| (reader, None)).collect(),
            patience: ack_wait * 2 + MARGIN,
            last: now,
            check_at: now,
            pause: Backoff::new(PAUSES.0, PAUSES.1),
        }
    }

    /// Whether all that the last owner had is here, or is not waited for any more. Readers of partitions that wait for
    /// earlier ones do not count until they begin.
    pub(super) fn is_over(&self, unread: &BTreeSet<u32>) -> bool {
        self.readers.keys().all(|reader| unread.contains(&reader.partition))
    }

    /// Whether a reader has begun, and misses something.
    pub(super) fn awaits(&self, reader: &Reader) -> bool {
        matches!(self.readers.get(reader), Some(Some(_)))
    }

    /// Whether any has.
    pub(super) fn awaits_any(&self) -> bool {
        self.readers.values().any(Option::is_some)
    }

    /// The readers that have begun, and miss something.
    pub(super) fn awaited(&self) -> Vec<Reader> {
        self.readers
            .keys()
            .filter(|reader| self.awaits(reader))
            .cloned()
            .collect()
    }

    /// A reader begins: what was delivered of its events until now has to come back.
    pub(super) fn begin(
        &mut self,
        reader: &Reader,
        at_store: InFlightAtStore,
        here: impl IntoIterator<Item = u64>,
        now: Instant,
    ) {
        self.put(reader, at_store, here);
        self.last = now;
        self.pause.reset();
        self.checked(now);
    }

    /// The store says what it counts now; `here` are the offsets of all that this reader was given and that are not settled.
    pub(super) fn answered(&mut self, reader: &Reader, at_store: InFlightAtStore, here: impl IntoIterator<Item = u64>) {
        if self.awaits(reader) {
            self.put(reader, at_store, here);
        }
    }

    fn put(&mut self, reader: &Reader, at_store: InFlightAtStore, here: impl IntoIterator<Item = u64>) {
        let here = here.into_iter().filter(|offset| at_store.may_have(*offset)).count() as u64;
        match at_store.count == here {
            true => self.readers.remove(reader),
            false => self.readers.insert(reader.clone(), Some(Awaited { at_store, here })),
        };
    }

    /// An event of a reader is here that was not.
    pub(super) fn took(&mut self, reader: &Reader, offset: u64) {
        let Some(Some(awaited)) = self.readers.get_mut(reader) else {
            return;
        };
        awaited.here += u64::from(awaited.at_store.may_have(offset));
        if awaited.here == awaited.at_store.count {
            self.readers.remove(reader);
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

    /// Waits no more if the silence since the last event came is too long: how many events are missing, and the silence.
    pub(super) fn gives_up(&mut self, now: Instant) -> Option<(u64, Duration)> {
        let silent = now.saturating_duration_since(self.last);
        if silent <= self.patience || !self.awaits_any() {
            return None;
        }
        let awaited = self.readers.values().flatten();
        let missing = awaited.map(|a| a.at_store.count.saturating_sub(a.here)).sum();
        self.readers.retain(|_, awaited| awaited.is_none());
        Some((missing, silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn reader(partition: u32) -> Reader {
        Reader {
            partition,
            tenant: None,
        }
    }

    fn in_flight(count: u64, from: u64, to: u64) -> InFlightAtStore {
        InFlightAtStore { count, from, to }
    }

    /// One reader, which has begun and misses an event.
    fn misses_one(ack_wait: Duration, now: Instant) -> Recovery {
        let mut recovery = Recovery::new([reader(0)], ack_wait, now);
        recovery.begin(&reader(0), in_flight(1, 0, 1), [], now);
        recovery
    }

    fn is_over(recovery: &Recovery) -> bool {
        recovery.is_over(&BTreeSet::new())
    }

    #[test]
    fn where_nothing_was_in_flight_nothing_is_waited_for() {
        let mut recovery = Recovery::new([reader(0), reader(1)], SECOND, Instant::now());
        recovery.begin(&reader(0), in_flight(0, 7, 7), [], Instant::now());
        assert!(!is_over(&recovery), "of the other reader nothing is known yet");
        assert!(recovery.awaited().is_empty(), "what has not begun is not asked for");
        recovery.begin(&reader(1), in_flight(0, 0, 0), [], Instant::now());
        assert!(is_over(&recovery));
    }

    #[test]
    fn what_arrives_during_the_request_does_not_hold_up_what_is_here() {
        let mut recovery = Recovery::new([reader(0)], SECOND, Instant::now());
        recovery.begin(&reader(0), in_flight(2, 10, 20), [], Instant::now());
        for offset in [12, 21, 22] {
            recovery.took(&reader(0), offset);
        }
        assert!(
            !is_over(&recovery),
            "21 and 22 are newer than the answer: one is missing"
        );
        // The answer counts 21 to 23, of which one is on its way, and 24 comes after it.
        recovery.answered(&reader(0), in_flight(5, 10, 23), [12, 21, 22, 24]);
        recovery.took(&reader(0), 25);
        recovery.took(&reader(0), 23);
        assert!(!is_over(&recovery), "one is missing still");
        recovery.took(&reader(0), 20);
        assert!(is_over(&recovery));
    }

    #[test]
    fn what_the_store_has_forgotten_or_let_go_is_not_waited_for() {
        let there = in_flight(3, 10, 20);
        assert!(!there.may_have(10), "it is settled, or was purged");
        assert!(there.may_have(11) && there.may_have(20));
        assert!(!there.may_have(21), "it was forgotten, and is delivered again");
        let mut recovery = misses_one(SECOND, Instant::now());
        recovery.answered(&reader(0), in_flight(0, 1, 1), []);
        assert!(is_over(&recovery), "whoever had it has settled it");
    }

    #[test]
    fn one_reader_s_surplus_is_no_substitute_for_another_s_missing() {
        let now = Instant::now();
        let of = |tenant: Option<&str>| Reader {
            partition: 0,
            tenant: tenant.map(|tenant| tenant.parse().unwrap()),
        };
        let mut recovery = Recovery::new([of(None), of(Some("acme"))], SECOND, now);
        // Whoever had the tenant's event 5 has settled it since.
        recovery.begin(&of(Some("acme")), in_flight(1, 3, 6), [5, 6], now);
        recovery.begin(&of(None), in_flight(2, 3, 8), [8], now);
        assert!(!is_over(&recovery));
        assert_eq!(recovery.awaited().len(), 2);
    }

    #[test]
    fn what_is_not_read_yet_holds_up_nothing_until_it_begins() {
        let mut recovery = Recovery::new([reader(0), reader(1)], SECOND, Instant::now());
        recovery.begin(&reader(0), in_flight(0, 0, 0), [], Instant::now());
        assert!(recovery.is_over(&BTreeSet::from([1])));
        assert!(!is_over(&recovery), "its turn has come");
        recovery.begin(&reader(1), in_flight(1, 0, 4), [], Instant::now());
        assert!(!is_over(&recovery));
        recovery.took(&reader(1), 2);
        assert!(is_over(&recovery));
    }

    /// A consumer that delivers old and new events while the store is asked, whose answers arrive some steps later.
    #[test]
    fn it_is_over_when_all_is_here_and_never_before() {
        for seed in 0..500_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut dice = |sides: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % sides as u64) as usize
            };
            let old = dice(8) as u64;
            let mut recovery = Recovery::new([reader(0)], SECOND, Instant::now());
            // Delivered to the last owner: 1 to `old`. On their way here: in the order of their delivery.
            let (mut missing, mut delivered) = ((1..=old).collect::<Vec<_>>(), old);
            let (mut on_the_way, mut here) = (Vec::new(), BTreeSet::new());
            recovery.begin(&reader(0), in_flight(old, 0, old), [], Instant::now());
            let mut asked = None;
            for _ in 0..dice(60) {
                match dice(4) {
                    0 => {
                        delivered += 1;
                        on_the_way.push(delivered);
                    }
                    1 if !missing.is_empty() => on_the_way.push(missing.remove(dice(missing.len()))),
                    2 if !on_the_way.is_empty() => {
                        let offset = on_the_way.remove(0);
                        here.insert(offset);
                        recovery.took(&reader(0), offset);
                    }
                    _ => match asked.take() {
                        None => asked = Some(in_flight(delivered, 0, delivered)),
                        Some(answer) => recovery.answered(&reader(0), answer, here.iter().copied()),
                    },
                }
                let came_back = (1..=old).all(|offset| here.contains(&offset));
                assert!(!is_over(&recovery) || came_back, "seed {seed}: {here:?} of {old}");
            }
            // All comes back, and newer events go on coming after the store's last answer.
            on_the_way.append(&mut missing);
            on_the_way.extend([delivered + 1, delivered + 2]);
            for offset in on_the_way {
                here.insert(offset);
                recovery.took(&reader(0), offset);
            }
            recovery.answered(&reader(0), in_flight(delivered, 0, delivered), here.iter().copied());
            assert!(is_over(&recovery), "seed {seed}: {recovery:?}");
        }
    }

    #[test]
    fn it_goes_on_for_as_long_as_events_come_back() {
        let began = Instant::now();
        let mut recovery = misses_one(SECOND * 2, began);
        for second in 1..=60 {
            let now = began + SECOND * second;
            assert_eq!(recovery.gives_up(now), None, "after {second} s");
            recovery.came_back(now);
        }
    }

    #[test]
    fn it_checks_often_at_first_and_then_less() {
        let began = Instant::now();
        let mut recovery = misses_one(SECOND, began);
        let checks = std::iter::repeat_with(|| {
            let at = recovery.check_at();
            recovery.checked(at);
            (at - began).as_millis()
        });
        assert_eq!(checks.take(6).collect::<Vec<_>>(), [250, 750, 1750, 3750, 7750, 11750]);
    }

    #[test]
    fn it_ends_when_none_has_come_for_twice_the_hold() {
        let began = Instant::now();
        let mut recovery = misses_one(SECOND * 2, began);
        recovery.came_back(began + SECOND);
        assert_eq!(recovery.gives_up(began + SECOND * 6), None);
        let late = began + SECOND * 7;
        assert_eq!(recovery.gives_up(late), Some((1, SECOND * 6)));
        assert!(is_over(&recovery));
        assert_eq!(recovery.gives_up(late), None, "it is said once");
    }
}
