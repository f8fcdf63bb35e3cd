//! What is counted where it happens: atomics, without a lock and without memory taken. One process runs one bus, so that
//! all but what belongs to a subscription is the process's.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use fanout_plan::Code;

/// The upper bounds of a histogram's buckets, in nanoseconds. OpenTelemetry's for messaging begin at 5 ms, below which
/// nearly every publish is (docs/benchmarks.md).
const BOUNDS: [u64; 14] = [
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

const CODES: usize = Code::ALL.len();

const NANOSECONDS: f64 = 1e9;

/// Durations by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    /// The last holds what is beyond the bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_ns: AtomicU64,
}

/// A histogram as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Durations {
    /// How many in each bucket, not summed up.
    pub(crate) counts: [u64; BOUNDS.len() + 1],
    /// Seconds.
    pub(crate) sum: f64,
}

/// Refusals by their codes.
#[derive(Debug)]
pub(crate) struct Refusals {
    by_code: [AtomicU64; CODES],
    other: AtomicU64,
}

/// What the store was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreOperation {
    /// To store an event, until its answer.
    Publish,
    /// To tell what it holds.
    Observe,
    /// To take one step of a plan.
    Apply,
}

/// How a reconciliation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reconciled {
    /// Everything is as it should be.
    Done,
    /// Something could not be had.
    Incomplete,
    /// The store was away.
    Failed,
}

/// The process's counts.
#[derive(Debug)]
pub(crate) struct Instruments {
    /// Of calls of `publisher`, from the call to its answer.
    pub(crate) publish: Histogram,
    pub(crate) accepted: AtomicU64,
    pub(crate) repeated: AtomicU64,
    pub(crate) scheduled: AtomicU64,
    pub(crate) refused: Refusals,
    /// Entries of the journal that the store has, and those that it has not.
    pub(crate) journal_written: AtomicU64,
    pub(crate) journal_dropped: AtomicU64,
    pub(crate) reconcile: Histogram,
    reconciled: [AtomicU64; Reconciled::ALL.len()],
    store: [Histogram; StoreOperation::ALL.len()],
}

/// The process's counts, since it began.
pub(crate) static INSTRUMENTS: Instruments = Instruments::new();

impl Histogram {
    pub(crate) const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            sum_ns: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < ns);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum_ns.fetch_add(ns, Relaxed);
    }

    /// Records the time since.
    pub(crate) fn since(&self, began: Instant) {
        self.record(began.elapsed());
    }

    pub(crate) fn read(&self) -> Durations {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a sum of durations is exact to microseconds for a hundred days"
        )]
        let sum = self.sum_ns.load(Relaxed) as f64 / NANOSECONDS;
        Durations {
            counts: std::array::from_fn(|i| self.buckets[i].load(Relaxed)),
            sum,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Durations {
    /// The upper bounds in seconds, without the last bucket's.
    #[expect(clippy::cast_precision_loss, reason = "they are small")]
    pub(crate) fn bounds() -> impl Iterator<Item = f64> {
        BOUNDS.iter().map(|ns| *ns as f64 / NANOSECONDS)
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl Refusals {
    const fn new() -> Self {
        Self {
            by_code: [const { AtomicU64::new(0) }; CODES],
            other: AtomicU64::new(0),
        }
    }

    /// Counts a refusal. Refusals are rare enough to look their code up.
    pub(crate) fn count(&self, code: &str) {
        let known = Code::ALL.iter().position(|c| c.as_str() == code);
        let counter = known.and_then(|i| self.by_code.get(i)).unwrap_or(&self.other);
        counter.fetch_add(1, Relaxed);
    }

    /// How many of each code that was met.
    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        let counted = self.by_code.iter().map(|count| count.load(Relaxed));
        let names = Code::ALL.iter().map(|code| code.as_str());
        let other = ("other", self.other.load(Relaxed));
        names.zip(counted).chain([other]).filter(|(_, n)| *n > 0).collect()
    }
}

impl StoreOperation {
    pub(crate) const ALL: [Self; 3] = [Self::Publish, Self::Observe, Self::Apply];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Observe => "observe",
            Self::Apply => "apply",
        }
    }
}

impl Reconciled {
    pub(crate) const ALL: [Self; 3] = [Self::Done, Self::Incomplete, Self::Failed];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

impl Instruments {
    const fn new() -> Self {
        Self {
            publish: Histogram::new(),
            accepted: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            scheduled: AtomicU64::new(0),
            refused: Refusals::new(),
            journal_written: AtomicU64::new(0),
            journal_dropped: AtomicU64::new(0),
            reconcile: Histogram::new(),
            reconciled: [const { AtomicU64::new(0) }; Reconciled::ALL.len()],
            store: [const { Histogram::new() }; StoreOperation::ALL.len()],
        }
    }

    pub(crate) fn reconciled(&self, outcome: Reconciled, began: Instant) {
        self.reconciled[outcome as usize].fetch_add(1, Relaxed);
        self.reconcile.since(began);
    }

    pub(crate) fn read_reconciled(&self, outcome: Reconciled) -> u64 {
        self.reconciled[outcome as usize].load(Relaxed)
    }

    /// The round trips of an operation at the store.
    pub(crate) fn store(&self, operation: StoreOperation) -> &Histogram {
        &self.store[operation as usize]
    }
}

/// Counts an event that was accepted, or recognised as one that had been.
pub(crate) fn accepted(is_repeat: bool) {
    let counter = match is_repeat {
        true => &INSTRUMENTS.repeated,
        false => &INSTRUMENTS.accepted,
    };
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_bucket_that_it_does_not_exceed() {
        let histogram = Histogram::new();
        for us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.record(Duration::from_micros(us));
        }
        let read = histogram.read();
        assert_eq!((read.counts[0], read.counts[1]), (2, 1), "a bound is in its own bucket");
        assert_eq!(
            (read.counts[13], read.counts[14]),
            (1, 1),
            "what is beyond is in the last"
        );
        assert_eq!(read.count(), 5);
        assert!((read.sum - 20.001_002).abs() < 1e-9, "{}", read.sum);
    }

    #[test]
    fn refusals_are_counted_by_their_code_whatever_it_is() {
        let refusals = Refusals::new();
        for code in ["quota-exceeded", "quota-exceeded", "a code of tomorrow", "store-full"] {
            refusals.count(code);
        }
        let mut read = refusals.read();
        read.sort_unstable();
        assert_eq!(read, [("other", 1), ("quota-exceeded", 2), ("store-full", 1)]);
    }
}
