//! Streams that are not the log any more that something remembers: they were deleted and made again, or put back to an earlier
//! state. What is remembered of the one before says nothing of the events of this one.

use std::collections::{BTreeMap, BTreeSet};

use super::{LogState, Observed};
use crate::Timestamp;
use crate::partition::Layout;
use crate::subscription::{Need, Registered, Start};

impl Observed {
    /// The partitions whose streams are another log than the one that they say they are. A stream that was made again has
    /// another time of its making; one that was put back ends before what something remembers of it.
    pub fn other_logs(&self) -> BTreeSet<u32> {
        let mut floors: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for ((number, _), floor) in &self.floors {
            floors.entry(*number).or_default().push(floor);
        }
        let is_another = |number: u32, log, said: Timestamp, state: &LogState| {
            let noted = floors.get(&number).into_iter().flatten();
            let put_back = || noted.clone().any(|floor| floor.log == log && !floor.goes_on_in(state));
            let ends_before = || self.registry.values().any(|r| r.head.of(number) > state.head);
            (said != Timestamp::EPOCH && said != state.made_at) || put_back() || ends_before()
        };
        let streams = self.topology.streams.values();
        streams
            .filter_map(|s| Some((s.partition.as_ref()?, s.made_at)))
            // Whose numbers are those of its origin, however often it is made.
            .filter(|(p, _)| !p.is_mirror())
            .filter(|(p, said)| {
                let state = self.logs.get(&p.number);
                state.is_some_and(|state| is_another(p.number, p.log, *said, state))
            })
            .map(|(p, _)| p.number)
            .collect()
    }

    /// Whether something is remembered of a partition that is not there: its stream was lost, and the number is given again.
    pub(super) fn had_a_log(&self, number: u32) -> bool {
        let nothing_left = self.logs.is_empty() && self.dead_letters.head > 0;
        let remembered = self.registry.values().any(|r| r.head.knows(number));
        nothing_left || remembered || self.floors.keys().any(|(n, _)| *n == number)
    }

    /// Whether a consumer of a subscription is there.
    fn has_consumer(&self, number: u32, registered: &Registered) -> bool {
        let key = (number, registered.consumer_name());
        self.topology.consumers.contains_key(&key)
    }
}

/// Lets a subscription begin with the first event of each partition that is another log now. A consumer that came back with
/// its stream goes on as it is.
pub(super) fn begin(registered: &mut Registered, others: &BTreeSet<u32>, layout: &Layout, observed: &Observed) {
    let remembered: BTreeSet<u32> = registered.head.0.keys().copied().collect();
    for number in remembered {
        let Some(state) = observed.logs.get(&number) else {
            continue;
        };
        if others.contains(&number) {
            // Its offsets mean other events now.
            registered.handed = None;
        }
        let floor = observed.floors.get(&(number, registered.consumer_name()));
        let log = layout.partitions.get(&number).map(|p| p.log);
        let of_another = floor.is_some_and(|floor| Some(floor.log) != log);
        if !others.contains(&number) && !of_another {
            continue;
        }
        if observed.has_consumer(number, registered) && registered.head.of(number) <= state.head {
            continue;
        }
        registered.head.0.remove(&number);
        registered.replayed.0.remove(&number);
        registered.delivered_before.0.remove(&number);
        if let Some(joined) = &mut registered.rejoined {
            joined.after.0.remove(&number);
        }
        for from in registered.isolated.values_mut() {
            from.0.remove(&number);
        }
        registered.isolated.retain(|_, from| !from.0.is_empty());
        let starts_here = matches!(
            registered.needs_now(),
            Need::Backfill { start: Start::Position(p), .. } if p.partition == number
        );
        if starts_here {
            registered.begin_anew();
        }
    }
}
