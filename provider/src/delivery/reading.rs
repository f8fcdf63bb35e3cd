//! What one reader has seen of a consumer, and what it has not.
//!
//! A consumer numbers what it delivers, to whomever, without holes, and delivers every event for a first time in the
//! log's order (nats-server 2.15). So a reader that sees each number has missed nothing. Where it does not see one, an
//! event may be on its way to somebody else, or lost with a connection; it lies in the log between the last position
//! that the reader knows of and the next. That is a *hole*.

/// A message of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// The consumer's number of this delivery.
    pub(super) number: u64,
    /// The event's sequence in its stream.
    pub(super) sequence: u64,
    /// Whether it was delivered for the first time.
    pub(super) first: bool,
}

/// How far a reader has come.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// The last number that it saw.
    number: u64,
    /// Of every event up to here that was delivered, the reader has seen something, or knew before it began.
    to: u64,
    /// There may be events beyond that were delivered and not seen.
    is_broken: bool,
}

impl Reading {
    /// A reader begins behind what was delivered before.
    pub(super) fn begin(number: u64, to: u64) -> Self {
        Self {
            number,
            to,
            is_broken: false,
        }
    }

    /// The reader sees a message. If events were delivered before it that the reader has not seen, they lie behind the
    /// sequence that is returned, and before the message's.
    pub(super) fn see(&mut self, delivered: Delivered) -> Option<u64> {
        // A server that was killed may have forgotten some, and begins again with a lower number.
        self.is_broken |= delivered.number != self.number.wrapping_add(1);
        self.number = delivered.number;
        if delivered.sequence <= self.to {
            return None;
        }
        // It is new here, and was delivered before.
        self.is_broken |= !delivered.first;
        let behind = std::mem::replace(&mut self.to, delivered.sequence);
        let hole = self.is_broken.then_some(behind);
        // What comes for the first time has nothing new before it but what lies in the hole. What comes again says
        // nothing of what was delivered after it.
        self.is_broken &= !delivered.first;
        hole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(number: u64, sequence: u64) -> Delivered {
        Delivered {
            number,
            sequence,
            first: true,
        }
    }

    fn again(number: u64, sequence: u64) -> Delivered {
        Delivered {
            first: false,
            ..first(number, sequence)
        }
    }

    #[test]
    fn what_is_seen_without_a_gap_has_no_hole() {
        let mut reading = Reading::begin(7, 100);
        // A filter passes over others' events; what is delivered again has a number of its own.
        for delivered in [
            first(8, 103),
            first(9, 104),
            again(10, 103),
            again(11, 60),
            first(12, 200),
        ] {
            assert_eq!(reading.see(delivered), None, "{delivered:?}");
        }
    }

    #[test]
    fn a_gap_is_a_hole_up_to_the_next_first_delivery() {
        let mut reading = Reading::begin(0, 0);
        assert_eq!(reading.see(first(1, 1)), None);
        assert_eq!(reading.see(first(4, 4)), Some(1));
        assert_eq!(reading.see(first(5, 5)), None);
        // The gap shows when something comes again, and says what was lost only later.
        assert_eq!(reading.see(again(8, 2)), None);
        assert_eq!(reading.see(first(9, 9)), Some(5));
    }

    #[test]
    fn what_was_lost_and_comes_again_leaves_the_rest_of_the_hole() {
        let mut reading = Reading::begin(1, 1);
        // 2, 3 and 4 were lost; nothing was stored after them.
        assert_eq!(reading.see(again(5, 3)), Some(1));
        assert_eq!(reading.see(again(6, 2)), None);
        // 4 is not seen yet, although no number is missing since.
        assert_eq!(reading.see(first(7, 5)), Some(3));
        assert_eq!(reading.see(first(8, 6)), None);
    }

    #[test]
    fn a_server_that_forgot_gives_out_again_what_is_known() {
        let mut reading = Reading::begin(0, 0);
        for n in 1..=5 {
            assert_eq!(reading.see(first(n, n)), None);
        }
        assert_eq!(reading.see(first(3, 3)), None);
        assert_eq!(reading.see(first(4, 4)), None);
        assert_eq!(reading.see(first(5, 5)), None);
        // Nothing lies in between.
        assert_eq!(reading.see(first(6, 6)), Some(5));
        assert_eq!(reading.see(first(7, 7)), None);
    }

    /// A consumer that delivers at random, again and for the first time, to a reader that loses at random.
    #[test]
    fn nothing_is_passed_over_that_was_delivered_before() {
        for seed in 0..500_u64 {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut dice = |sides: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % sides
            };
            let mut reading = Reading::begin(0, 0);
            let (mut known, mut next) = (std::collections::BTreeSet::new(), 1);
            for number in 1..60 {
                let delivered = if next > 1 && dice(3) == 0 {
                    again(number, 1 + dice(next - 1))
                } else {
                    next += 1;
                    first(number, next - 1)
                };
                if dice(3) == 0 {
                    continue;
                }
                if let Some(behind) = reading.see(delivered) {
                    known.extend(behind + 1..delivered.sequence);
                }
                // The law of the order: when an event is seen for the first time, all before it are known.
                let sequence = delivered.sequence;
                if known.insert(sequence) {
                    assert!(
                        (1..sequence).all(|s| known.contains(&s)),
                        "seed {seed}: {delivered:?} {known:?}"
                    );
                }
            }
        }
    }
}
