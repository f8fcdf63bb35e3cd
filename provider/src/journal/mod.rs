//! The journal of deliveries, as this instance writes it: never in the way of one.
//!
//! A delivery leaves its entry in a bounded buffer, and waits for nothing. One task writes what is there, many entries in a
//! message. Where the store takes them more slowly than they come, or is away, entries are dropped: they are counted, the log
//! and the status say so, and so does the journal itself once it can be written again.

mod batches;
mod write;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fanout_plan::journal::{Entry, Missing};
use fanout_plan::policy::Journaled;
use fanout_plan::status::JournalStatus;
use fanout_plan::{Code, Problem};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::jetstream::Store;
use crate::telemetry::INSTRUMENTS;

/// Entries that wait to be written. Each takes some 300 bytes, 2 KiB at most: the buffer never has more than 16 MiB.
const BUFFERED: usize = 8_192;

/// For how long the status says that entries were dropped.
const REPORTED: Duration = Duration::from_secs(600);

/// The journal of one instance. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As entries name it.
    instance: String,
    /// No other instance ever has it.
    id: Arc<str>,
    /// Which deliveries the policy in force wants written down.
    kept: AtomicU8,
    /// Where, under that policy.
    store: watch::Sender<Option<Store>>,
    buffer: mpsc::Sender<Entry>,
    /// Taken by the task that writes.
    buffered: Mutex<Option<mpsc::Receiver<Entry>>>,
    /// What was dropped and the journal does not say yet.
    missing: Mutex<Option<Missing>>,
    /// When an entry was dropped last.
    dropped_at: Mutex<Option<Instant>>,
    drops: AtomicBool,
    closing: CancellationToken,
}

impl Journal {
    /// One of an instance, which writes nothing yet.
    pub(crate) fn new(id: &Arc<str>) -> Self {
        let (buffer, buffered) = mpsc::channel(BUFFERED);
        Self(Arc::new(Inner {
            instance: instance_name(),
            id: Arc::clone(id),
            kept: AtomicU8::new(Journaled::Off as u8),
            store: watch::channel(None).0,
            buffer,
            buffered: Mutex::new(Some(buffered)),
            missing: Mutex::default(),
            dropped_at: Mutex::default(),
            drops: AtomicBool::new(false),
            closing: CancellationToken::new(),
        }))
    }

    /// Goes by the policy of a store from now on.
    pub(crate) fn bring(&self, store: &Store) {
        self.0.store.send_replace(Some(store.clone()));
        self.0.kept.store(store.policy().journal.deliveries as u8, Relaxed);
    }

    /// Which deliveries are written down.
    pub(crate) fn kept(&self) -> Journaled {
        let kept = self.0.kept.load(Relaxed);
        let all = [Journaled::Off, Journaled::Errors, Journaled::All];
        all.into_iter().find(|k| *k as u8 == kept).unwrap_or_default()
    }

    /// Writes a delivery down, if the policy wants it: the entry is put together only then.
    pub(crate) fn note(&self, went_well_at_once: bool, entry: impl FnOnce() -> Entry) {
        if self.kept().keeps(went_well_at_once)
            && let Err(refused) = self.0.buffer.try_send(entry())
        {
            self.lose(&[refused.into_inner()], "they come faster than the store takes them");
        }
    }

    /// Counts entries that will not be written. Logged when it begins, not each time.
    fn lose(&self, entries: &[Entry], why: &str) {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return;
        };
        let count = entries.len() as u64;
        INSTRUMENTS.journal_dropped.fetch_add(count, Relaxed);
        *self.0.dropped_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let mut missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = missing.get_or_insert_with(|| Missing {
            instance: self.0.instance.clone(),
            since: first.ended_at,
            until: last.ended_at,
            entries: 0,
        });
        missing.entries += count;
        missing.since = missing.since.min(first.ended_at);
        missing.until = missing.until.max(last.ended_at);
        if !self.0.drops.swap(true, Relaxed) {
            warn!(
                code = %Code::JournalIncomplete,
                "deliveries are not written into the journal: {why}; deliveries go on, and the journal says what it lacks"
            );
        }
    }

    /// What it has written, where it writes anything.
    pub(crate) fn status(&self) -> Option<JournalStatus> {
        let kept = self.kept();
        (kept != Journaled::Off).then(|| JournalStatus {
            deliveries: kept.as_str().to_owned(),
            instance: self.0.instance.clone(),
            written: INSTRUMENTS.journal_written.load(Relaxed),
            dropped: INSTRUMENTS.journal_dropped.load(Relaxed),
        })
    }

    /// That entries were dropped lately.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let at = *self.0.dropped_at.lock().unwrap_or_else(PoisonError::into_inner);
        at.filter(|at| at.elapsed() < REPORTED)?;
        let dropped = INSTRUMENTS.journal_dropped.load(Relaxed);
        let message = format!(
            "instance {} has not written {dropped} deliveries into the journal: they came faster than the store took them, or it was away; see whether the store keeps up, or set `journal.deliveries` to `errors`",
            self.0.instance
        );
        Some(Problem::new(Code::JournalIncomplete, message))
    }

    /// Ends it, once what is buffered was written, or can't be.
    pub(crate) fn close(&self) {
        self.0.closing.cancel();
    }
}

/// An instance as people find it: its host's name, and its process there.
fn instance_name() -> String {
    // A provider's environment is cleared by its host; what the system says is not.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    let host = host.unwrap_or_else(|_| "host".to_owned());
    let host: String = host.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    format!("{host}/{}", std::process::id())
}
