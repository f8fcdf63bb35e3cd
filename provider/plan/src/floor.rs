//! How far a consumer's events are settled, remembered beside it: one that has to be made again, because somebody deleted it
//! or a restored stream came without it, begins there and not where its subscription began.
//!
//! A floor says of which log it speaks. Offsets of a log that was deleted and made again, or put back to an earlier state,
//! mean other events.

use serde::{Deserialize, Serialize};

use crate::planner::LogState;

/// What is remembered of one consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Floor {
    /// Every event up to this offset is settled.
    pub settled_to: u64,
    /// The end of the log at that moment: offset and time, nanoseconds since the Unix epoch, of its last event.
    pub head: u64,
    /// When that was stored, nanoseconds since the Unix epoch.
    pub head_at: i64,
    /// When the log's stream was made, nanoseconds since the Unix epoch.
    pub made_at: i64,
}

impl Floor {
    /// What is to be remembered of a consumer of a log.
    pub fn of(log: &LogState, settled_to: u64) -> Self {
        Self {
            settled_to,
            head: log.head,
            head_at: log.head_at,
            made_at: log.made_at,
        }
    }

    /// Whether the log is the one that the floor was noted in, and still holds that moment's end.
    pub fn is_of(&self, log: &LogState) -> bool {
        self.made_at == log.made_at && (self.head < log.head || (self.head == log.head && self.head_at == log.head_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_of_the_log_that_it_was_noted_in() {
        let log = |made_at, head, head_at| LogState {
            made_at,
            head,
            head_at,
            ..LogState::default()
        };
        let floor = Floor::of(&log(1, 20, 200), 15);
        assert!(floor.is_of(&log(1, 20, 200)) && floor.is_of(&log(1, 25, 250)));
        assert!(!floor.is_of(&log(2, 25, 250)), "it was deleted and made again");
        assert!(!floor.is_of(&log(1, 19, 190)), "it was put back");
        assert!(
            !floor.is_of(&log(1, 20, 201)),
            "it was put back, and has come as far again"
        );
    }
}
