//! A subscription as it is written down: in the registry, and with its consumer, from where it is read again should the
//! registry lose it.

use serde::{Deserialize, Serialize};

use crate::SubscriptionName;
use crate::subscription::{Progress, Registered};

/// Which form of an entry this version writes. One that is greater was written by a newer version, and may mean what this
/// one does not know: it is left alone.
pub const VERSION: u32 = 3;

/// The form of an entry that has a pattern of events, and was at one place all the time.
const WITH_PATTERN: u32 = 2;

/// The form of an entry whose filter has no pattern of events, which versions write and read that know none: to them it is no
/// other than before.
const WITHOUT_PATTERN: u32 = 1;

/// The most bytes of an entry that are kept with a consumer; the server takes 128 KiB (2.15), and lists consumers with them.
const MAX_WITH_CONSUMER: usize = 16 << 10;

/// Bytes of a message of the registry besides its key and what it says: the rest of its subject, its headers, and what the
/// server keeps with each (nats-server 2.15).
const AROUND: u64 = 256;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    #[serde(flatten)]
    registered: &'a Registered,
}

#[derive(Deserialize)]
struct Version {
    /// The first entries had none.
    #[serde(default)]
    version: u32,
}

/// Writes a subscription down.
///
/// # Errors
/// When it can't be written as JSON.
pub fn write(registered: &Registered) -> serde_json::Result<String> {
    serde_json::to_string(&Written {
        version: match (
            registered.withheld.is_some() || registered.handed.is_some() || registered.stay > 0,
            registered.subscription.filter.pattern(),
        ) {
            (true, _) => VERSION,
            (false, Some(_)) => WITH_PATTERN,
            (false, None) => WITHOUT_PATTERN,
        },
        registered,
    })
}

/// Bytes that a subscription takes of the registry, counted generously.
pub(crate) fn bytes(registered: &Registered) -> u64 {
    let entry = write(registered).map_or(0, |entry| entry.len());
    (entry + registered.subscription.name.as_str().len()) as u64 + AROUND
}

/// Bytes that the tombstone of one takes there that a caller had, counted generously.
pub(crate) fn tombstone_bytes(name: &SubscriptionName, caller: &str) -> u64 {
    (name.as_str().len() + caller.len()) as u64 + AROUND
}

/// Reads what was written.
///
/// # Errors
/// Why it can't be read.
pub fn read(written: &[u8]) -> Result<Registered, String> {
    let Version { version } = serde_json::from_slice(written).map_err(|e| e.to_string())?;
    if version > VERSION {
        return Err(format!(
            "it has the form {version} of a newer version, and this one knows {VERSION}"
        ));
    }
    serde_json::from_slice(written).map_err(|e| e.to_string())
}

/// What is kept of a subscription with its consumer; `None` where it is too long for that. What changes while it runs is
/// left out, so that the consumer need not follow.
pub fn with_consumer(registered: &Registered) -> Option<Box<Registered>> {
    let kept = Registered {
        replayed: Default::default(),
        delivered_before: Default::default(),
        withheld: None,
        progress: match registered.progress {
            Progress::Notifying(_) => Progress::Replaying,
            progress => progress,
        },
        ..registered.clone()
    };
    let fits = write(&kept).is_ok_and(|written| written.len() <= MAX_WITH_CONSUMER);
    fits.then(|| Box::new(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    const OLD: &str = r#"{"name":"invoicing","need":"durable","filter":{"tenants":[],"event_types":["**"]},"reach":"handler",
        "batch_size":1,"concurrency":4,"tell_caught_up":false,"component":"c","link":"default","made_by":"link",
        "made_at":1,"head":{"0":7},"replayed":{},"progress":"replaying""#;

    #[test]
    fn an_entry_says_its_form_and_a_newer_one_is_not_read() {
        let old = read(format!("{OLD}}}").as_bytes()).unwrap();
        let written = write(&old).unwrap();
        assert!(written.starts_with(r#"{"version":1,"#), "{written}");
        assert_eq!(read(written.as_bytes()).unwrap(), old);
        let newer = format!(r#"{OLD},"version":4}}"#);
        assert!(read(newer.as_bytes()).unwrap_err().contains("newer version"));
        let withheld = crate::subscription::Registered {
            withheld: Some(crate::withheld::Withheld::StandsAt("virginia".parse().unwrap())),
            ..old
        };
        let written = write(&withheld).unwrap();
        assert!(written.starts_with(r#"{"version":3,"#), "{written}");
        assert_eq!(read(written.as_bytes()).unwrap(), withheld);
        assert!(read(b"{}").is_err() && read(b"").is_err());
    }

    #[test]
    fn an_entry_with_a_pattern_is_left_alone_by_who_knows_none() {
        let mut registered = read(format!("{OLD}}}").as_bytes()).unwrap();
        let pattern = r#"{"type": ["invoice.paid"], "data": {"amount": [{"numeric": [">", 5]}]}}"#;
        registered.subscription.filter = crate::Filter::all()
            .with_pattern(Some(pattern.parse().unwrap()))
            .unwrap();
        let written = write(&registered).unwrap();
        assert!(written.starts_with(r#"{"version":2,"#), "{written}");
        assert_eq!(read(written.as_bytes()).unwrap(), registered);
    }

    #[test]
    fn what_is_kept_with_a_consumer_is_bounded_and_does_not_follow_each_step() {
        let mut registered = read(format!("{OLD}}}").as_bytes()).unwrap();
        let kept = with_consumer(&registered).unwrap();
        registered.replayed = [(0, 7)].into_iter().collect();
        registered.progress = Progress::Notifying(Timestamp::from_nanoseconds(5));
        assert_eq!(with_consumer(&registered), Some(kept));
        let tenants = (0..2_000).map(|i| format!("tenant-{i:04}").parse().unwrap()).collect();
        registered.subscription.filter.tenants = tenants;
        assert_eq!(with_consumer(&registered), None);
    }
}
