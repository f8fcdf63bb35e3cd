//! How many instances of the provider serve a bus: each says so once a second, and counts those that it hears.
//!
//! An instance that starts is known to the others within a second, and one that ends is counted for three more. In
//! between, the shares of a rate add up to too much for at most that second, or to too little.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::Client;
use bytes::Bytes;
use fanout_plan::BusNames;
use futures::StreamExt as _;
use tracing::debug;

/// How often an instance says that it is there.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// After how long without a beat it is not.
const GONE: Duration = Duration::from_millis(3_500);

/// The most instances that are counted: a bound on what a stranger on the subject can make this remember.
const MOST: usize = 256;

/// How many there are.
#[derive(Debug)]
pub(crate) struct Instances(AtomicU32);

impl Default for Instances {
    fn default() -> Self {
        Self(AtomicU32::new(1))
    }
}

impl Instances {
    /// How many, this one included.
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed).max(1)
    }

    /// Beats and listens until the connection is closed.
    pub(super) async fn keep(&self, nats: &Client, names: &BusNames) {
        let me = nats.new_inbox();
        let mut seen = HashMap::from([(Bytes::from(me.clone()), Instant::now())]);
        let Ok(mut beats) = nats.subscribe(names.instances()).await else {
            return;
        };
        let mut next = tokio::time::interval(BEAT);
        loop {
            tokio::select! {
                beat = beats.next() => match beat {
                    Some(beat) if seen.len() < MOST || seen.contains_key(&beat.payload) => {
                        seen.insert(beat.payload, Instant::now());
                    }
                    Some(_) => {}
                    None => return,
                },
                _ = next.tick() => {
                    // While the connection is away, so are the others' beats; what was known then still holds.
                    if nats.publish(names.instances(), Bytes::from(me.clone())).await.is_err() {
                        debug!("the heartbeat of this instance was not sent");
                    }
                    if nats.connection_state() != async_nats::connection::State::Connected {
                        continue;
                    }
                    seen.retain(|id, at| *id == me.as_bytes() || at.elapsed() < GONE);
                    self.0.store(u32::try_from(seen.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
                }
            }
        }
    }
}
