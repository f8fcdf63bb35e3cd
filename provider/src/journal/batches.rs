//! Entries to messages: those of one slot together, as many as a message holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use fanout_plan::BusNames;
use fanout_plan::journal::{Batch, Entry, MAX_ENTRY_BYTES, Slot};

/// One message of the journal.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) subject: String,
    pub(super) payload: Bytes,
    /// What is in it.
    pub(super) entries: Vec<Entry>,
}

/// The messages of entries, in the order of their slots; each as large as `most` bytes allow.
pub(super) fn messages(names: &BusNames, instance: &str, entries: Vec<Entry>, most: usize) -> Vec<Message> {
    let mut slots: BTreeMap<Slot, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        slots.entry(Slot::of(entry.position)).or_default().push(entry);
    }
    let in_one = (most / MAX_ENTRY_BYTES).max(1);
    let mut messages = Vec::new();
    for (slot, entries) in slots {
        let subject = names.journal_slot(slot);
        for part in entries.chunks(in_one) {
            let batch = Batch {
                instance: instance.to_owned(),
                entries: part.to_vec(),
            };
            // Nothing in it fails to be written.
            let payload = serde_json::to_vec(&batch).unwrap_or_default();
            messages.push(Message {
                subject: subject.clone(),
                payload: payload.into(),
                entries: batch.entries,
            });
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use fanout_plan::journal::Outcome;
    use fanout_plan::{LogPosition, Position};

    use super::*;

    fn entry(offset: u64) -> Entry {
        let at = LogPosition::from(Position::undivided(offset));
        let ended_at = fanout_plan::Timestamp::from_nanoseconds(1);
        Entry::new("billing".parse().unwrap(), at, ended_at, Outcome::Handled)
    }

    #[test]
    fn what_is_near_lies_together_and_no_message_is_too_large() {
        let names = BusNames::new("payments".parse().unwrap());
        let entries = [5, 4_000, 6, 7, 8].map(entry);
        let all = messages(&names, "host/1", entries.to_vec(), 3 * MAX_ENTRY_BYTES);
        let shown: Vec<_> = all
            .iter()
            .map(|m| {
                let offsets: Vec<_> = m.entries.iter().map(|e| e.position.offset).collect();
                (m.subject.as_str(), offsets)
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("fanout.journal.payments.0.0", vec![5, 6, 7]),
                ("fanout.journal.payments.0.0", vec![8]),
                ("fanout.journal.payments.0.3", vec![4_000]),
            ]
        );
        for message in all {
            let batch: Batch = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!((batch.instance.as_str(), batch.entries), ("host/1", message.entries));
            assert!(message.payload.len() <= 3 * MAX_ENTRY_BYTES);
        }
    }
}
