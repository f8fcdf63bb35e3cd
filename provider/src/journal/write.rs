//! The task that writes the journal.

use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fanout_plan::journal::{Entry, Missing};
use fanout_plan::policy::Journaled;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tracing::{debug, info};

use super::Journal;
use super::batches::{Message, messages};
use crate::jetstream::{JournalMessage, Store};
use crate::telemetry::INSTRUMENTS;

/// How long entries are gathered before they are written: a message costs the store as much as one entry, or hundreds.
const GATHER: Duration = Duration::from_millis(200);
/// The most that are written at once.
const TOGETHER: usize = 1_024;
/// The most bytes of a message, below what every server takes.
const MESSAGE_BYTES: usize = 256 << 10;
/// The wait before what the store did not take is written again.
const AGAIN: Duration = Duration::from_secs(1);
/// For how long the same entries are tried. Then they are dropped: what the store refuses for good is not in the way of what
/// follows.
const TRIED_FOR: Duration = Duration::from_secs(60);
/// How long what is left may take when the instance ends.
const LAST: Duration = Duration::from_secs(2);

impl Journal {
    /// Writes until it is closed and nothing is left. There is one task that does.
    pub(crate) async fn keep(self) {
        let taken = self.0.buffered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut buffered) = taken else { return };
        let mut number = 0;
        // Of all that is left when the instance ends.
        let mut end = None;
        while let Some(entries) = self.gather(&mut buffered).await {
            self.write(entries, &mut number, &mut end).await;
        }
    }

    /// What came within a moment; `None` once it is closed and nothing is left.
    async fn gather(&self, buffered: &mut mpsc::Receiver<Entry>) -> Option<Vec<Entry>> {
        let closing = &self.0.closing;
        let mut entries = Vec::new();
        tokio::select! {
            biased;
            _ = buffered.recv_many(&mut entries, TOGETHER) => {}
            () = closing.cancelled() => return None,
        }
        let until = Instant::now() + GATHER;
        while entries.len() < TOGETHER {
            let room = TOGETHER - entries.len();
            tokio::select! {
                biased;
                _ = buffered.recv_many(&mut entries, room) => {}
                () = sleep_until(until) => break,
                () = closing.cancelled() => break,
            }
        }
        Some(entries)
    }

    /// Writes entries, again and again where the store does not take them; meanwhile others wait in the buffer.
    async fn write(&self, entries: Vec<Entry>, number: &mut u64, end: &mut Option<Instant>) {
        let Some(mut store) = self.store() else { return };
        if end.is_some_and(|end| Instant::now() >= end) {
            return self.lose(&entries, "the instance ends");
        }
        let most = largest_message(&store);
        let mut left: Vec<_> = messages(store.names(), &self.0.instance, entries, most)
            .into_iter()
            .map(|message| {
                *number += 1;
                (format!("{}-{number}", self.0.id), message)
            })
            .collect();
        let began = Instant::now();
        loop {
            if self.kept() == Journaled::Off {
                // It was switched off: nobody asks for them any more.
                return;
            }
            left = self.write_once(&store, left).await;
            if left.is_empty() || began.elapsed() > TRIED_FOR {
                break;
            }
            // One more look at what there is, and no more once the instance ends.
            if self.0.closing.is_cancelled() && Instant::now() >= *end.get_or_insert_with(|| Instant::now() + LAST) {
                break;
            }
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = self.0.closing.cancelled(), if end.is_none() => {}
            }
            store = self.store().unwrap_or(store);
        }
        for (_, message) in &left {
            self.lose(&message.entries, "the store does not take them");
        }
        if left.is_empty() {
            self.say_what_is_missing(&store).await;
        }
    }

    fn store(&self) -> Option<Store> {
        self.0.store.borrow().clone()
    }

    /// Returns what the store did not take.
    async fn write_once(&self, store: &Store, all: Vec<(String, Message)>) -> Vec<(String, Message)> {
        let written = all.iter().map(|(id, message)| JournalMessage {
            subject: message.subject.clone(),
            payload: message.payload.clone(),
            id: id.clone(),
        });
        let deadline = Instant::now() + if self.0.closing.is_cancelled() { LAST } else { LAST * 3 };
        let written = store.write_journal(written.collect());
        let Ok(written) = timeout_at(deadline, written).await else {
            return all;
        };
        let mut left = Vec::new();
        for (message, written) in all.into_iter().zip(written) {
            match written {
                Ok(()) => {
                    let count = message.1.entries.len() as u64;
                    INSTRUMENTS.journal_written.fetch_add(count, Relaxed);
                }
                Err(error) => {
                    debug!(%error, "deliveries are not written into the journal yet");
                    left.push(message);
                }
            }
        }
        left
    }

    /// Has the journal itself say what it lacks.
    async fn say_what_is_missing(&self, store: &Store) {
        let missing = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(missing) = missing else { return };
        match store.write_journal_missing(&missing).await {
            Ok(()) => {
                let Missing {
                    since, until, entries, ..
                } = missing;
                if self.0.drops.swap(false, Relaxed) {
                    info!(%since, %until, entries, "deliveries are written into the journal again");
                }
            }
            Err(error) => {
                debug!(%error, "what the journal lacks is said later");
                let mut now = self.0.missing.lock().unwrap_or_else(PoisonError::into_inner);
                *now = Some(match now.take() {
                    None => missing,
                    Some(more) => Missing {
                        since: missing.since.min(more.since),
                        until: missing.until.max(more.until),
                        entries: missing.entries + more.entries,
                        ..missing
                    },
                });
            }
        }
    }
}

/// The most bytes of a message: several fit in the journal, and one in what the server takes.
fn largest_message(store: &Store) -> usize {
    let of_journal = store.policy().journal.max_bytes / 4;
    let most = of_journal.min(store.max_request() / 2);
    usize::try_from(most).unwrap_or(MESSAGE_BYTES).min(MESSAGE_BYTES)
}
