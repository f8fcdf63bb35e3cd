//! How many bytes are stored for a tenant, counted by when they were stored, so that they go when their events expire.
//!
//! The store's own figures are by subject and count events, not bytes; so bytes are counted as they are stored. The
//! retention is divided into slots. A slot's bytes count until its last event has expired, which is up to one slot
//! too long: a tenant never has more than its quota, and may be refused for one slot's time too many.

use std::time::Duration;

use crate::Timestamp;

/// Into how many parts the retention is divided.
pub const SLOTS: usize = 16;

const MILLISECOND: i64 = 1_000_000;

/// How the retention is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Nanoseconds of one: whole milliseconds, as its name says them.
    length: i64,
}

impl Slots {
    /// Those of a retention.
    pub fn of(max_age: Duration) -> Self {
        let length = max_age.as_millis().div_ceil(SLOTS as u128);
        Self {
            length: i64::try_from(length)
                .unwrap_or(i64::MAX)
                .saturating_mul(MILLISECOND)
                .max(MILLISECOND),
        }
    }

    /// A slot's name: when it begins and ends, milliseconds since the Unix epoch. It stays true when the retention, and
    /// with it the slots, change.
    pub fn name(&self, slot: i64) -> String {
        let milliseconds = self.length / MILLISECOND;
        format!("{}-{}", slot * milliseconds, (slot + 1) * milliseconds)
    }

    /// The slot to which what was counted under a name belongs: that of its end, so that nothing goes too early.
    pub fn named(&self, name: &str) -> Option<i64> {
        let (_, end) = name.split_once('-')?;
        let end: i64 = end.parse().ok()?;
        Some(self.at(Timestamp::from_nanoseconds(
            end.checked_mul(MILLISECOND)?.checked_sub(1)?,
        )))
    }

    /// The slot of a moment, nanoseconds since the Unix epoch.
    pub fn at(&self, now: Timestamp) -> i64 {
        now.nanoseconds().div_euclid(self.length)
    }

    /// The slots that count at a moment: those from which something may not have expired, the present one last.
    pub fn counting(&self, now: Timestamp) -> std::ops::RangeInclusive<i64> {
        let present = self.at(now);
        present - SLOTS as i64..=present
    }

    /// From which moment on a slot does not count.
    fn over(&self, slot: i64) -> Timestamp {
        Timestamp::from_nanoseconds((slot + SLOTS as i64 + 1).saturating_mul(self.length))
    }
}

/// Why bytes were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// They fit once something has expired, after this time.
    For(Duration),
    /// They are more than the whole quota.
    ForGood,
}

/// One tenant's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By slot, modulo their number; each with the slot that it is of.
    parts: [SlotUsage; SLOTS + 1],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SlotUsage {
    slot: i64,
    /// Bytes that all instances stored, and flushed to the counter.
    flushed: u64,
    /// Bytes that this instance stored since.
    unflushed: u64,
}

impl Usage {
    fn part(&mut self, slot: i64) -> &mut SlotUsage {
        let i = slot.rem_euclid(self.parts.len() as i64) as usize;
        let part = &mut self.parts[i];
        if part.slot < slot {
            *part = SlotUsage {
                slot,
                ..SlotUsage::default()
            };
        }
        part
    }

    /// The bytes that count at a moment.
    pub fn stored(&self, slots: Slots, now: Timestamp) -> u64 {
        let counting = slots.counting(now);
        self.parts
            .iter()
            .filter(|p| counting.contains(&p.slot))
            .map(|p| p.flushed + p.unflushed)
            .sum()
    }

