//! The checker of the fault campaign: a history of what programs meant, sent, were told and saw goes in, what broke a law
//! comes out.
//!
//! Begin with [`history`], which is what is known; then [`Facts`], which is the same by event, delivery and subscription;
//! then [`LAWS`]. A law is one function in a file of its own under `laws/`, and what it demands is its docstring. Each
//! has tests with histories written by hand: some break it, and near misses do not.
//!
//! Deliberately absent: a clock, files, the network, and any knowledge of how the bus works. What a program could not
//! know, the checker does not assume: a call without an answer may have happened or not.

pub mod facts;
pub mod history;
pub mod laws;
pub mod recoveries;
#[cfg(test)]
mod testing;

pub use facts::Facts;
pub use history::History;
pub use laws::{LAWS, Law};

use std::fmt;

/// A law that did not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law's name.
    pub law: &'static str,
    /// Which event, subscription and moment.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.what)
    }
}

/// Everything in a history that breaks a law, by law. Empty: the bus kept its promises.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    let broken = LAWS.iter().flat_map(|law| {
        let found = (law.holds)(&facts).into_iter();
        found.map(|what| Violation { law: law.name, what })
    });
    broken.collect()
}
