//! The end of the log, read once for all live tails of an instance: a thousand readers are one consumer of the store's for
//! each partition, which has a bounded number of them (1,000 of a stream, nats-server 2.15).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanout_plan::by_partition::ByPartition;
use fanout_plan::{Attributes, Code, Filter, Position, Problem};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::tail::{log_problem, shown};
use super::tail_limits::TailLimits;
use crate::jetstream::{LogEvent, Read, Store, Tail, TailError, TailFrom};

/// An event that passed.
#[derive(Debug)]
pub(super) struct Passed {
    pub(super) position: Position,
    pub(super) event: Attributes,
    pub(super) data: Bytes,
    /// As each reader is sent it.
    pub(super) text: String,
}

impl Passed {
    /// What it takes in memory: its text, its payload, and what of its attributes is in the text, too.
    fn bytes(&self) -> usize {
        2 * self.text.len() + self.data.len()
    }
}

/// What follows a place among what passed.
#[derive(Debug)]
pub(super) enum Next {
    Event(Arc<Passed>),
    /// Nothing yet.
    Nothing,
    /// It is no longer kept.
    Forgotten,
    /// Nothing more comes, and why.
    Ended(Problem),
}

/// What passed last. It is read for as long as somebody has it.
#[derive(Debug)]
pub(super) struct Hub {
    partitions: Vec<u32>,
    kept: Arc<Kept>,
    _reading: DropGuard,
}

#[derive(Debug)]
struct Kept {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    events: VecDeque<Arc<Passed>>,
    /// Bytes of events that are kept, and how many events.
    most: (usize, usize),
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    /// Of each partition: what stands behind that is among the events, up to `read`.
    floor: ByPartition,
    read: ByPartition,
    ended: Option<Problem>,
}

impl Hub {
    /// Begins to read what is stored from now on.
    pub(super) async fn begin(store: &Store, limits: &TailLimits) -> Result<Self, TailError> {
        let tail = store.tail(&Filter::new(Vec::new(), Vec::new()), TailFrom::Now).await?;
        let given = tail.given();
        let kept = Arc::new(Kept {
            state: Mutex::new(State::new(given, limits)),
            changed: watch::Sender::new(()),
        });
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&kept).read(tail, stop.clone()));
        Ok(Self {
            partitions: partitions(store),
            kept,
            _reading: stop.drop_guard(),
        })
    }

    /// Whether it reads the log as this store has it.
    pub(super) fn is_of(&self, store: &Store) -> bool {
        self.partitions == partitions(store) && self.kept.state().ended.is_none()
    }

    /// How far the partitions of a filter are read.
    pub(super) fn read_to(&self, store: &Store, filter: &Filter) -> ByPartition {
        let state = self.kept.state();
        let wanted = store.layout().touching(filter);
        wanted.map(|p| (p.number, state.read.of(p.number))).collect()
    }

    /// The number of the first event to read for a reader that has read so far; `None` if that is not kept any more.
    pub(super) fn join(&self, given: &ByPartition) -> Option<u64> {
        self.kept.state().join(given)
    }

    /// The event of a number.
    pub(super) fn next(&self, number: u64) -> Next {
        self.kept.state().next(number)
    }

    /// Changes when something passed, or nothing more will.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.kept.changed.subscribe()
    }
}

fn partitions(store: &Store) -> Vec<u32> {
    let all = Filter::new(Vec::new(), Vec::new());
    store.layout().touching(&all).map(|p| p.number).collect()
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(self: Arc<Self>, mut tail: Tail, stop: CancellationToken) {
        loop {
            let read = tokio::select! {
                () = stop.cancelled() => break,
                read = tail.next() => read,
            };
            let ended = match read {
                Some(Ok(Read::Event(event))) => {
                    self.state().push(*event);
                    None
                }
                // It was away for as long as the log keeps events: readers go on from where they are, and are told.
                Some(Ok(Read::Expired { .. })) => Some(Problem::new(
                    Code::StoreUnavailable,
                    "the store was away for longer than the log keeps events: connect again",
                )),
                Some(Err(error)) => Some(log_problem(&error)),
                // There is no partition yet: nothing comes until there is, and then there is another reader.
                None => {
                    stop.cancelled().await;
                    break;
                }
            };
            let is_over = ended.is_some();
            self.state().ended = ended;
            self.changed.send_replace(());
            if is_over {
                break;
            }
        }
        tail.end().await;
    }
}

