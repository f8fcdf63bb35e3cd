//! Ports of the loopback for whatever a test starts.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::net::TcpListener;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below those that a system gives out by itself (Linux: from 32,768 on), so that no connection takes one between a look and its use.
const PORTS: Range<u16> = 12_000..32_000;

/// Ports that are free now, each another one, and none that this process was given before.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes that run at the same time begin at different ports.
    let tried = (0_u32..).map(|n| RandomState::new().hash_one(n) % PORTS.len() as u64);
    let ports = tried.filter_map(|n| Some(PORTS.start + u16::try_from(n).ok()?));
    let free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port));
    free.take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_that_somebody_has() {
        let taken = TcpListener::bind(("127.0.0.1", free_ports(1)[0])).unwrap();
        let ports: BTreeSet<_> = free_ports(100).into_iter().chain(free_ports(100)).collect();
        assert_eq!(ports.len(), 200);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
        assert!(!ports.contains(&taken.local_addr().unwrap().port()));
    }
}
