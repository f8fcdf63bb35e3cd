//! What callers may take of the dead letters. A subscription that its caller made can have any event of its tenants as a dead
//! letter, and so can the next one that the caller makes: letters outlive their subscriptions. So they are counted by the
//! names that the caller uses or has used.
//!
//! A count is as old as [`COUNTED_FOR`]: what other instances stored since, and what was taken away, is not in it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use fanout_plan::limits::{Beyond, CallersShare};
use fanout_plan::subscription::{MadeBy, Registered};
use fanout_plan::{Code, Problem, SubscriptionName, authority};
use tokio::time::timeout;

use super::headers::header_bytes;
use super::letter_notes::{LIST, NEXT_WITHIN};
use super::listing::Listing;
use super::registry::Registry;
use super::{Store, StoreError};

/// For how long a count holds, with what this instance adds to it.
const COUNTED_FOR: Duration = Duration::from_secs(60);
/// The same where it is a reason to refuse: letters may have been redriven or discarded since.
const REFUSED_FOR: Duration = Duration::from_secs(5);
/// Names that one consumer is asked for at once.
const NAMES_AT_ONCE: usize = 500;
/// Bytes that the server keeps with a letter besides its headers and payload, with its subject, counted generously.
const AROUND: u64 = 256;

/// What is known of one caller's letters; locked while they are counted.
type Count = Arc<tokio::sync::Mutex<Option<Counted>>>;

/// What is known of callers' letters.
#[derive(Debug, Default)]
pub(super) struct LetterCounts(Mutex<HashMap<String, Count>>);

impl LetterCounts {
    fn of(&self, caller: &str) -> Count {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(caller.to_owned()).or_default())
    }
}

/// A caller's letters.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    letters: u64,
    bytes: u64,
}

impl Store {
    /// Whether the dead letters have place for one more of a subscription, of this many bytes. Only what callers made is
    /// counted.
    ///
    /// # Errors
    /// When the store can't be read, or with [`Code::StoreFull`] where the caller, or all callers, have their share.
    pub(crate) async fn admit_letter(&self, of: &Registered, bytes: u64) -> Result<(), StoreError> {
        if of.made_by != MadeBy::Call {
            return Ok(());
        }
        let bytes = bytes + AROUND;
        let info = self.letters().await?.get_info().await.map_err(StoreError::when(LIST))?;
        let most = |bound: i64| u64::try_from(bound).unwrap_or(0);
        let shares = [
            CallersShare::of(most(info.config.max_bytes)),
            CallersShare::of(most(info.config.max_messages)),
        ];
        let counts = self.letter_counts.of(&of.component);
        let mut known = counts.lock().await;
        let beyond = |counted: Counted| {
            let of_bytes = shares[0].is_beyond(counted.bytes, info.state.bytes, bytes);
            of_bytes.or_else(|| shares[1].is_beyond(counted.letters, info.state.messages, 1))
        };
        let is_recent = |counted: &Counted| {
            let holds_for = match beyond(*counted) {
                Some(Beyond::Own) => REFUSED_FOR,
                Some(Beyond::All) | None => COUNTED_FOR,
            };
            counted.at.elapsed() < holds_for
        };
        let counted = match known.filter(is_recent) {
            Some(counted) => counted,
            None => self.count_letters(of).await?,
        };
        if let Some(beyond) = beyond(counted) {
            *known = Some(counted);
            return Err(beyond_share(&of.component, counted.letters, beyond));
        }
        *known = Some(Counted {
            letters: counted.letters + 1,
            bytes: counted.bytes + bytes,
            ..counted
        });
        Ok(())
    }

    /// The letters of the names that a caller uses or has used, whichever subscription of the name they are of.
    async fn count_letters(&self, of: &Registered) -> Result<Counted, StoreError> {
        let caller = of.component.as_str();
        let mut counted = Counted {
            at: Instant::now(),
            letters: 0,
            bytes: 0,
        };
        let Registry { entries, ended, .. } = self.registry().await?;
        let is_own = |r: &&Registered| r.made_by == MadeBy::Call && r.component == caller;
        let living = entries.values().filter(is_own).map(|r| r.id().name);
        let ended = ended.into_iter().filter(|(_, t)| t.caller.as_deref() == Some(caller));
        let names: BTreeSet<SubscriptionName> = living
            .chain(ended.map(|(name, _)| name))
            .chain([of.id().name])
            .collect();
        let filters: Vec<_> = names
            .iter()
            .map(|name| self.names.dead_letter_filter(Some(name), None))
            .collect();
        let stream = self.letters().await?;
        for filters in filters.chunks(NAMES_AT_ONCE) {
            let config = pull::OrderedConfig {
                filter_subjects: filters.to_vec(),
                deliver_policy: DeliverPolicy::All,
                headers_only: true,
                ..pull::OrderedConfig::default()
            };
            let consumer = stream.create_consumer(config).await.map_err(StoreError::when(LIST))?;
            let Some(mut letters) = Listing::begin(&stream, consumer, LIST).await? else {
                continue;
            };
            while let Some(message) = timeout(NEXT_WITHIN, letters.next())
                .await
                .map_err(StoreError::when(LIST))??
            {
                // Requests to redrive lie beside the letters.
                if self.names.letter_of(&message.subject).is_some()
                    && let Some(headers) = &message.headers
                {
                    let payload = headers.get("Nats-Msg-Size").and_then(|size| size.as_str().parse().ok());
                    counted.letters += 1;
                    counted.bytes += payload.unwrap_or(0_u64) + header_bytes(headers) as u64 + AROUND;
                }
            }
        }
        Ok(counted)
    }
}

fn beyond_share(caller: &str, letters: u64, beyond: Beyond) -> StoreError {
    let why = match beyond {
        Beyond::Own => format!(
            "{} has its share of the dead letters, a quarter of them, with {letters}, those of subscriptions that it has ended included: redrive or discard some of them",
            authority::named(caller)
        ),
        Beyond::All => {
            "the last quarter of the dead letters is for subscriptions that the policy and links declare: redrive or discard some".to_owned()
        }
    };
    StoreError::Refused(vec![Problem::new(
        Code::StoreFull,
        format!("{why}, or raise `dead-letters.max-bytes` or `dead-letters.max-events`"),
    )])
}
