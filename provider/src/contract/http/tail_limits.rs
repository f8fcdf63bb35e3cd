//! How many live tails there are at an instance, and what each may hold.

use std::time::Duration;

/// How many of something one caller may have, and all callers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of one caller.
    pub of_one: usize,
    /// Of all callers.
    pub of_all: usize,
}

/// The bounds of live tails at one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailLimits {
    /// Tails that are open. Each is a call of its caller's, of which the transport lets it have 512 under way: some are left for
    /// calls that end.
    pub open: Share,
    /// Of those, the ones that read the store by themselves: each is a consumer of the store's for each partition.
    pub catching_up: Share,
    /// How long one reads the store before it gives way to those who wait: a reader that takes a byte now and then would hold
    /// the place of others.
    pub catches_up_for: Duration,
    /// Bytes of events that are kept for readers who are a little behind, as each is sent and as a pattern reads it.
    pub kept_bytes: usize,
    /// How many events are kept for them.
    pub kept_events: usize,
    /// How often a quiet tail says that it is there.
    pub heartbeat: Duration,
}

impl Default for TailLimits {
    fn default() -> Self {
        Self {
            open: Share {
                of_one: 512 * 7 / 8,
                of_all: 2_048,
            },
            catching_up: Share { of_one: 4, of_all: 32 },
            catches_up_for: Duration::from_secs(60),
            kept_bytes: 32 << 20,
            kept_events: 16_384,
            heartbeat: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_numbers() {
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/http.md");
        let page = std::fs::read_to_string(page).unwrap();
        let limits = TailLimits::default();
        for promise in [
            format!("A comment every {} s", limits.heartbeat.as_secs()),
            format!("the last {} MiB or 16,384 events", limits.kept_bytes >> 20),
            format!(
                "{} at a time at an instance, {} of one caller",
                limits.catching_up.of_all, limits.catching_up.of_one
            ),
            format!("After {} s it gives way", limits.catches_up_for.as_secs()),
            format!("At most {} tails of one caller and 2,048 in all", limits.open.of_one),
        ] {
            assert!(page.contains(&promise), "docs/http.md does not say {promise:?}");
        }
        assert_eq!((limits.kept_events, limits.open.of_all), (16_384, 2_048));
        let security = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
        let security = std::fs::read_to_string(security).unwrap();
        let bounds = format!(
            "| {}, 2,048; {}, {} ([`too-many-tails`](errors/too-many-tails.md)). What all read is kept once, {} MiB |",
            limits.open.of_one,
            limits.catching_up.of_one,
            limits.catching_up.of_all,
            limits.kept_bytes >> 20
        );
        assert!(security.contains(&bounds), "docs/security.md does not say {bounds:?}");
    }
}
