//! What one reader has seen of a consumer, and what it has not.
//!
//! A consumer numbers what it gives out, to whomever, without holes, and gives every event out for a first time in the
//! log's order (nats-server 2.15). So a reader that sees each number has missed nothing. Where it does not see one, an
//! event may be on its way to somebody else, or lost with a connection; it lies in the log between the last position
//! that the reader knows of and the next. That is a *hole*.

/// A message of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// The consumer's number for this time that it gave something out.
    pub(super) number: u64,
    /// The event's sequence in its stream.
    pub(super) sequence: u64,
    /// Whether it was given out for the first time.
    pub(super) first: bool,
}

/// How far a reader has come.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// The last number that it saw.
    number: u64,
    /// Of every event up to here that was given out, the reader has seen something, or had been told before it began.
    to: u64,
    /// There may be events beyond that were given out and not seen.
    is_broken: bool,
}

impl Reading {
    /// A reader begins behind what was given out before.
    pub(super) fn begin(number: u64, to: u64) -> Self {
        Self {
            number,
            to,
            is_broken: false,
        }
    }

    /// The reader sees a message. If events were given out before it that the reader has not seen, they lie behind the
    /// sequence that is returned, and before the message's.
    pub(super) fn see(&mut self, given: Given) -> Option<u64> {
        // A server that was killed may have forgotten some, and begins again with a lower number.
        self.is_broken |= given.number != self.number.wrapping_add(1);
        self.number = given.number;
        if given.sequence <= self.to {
            return None;
        }
        // It is new here, and was given out before.
        self.is_broken |= !given.first;
        let behind = std::mem::replace(&mut self.to, given.sequence);
        let hole = self.is_broken.then_some(behind);
        // What comes for the first time has nothing new before it but what lies in the hole. What comes again says
        // nothing of what was given out after it.
        self.is_broken &= !given.first;
        hole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(number: u64, sequence: u64) -> Given {
        Given {
            number,
            sequence,
            first: true,
        }
    }

    fn again(number: u64, sequence: u64) -> Given {
        Given {
            first: false,
            ..first(number, sequence)
        }
    }

    #[test]
    fn what_is_seen_without_a_gap_has_no_hole() {
        let mut reading = Reading::begin(7, 100);
        // A filter passes over others' events; what is given out again has a number of its own.
        for given in [
            first(8, 103),
            first(9, 104),
            again(10, 103),
            again(11, 60),
            first(12, 200),
        ] {
            assert_eq!(reading.see(given), None, "{given:?}");
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

    /// A consumer that gives out at random, again and for the first time, to a reader that loses at random.
    #[test]
    fn nothing_is_passed_over_that_was_given_out_before() {
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
                let given = if next > 1 && dice(3) == 0 {
                    again(number, 1 + dice(next - 1))
                } else {
                    next += 1;
                    first(number, next - 1)
                };
                if dice(3) == 0 {
                    continue;
                }
                if let Some(behind) = reading.see(given) {
                    known.extend(behind + 1..given.sequence);
                }
                // The law of the order: when an event is seen for the first time, all before it are known.
                let sequence = given.sequence;
                if known.insert(sequence) {
                    assert!(
                        (1..sequence).all(|s| known.contains(&s)),
                        "seed {seed}: {given:?} {known:?}"
                    );
                }
            }
        }
    }
}
