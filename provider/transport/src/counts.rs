//! What this process counts of each transport: connections and calls, since it began. Whoever shows it asks
//! [`transport_counts`].
//!
//! A transport is the scheme of its endpoint, so there are few. Counting takes no lock and no memory.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// The counts of one transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportCounts {
    /// The scheme of its endpoints: `tcp`, `quic`, `nats` for the lattice.
    pub transport: &'static str,
    /// Connections that are open. The lattice's one connection is not counted.
    pub open: u64,
    /// Connections that were taken.
    pub accepted: u64,
    /// Connections that were refused because there was no slot for them.
    pub refused: u64,
    /// Calls that run or wait for a permit.
    pub calls_in_flight: u64,
    /// Calls that were answered, with a domain error too.
    pub calls_answered: u64,
    /// Calls that were refused before anything of them was read: by their caller's rights, or for want of a permit.
    pub calls_refused: u64,
    /// Calls that ended without an answer: their handler failed, or their deadline passed.
    pub calls_failed: u64,
}

/// The counters behind it.
#[derive(Debug)]
pub(crate) struct Counters {
    transport: &'static str,
    open: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    calls_in_flight: AtomicU64,
    calls_answered: AtomicU64,
    calls_refused: AtomicU64,
    calls_failed: AtomicU64,
}

static ALL: [Counters; 8] = [
    Counters::new("nats"),
    Counters::new("tcp"),
    Counters::new("tls"),
    Counters::new("unix"),
    Counters::new("quic"),
    Counters::new("webtransport"),
    Counters::new("http"),
    Counters::new("https"),
];

/// The counts of every transport, whether or not anything came by it.
pub fn transport_counts() -> impl Iterator<Item = TransportCounts> {
    ALL.iter().map(Counters::read)
}

/// Those of a scheme; of one that is not known, the lattice's.
pub(crate) fn of(scheme: &str) -> &'static Counters {
    let found = ALL.iter().find(|counts| counts.transport == scheme);
    found.unwrap_or(&ALL[0])
}

impl Counters {
    const fn new(transport: &'static str) -> Self {
        Self {
            transport,
            open: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            calls_in_flight: AtomicU64::new(0),
            calls_answered: AtomicU64::new(0),
            calls_refused: AtomicU64::new(0),
            calls_failed: AtomicU64::new(0),
        }
    }

    fn read(&self) -> TransportCounts {
        let read = |count: &AtomicU64| count.load(Relaxed);
        TransportCounts {
            transport: self.transport,
            open: read(&self.open),
            accepted: read(&self.accepted),
            refused: read(&self.refused),
            calls_in_flight: read(&self.calls_in_flight),
            calls_answered: read(&self.calls_answered),
            calls_refused: read(&self.calls_refused),
            calls_failed: read(&self.calls_failed),
        }
    }

    pub(crate) fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    pub(crate) fn connection_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn call_refused(&self) {
        self.calls_refused.fetch_add(1, Relaxed);
    }

    /// A call begins; it has failed unless it is said to be answered.
    pub(crate) fn call(&'static self) -> CountedCall {
        self.calls_in_flight.fetch_add(1, Relaxed);
        CountedCall {
            counts: self,
            is_answered: false,
        }
    }
}

/// A call that is counted.
#[derive(Debug)]
pub(crate) struct CountedCall {
    counts: &'static Counters,
    is_answered: bool,
}

impl CountedCall {
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for CountedCall {
    fn drop(&mut self) {
        self.counts.calls_in_flight.fetch_sub(1, Relaxed);
        let ended = match self.is_answered {
            true => &self.counts.calls_answered,
            false => &self.counts.calls_failed,
        };
        ended.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_or_has_failed() {
        static COUNTS: Counters = Counters::new("tcp");
        let (one, other) = (COUNTS.call(), COUNTS.call());
        assert_eq!(COUNTS.read().calls_in_flight, 2);
        one.answered();
        drop(other);
        let read = COUNTS.read();
        assert_eq!(
            (read.calls_in_flight, read.calls_answered, read.calls_failed),
            (0, 1, 1)
        );
    }

    #[test]
    fn every_scheme_has_counts_of_its_own() {
        for url in [
            "tcp://localhost:1",
            "tls://localhost:1",
            "unix:/run/bus",
            "quic://localhost:1",
            "webtransport://localhost:1/x",
            "http://localhost:1",
            "https://localhost:1",
            "nats://localhost:1?target=default.x",
        ] {
            let endpoint: crate::Endpoint = url.parse().expect("an endpoint");
            assert_eq!(of(endpoint.scheme()).transport, endpoint.scheme(), "{url}");
        }
    }
}
