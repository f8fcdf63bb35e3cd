//! How many webhooks each act posts.

use super::poison;

/// So many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    pub(super) stream: u64,
    pub(super) outage: u64,
    /// While something is killed, over all acts in which something is.
    pub(super) crash: u64,
    pub(super) live: u64,
}

impl Shares {
    /// Divides `events`, less the two poison ones.
    pub(super) fn of(events: u64) -> Self {
        let share = |percent| events * percent / 100;
        let (stream, outage, crash) = (share(40), share(20), share(30));
        Self {
            stream,
            outage,
            crash,
            live: events - stream - outage - crash - poison::COUNT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_add_up_to_all_events() {
        for events in [100, 101, 300, 2_999, 3_000] {
            let Shares {
                stream,
                outage,
                crash,
                live,
            } = Shares::of(events);
            assert_eq!(stream + outage + crash + live + poison::COUNT, events);
            assert!(live > 0, "{events}");
        }
    }
}
