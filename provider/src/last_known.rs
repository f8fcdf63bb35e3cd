//! Keeps what is known here of the subscriptions at other places, by which they go on here should their place be lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fanout_plan::PlaceName;
use futures::future::join_all;
use tokio::time::timeout;
use tracing::debug;

use crate::bus::Bus;
use crate::jetstream::Written;

/// How often the other places are read.
const EVERY: Duration = Duration::from_secs(5);
/// How long one of them may take.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// How long reading an entry takes at least: where there are thousands, they are read less often.
const PACE: Duration = Duration::from_millis(2);

/// What was written down of one place, and when all of it was.
struct Known {
    written: Written,
    all_at: Instant,
}

/// Reads the other places until the provider ends.
pub(crate) async fn keep(bus: Bus) {
    let mut known: BTreeMap<PlaceName, Known> = BTreeMap::new();
    loop {
        let mut pause = EVERY;
        let view = bus.view();
        if let Some(store) = &view.store
            && let Some(places) = &store.policy().places
        {
            // An entry goes when it is as old as the retention; until then it is written again.
            let again = store.policy().retention.max_age / 4;
            known.retain(|name, _| places.all.contains_key(name));
            for (name, _) in places.others() {
                known.entry(name.clone()).or_insert_with(|| Known {
                    written: Written::default(),
                    all_at: Instant::now(),
                });
            }
            // One that does not answer keeps no other waiting.
            let looks = known.iter_mut().filter_map(|(name, of)| {
                let place = places.all.get(name)?;
                Some(async move {
                    let is_old = of.all_at.elapsed() > again;
                    let noted = timeout(READ_WITHIN, store.note_elsewhere(name, place, &mut of.written, is_old)).await;
                    match noted {
                        Ok(Ok(read)) => {
                            if is_old {
                                of.all_at = Instant::now();
                            }
                            return read;
                        }
                        Ok(Err(error)) => debug!(place = %name, %error, "what it has is not written down here now"),
                        Err(_) => {
                            debug!(place = %name, "what it has is not written down here: it was not read in time")
                        }
                    }
                    0
                })
            });
            let read: usize = join_all(looks).await.into_iter().sum();
            pause = pause.max(PACE * u32::try_from(read).unwrap_or(u32::MAX));
        }
        tokio::time::sleep(pause).await;
    }
}