    /// Takes room for bytes.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(&mut self, slots: Slots, max_bytes: u64, size: u64, now: Timestamp) -> Result<(), Refused> {
        if size > max_bytes {
            return Err(Refused::ForGood);
        }
        let mut stored = self.stored(slots, now);
        if stored + size <= max_bytes {
            self.part(slots.at(now)).unflushed += size;
            return Ok(());
        }
        let mut counting: Vec<_> = self
            .parts
            .iter()
            .filter(|p| slots.counting(now).contains(&p.slot))
            .collect();
        counting.sort_by_key(|p| p.slot);
        for part in counting {
            stored -= part.flushed + part.unflushed;
            if stored + size <= max_bytes {
                return Err(Refused::For(slots.over(part.slot).since(now)));
            }
        }
        Err(Refused::ForGood)
    }

    /// Counts bytes that are stored whether or not there is room for them.
    pub fn count(&mut self, slots: Slots, size: u64, now: Timestamp) {
        self.part(slots.at(now)).unflushed += size;
    }

    /// Gives back what was taken at `then` for an event that was not stored.
    pub fn put_back(&mut self, slots: Slots, size: u64, then: Timestamp) {
        let slot = slots.at(then);
        let part = self.part(slot);
        if part.slot == slot {
            part.unflushed = part.unflushed.saturating_sub(size);
        }
    }

    /// Bytes that this instance stored and has not flushed, by slot.
    pub fn unflushed(&self) -> impl Iterator<Item = (i64, u64)> {
        self.parts
            .iter()
            .filter(|p| p.unflushed > 0)
            .map(|p| (p.slot, p.unflushed))
    }

    /// Takes in the counter's total of a slot, `own` bytes of it flushed by this instance just now. Without a total, these
    /// alone.
    pub fn flush(&mut self, slot: i64, total: Option<u64>, own: u64) {
        let part = self.part(slot);
        if part.slot == slot {
            // Answers may overtake each other; totals only grow.
            part.flushed = part.flushed.max(total.unwrap_or(part.flushed + own));
            part.unflushed = part.unflushed.saturating_sub(own);
        }
    }

    /// Whether all that was stored is flushed.
    pub fn is_flushed(&self) -> bool {
        self.parts.iter().all(|p| p.unflushed == 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn hour(n: u32) -> Timestamp {
        Timestamp::EPOCH + n * HOUR
    }

    fn slots() -> Slots {
        Slots::of(Duration::from_secs(16 * 3_600))
    }

    #[test]
    fn bytes_go_when_their_events_have_expired() {
        let mut usage = Usage::default();
        let start = hour(1_000);
        usage.take(slots(), 100, 60, start).unwrap();
        usage.take(slots(), 100, 40, start + HOUR).unwrap();
        let refused = usage.take(slots(), 100, 1, start + 2 * HOUR).unwrap_err();
        // The first slot's last event can be an hour younger than its first.
        assert_eq!(refused, Refused::For(Duration::from_secs(15 * 3_600)));
        assert!(
            usage
                .take(slots(), 100, 1, start + 17 * HOUR - Duration::from_nanos(1))
                .is_err()
        );
        usage.take(slots(), 100, 60, start + 17 * HOUR).unwrap();
        assert_eq!(usage.take(slots(), 100, 101, start), Err(Refused::ForGood));
    }

    #[test]
    fn what_others_stored_counts_and_nothing_counts_twice() {
        let mut usage = Usage::default();
        let start = hour(1_000);
        usage.take(slots(), 100, 30, start).unwrap();
        let (slot, own) = usage.unflushed().next().unwrap();
        assert_eq!((slot, own), (1_000, 30));
        usage.take(slots(), 100, 10, start).unwrap();
        // The counter holds another instance's 20 and this one's 30.
        usage.flush(slot, Some(50), own);
        assert_eq!(usage.stored(slots(), start), 60);
        assert_eq!(usage.unflushed().collect::<Vec<_>>(), [(1_000, 10)]);
    }

    #[test]
    fn a_slot_is_found_by_its_name_in_another_division() {
        let (hours, days) = (slots(), Slots::of(Duration::from_secs(16 * 86_400)));
        assert_eq!(hours.name(49), "176400000-180000000");
        assert_eq!(hours.named(&hours.name(49)), Some(49));
        assert_eq!(days.named(&hours.name(49)), Some(2));
        assert_eq!(hours.named(&days.name(2)), Some(71));
        for bad in ["", "1", "a-b", "1-", "1-99999999999999999999"] {
            assert_eq!(hours.named(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_retained_is_never_more_than_the_quota(
            quota in 1..2_000_u64,
            tries in proptest::collection::vec((0..400_u64, 0..7_200_000_000_000_u64), 1..200),
        ) {
            let retention = 16 * HOUR;
            let mut usage = Usage::default();
            let mut now = hour(1_000);
            let mut accepted: Vec<(Timestamp, u64)> = Vec::new();
            for (size, gap) in tries {
                now = now + Duration::from_nanos(gap);
                match usage.take(slots(), quota, size, now) {
                    Ok(()) => accepted.push((now, size)),
                    Err(Refused::ForGood) => prop_assert!(size > quota),
                    Err(Refused::For(wait)) => {
                        let mut later = usage.clone();
                        let then = now + wait;
                        prop_assert_eq!(later.take(slots(), quota, size, then), Ok(()), "after {:?}", wait);
                    }
                }
                let retained: u64 = accepted.iter().filter(|(at, _)| now.since(*at) <= retention).map(|(_, s)| s).sum();
                prop_assert!(retained <= quota);
            }
        }

        #[test]
        fn what_is_put_back_is_as_if_never_taken(sizes in proptest::collection::vec(1..100_u64, 1..20)) {
            let mut usage = Usage::default();
            let now = hour(1_000);
            for size in &sizes {
                usage.take(slots(), u64::MAX / 2, *size, now).unwrap();
            }
            for size in &sizes {
                usage.put_back(slots(), *size, now);
            }
            prop_assert_eq!(usage.stored(slots(), now), 0);
        }
    }
}