impl State {
    /// What comes behind these places is kept.
    fn new(given: ByPartition, limits: &TailLimits) -> Self {
        Self {
            events: VecDeque::new(),
            most: (limits.kept_bytes, limits.kept_events),
            first: 0,
            bytes: 0,
            floor: given.clone(),
            read: given,
            ended: None,
        }
    }

    fn push(&mut self, event: LogEvent) {
        let (position, data) = (event.position, event.payload.clone());
        self.read.0.insert(position.partition, position.offset);
        // Another client wrote it, and it is no event.
        let Some(attributes) = event.event.clone() else { return };
        let Some(text) = shown(event) else { return };
        self.keep(Passed {
            position,
            event: attributes,
            data,
            text,
        });
    }

    fn keep(&mut self, passed: Passed) {
        self.bytes += passed.bytes();
        self.events.push_back(Arc::new(passed));
        while self.bytes > self.most.0 || self.events.len() > self.most.1 {
            let Some(oldest) = self.events.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.bytes();
            self.floor.0.insert(oldest.position.partition, oldest.position.offset);
        }
    }

    fn join(&self, given: &ByPartition) -> Option<u64> {
        let mut partitions = given.0.iter();
        partitions
            .all(|(partition, offset)| self.floor.knows(*partition) && *offset >= self.floor.of(*partition))
            .then_some(self.first)
    }

    fn next(&self, number: u64) -> Next {
        let Some(place) = number.checked_sub(self.first) else {
            return Next::Forgotten;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        match (self.events.get(place), &self.ended) {
            (Some(event), _) => Next::Event(Arc::clone(event)),
            (None, Some(problem)) => Next::Ended(problem.clone()),
            (None, None) => Next::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use fanout_plan::RawEvent;

    use super::*;

    fn passed(partition: u32, offset: u64, bytes: usize) -> Passed {
        Passed {
            position: Position::new(partition, offset),
            event: Attributes::try_from(RawEvent {
                tenant: "acme".into(),
                event_type: "invoice.paid".into(),
                id: "evt_1".into(),
                source: "/webhooks/stripe".into(),
                ..RawEvent::default()
            })
            .unwrap(),
            data: vec![b'x'; bytes].into(),
            text: String::new(),
        }
    }

    fn given(places: &[(u32, u64)]) -> ByPartition {
        places.iter().copied().collect()
    }

    #[test]
    fn a_reader_joins_where_nothing_is_missing() {
        let limits = TailLimits::default();
        let mut state = State::new(given(&[(0, 10), (1, 5)]), &limits);
        for offset in 11..=20 {
            state.keep(passed(0, offset, 1));
        }
        assert_eq!(state.join(&given(&[(0, 10), (1, 5)])), Some(0));
        assert_eq!(state.join(&given(&[(0, 17)])), Some(0));
        assert_eq!(state.join(&given(&[(0, 9), (1, 5)])), None, "10 is not kept");
        assert_eq!(
            state.join(&given(&[(0, 17), (2, 9)])),
            None,
            "a partition that is not read"
        );
        assert!(matches!(state.next(0), Next::Event(event) if event.position.offset == 11));
        assert!(matches!(state.next(10), Next::Nothing));
        // What is too much pushes out what is oldest.
        state.keep(passed(1, 6, limits.kept_bytes));
        assert!(matches!(state.next(9), Next::Forgotten));
        assert!(matches!(state.next(10), Next::Event(event) if event.position.partition == 1));
        assert_eq!(state.join(&given(&[(0, 20), (1, 5)])), Some(10));
        assert_eq!(state.join(&given(&[(0, 19), (1, 5)])), None);
        state.ended = Some(Problem::new(Code::StoreUnavailable, "over"));
        assert!(matches!(state.next(10), Next::Event(_)), "what is there is read first");
        assert!(matches!(state.next(11), Next::Ended(_)));
    }

    #[test]
    fn so_many_events_are_kept_and_no_more() {
        let limits = TailLimits {
            kept_events: 100,
            ..TailLimits::default()
        };
        let mut state = State::new(ByPartition::default(), &limits);
        for offset in 1..=107 {
            state.keep(passed(0, offset, 1));
        }
        assert_eq!((state.events.len(), state.first, state.bytes), (100, 7, 100));
        assert_eq!(state.floor.of(0), 7);
    }
}
