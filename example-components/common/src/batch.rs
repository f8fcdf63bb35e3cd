//! A batch of deliveries into the store, in one call to it.

use crate::{
    delivery::Rejection,
    store::{self, Entry, KeyValue},
};

/// Writes the entries that a batch of deliveries came to. One result for each, in order.
///
/// What is no entry keeps its rejection, what is not stored is tried again, and neither holds up the others.
pub fn write(store: &impl KeyValue, entries: Vec<Result<Entry, Rejection>>) -> Vec<Result<(), Rejection>> {
    let readable: Vec<Entry> = entries
        .iter()
        .filter_map(|entry| entry.as_ref().ok())
        .cloned()
        .collect();
    let written = store::set_all(store, &readable);
    entries
        .into_iter()
        .map(|entry| {
            let (key, _) = entry?;
            match &written {
                Ok(missing) if !missing.contains(&key) => Ok(()),
                Ok(_) => Err(Rejection::Retry(format!("the key-value store did not keep {key}"))),
                Err(error) => Err(Rejection::Retry(error.to_string())),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;

    fn entry(key: &str) -> Result<Entry, Rejection> {
        Ok((key.to_owned(), b"1".to_vec()))
    }

    fn never() -> Result<Entry, Rejection> {
        Err(Rejection::DeadLetter("never".to_owned()))
    }

    #[test]
    fn each_delivery_is_answered_for_itself_and_in_order() {
        let store = MemoryStore::default();
        let results = write(&store, vec![entry("a"), never(), entry("b")]);
        assert_eq!(results, [Ok(()), never().map(drop), Ok(())]);
        assert_eq!(Vec::from_iter(store.dump().into_keys()), ["a", "b"]);
        assert_eq!(write(&store, vec![]), []);
    }

    #[test]
    fn an_event_that_comes_twice_is_written_once() {
        let store = MemoryStore::default();
        assert_eq!(write(&store, vec![entry("a"), entry("a")]), [Ok(()), Ok(())]);
        assert_eq!(store.dump().len(), 1);
    }

    #[test]
    fn a_failing_store_asks_for_a_retry_of_what_it_concerns() {
        let store = MemoryStore::default();
        store.fail();
        let results = write(&store, vec![entry("a"), never()]);
        assert!(matches!(&results[0], Err(Rejection::Retry(_))), "{results:?}");
        assert_eq!(results[1], never().map(drop));
    }

    #[test]
    fn what_the_store_lost_in_silence_is_tried_again() {
        let store = MemoryStore::default();
        store.drop_writes_of("a");
        let results = write(&store, vec![entry("a"), entry("b")]);
        assert_eq!(
            results,
            [
                Err(Rejection::Retry("the key-value store did not keep a".to_owned())),
                Ok(())
            ]
        );
    }
}
