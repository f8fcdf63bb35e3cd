//! How far a consumer's events are settled, remembered beside it: one that has to be made again, because somebody deleted it
//! or a restored stream came without it, begins there and not where its subscription began.
//!
//! A floor says of which log it speaks. Offsets of a log that was deleted and made again, or put back to an earlier state,
//! mean other events.

use serde::{Deserialize, Serialize};

use crate::planner::LogState;
use crate::{Incarnation, Timestamp};

/// What is remembered of one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Every event up to this offset is settled.
    pub settled_to: u64,
    /// The last event that was delivered has this offset.
    #[serde(default)]
    pub delivered_to: u64,
    /// The end of the log at that moment: offset and time, nanoseconds since the Unix epoch, of its last event.
    pub head: u64,
    /// When that was stored, nanoseconds since the Unix epoch.
    pub head_at: Timestamp,
    /// When the log's stream was made, nanoseconds since the Unix epoch.
    pub made_at: Timestamp,
    /// Which log of its partition that was.
    #[serde(default, skip_serializing_if = "Incarnation::is_unsaid")]
    pub log: Incarnation,
}

impl Floor {
    /// What is to be remembered of a consumer of a log, `log` of those of its partition.
    pub fn of(log: Incarnation, state: &LogState, settled_to: u64, delivered_to: u64) -> Self {
        Self {
            settled_to,
            delivered_to,
            head: state.head,
            head_at: state.head_at,
            made_at: state.made_at,
            log,
        }
    }

    /// Whether a partition's log is the one that the floor was noted in.
    pub fn is_of(&self, log: Incarnation, state: &LogState) -> bool {
        self.log == log && self.goes_on_in(state)
    }

    /// Whether a stream is the one that the floor was noted in, and came at least as far.
    pub fn goes_on_in(&self, state: &LogState) -> bool {
        // A stream that is empty may have forgotten when its last event was stored (nats-server 2.15, after a restart).
        let same_end = self.head == state.head && (self.head_at == state.head_at || state.messages == 0);
        let has_its_end = self.head < state.head || same_end;
        self.made_at == state.made_at && has_its_end
    }

    /// The first and the last offset of what was not settled and went with its log, which is known to have come to `head`. What
    /// a stream that was put back still holds is not lost.
    pub fn lost_with_its_log(&self, head: u64, now: &LogState) -> Option<(u64, u64)> {
        let head = head.max(self.head);
        let kept_to = if self.made_at == now.made_at { now.head } else { 0 };
        let from = self.settled_to.max(kept_to.min(head)) + 1;
        (from <= head).then_some((from, head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_of_the_log_that_it_was_noted_in() {
        let log = |made_at, head, head_at| LogState {
            made_at: Timestamp::from_nanoseconds(made_at),
            head,
            head_at: Timestamp::from_nanoseconds(head_at),
            messages: head,
            ..LogState::default()
        };
        let which = Incarnation::new(Timestamp::from_nanoseconds(7));
        let floor = Floor::of(which, &log(1, 20, 200), 15, 18);
        assert!(floor.is_of(which, &log(1, 20, 200)) && floor.is_of(which, &log(1, 25, 250)));
        assert!(
            !floor.is_of(Incarnation::new(Timestamp::from_nanoseconds(8)), &log(1, 25, 250)),
            "it is known to be another"
        );
        assert!(!floor.is_of(which, &log(2, 25, 250)), "it was deleted and made again");
        assert!(!floor.is_of(which, &log(1, 19, 190)), "it was put back");
        let as_far_again = log(1, 20, 201);
        assert!(!floor.is_of(which, &as_far_again), "it was put back, too");
        let empty = LogState {
            messages: 0,
            ..as_far_again
        };
        assert!(floor.is_of(which, &empty));
        assert_eq!(floor.lost_with_its_log(0, &log(2, 25, 250)), Some((16, 20)));
        assert_eq!(floor.lost_with_its_log(0, &log(1, 18, 180)), Some((19, 20)));
        assert_eq!(floor.lost_with_its_log(30, &log(1, 12, 120)), Some((16, 30)));
        let all = Floor::of(which, &log(1, 20, 200), 20, 20);
        assert_eq!(all.lost_with_its_log(0, &log(2, 1, 1)), None);
    }
}
