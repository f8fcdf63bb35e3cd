//! The files that this process may have open, which all sockets of all listeners share: how many of them connections
//! may take, so that NATS, certificates and other listeners always find some.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Kept back for everything but accepted connections: NATS, certificates, policies, callers of other buses.
const RESERVE: usize = 512;
/// Where the system's limit is low, the reserve is this share of it: a quarter.
const RESERVE_SHARE: usize = 4;
/// More is of no use: it is beyond what listeners take.
const MOST: u64 = 1 << 20;

/// Accepted sockets of all listeners.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Raises the number of files that this process may have open to what the system allows it; returns that number. Call
/// it once, at the start: connections that are accepted later take what is there.
pub fn raise_open_files() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST).min(MOST);
    if limit.current.is_some_and(|current| current < most) {
        limit.current = Some(most);
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files could not be raised");
        }
    }
    allowed()
}

fn allowed() -> usize {
    let current = getrlimit(Resource::Nofile).current.unwrap_or(MOST).min(MOST);
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// One accepted socket; given back on drop.
#[derive(Debug)]
pub(crate) struct OpenFile(());

impl OpenFile {
    pub(crate) fn take() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many connections a listener may have that has `open` of them now.
pub(crate) fn for_connections(open: usize) -> usize {
    share(allowed(), OPEN.load(Ordering::Relaxed), open)
}

/// Half of what the others leave. So a listener that is flooded leaves as much as it has, two leave a third each, and
/// one that nobody has come to yet always finds some.
fn share(allowed: usize, all: usize, open: usize) -> usize {
    let reserve = RESERVE.min(allowed / RESERVE_SHARE);
    let others = all.saturating_sub(open);
    (allowed - reserve).saturating_sub(others) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a listener as far as it goes; returns what all have then.
    fn flood(allowed: usize, all: usize) -> (usize, usize) {
        let open = (0..)
            .find(|&open| open >= share(allowed, all + open, open))
            .unwrap_or(0);
        (open, all + open)
    }

    #[test]
    fn a_flooded_listener_leaves_files_to_others_and_to_everything_else() {
        for allowed in [256, 1024, 65_536] {
            let (first, all) = flood(allowed, 0);
            let (second, all) = flood(allowed, all);
            let (third, all) = flood(allowed, all);
            assert!(
                first > second && second > third && third > allowed / 20,
                "{first} {second} {third}"
            );
            assert!(
                all + RESERVE.min(allowed / RESERVE_SHARE) < allowed,
                "{all} of {allowed}"
            );
        }
    }

    #[test]
    fn as_many_files_are_allowed_as_the_system_lets() {
        let most = getrlimit(Resource::Nofile).maximum.unwrap_or(MOST).min(MOST);
        assert!(raise_open_files() as u64 >= most);
    }
}
