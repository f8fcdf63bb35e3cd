//! A program that comes and goes: it makes a subscription, fetches for a while, ends it, and makes another under the same
//! name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fanout_campaign_checker::history::{Need, What};
use fanout_client::{Bus, ErrorKind};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;

use super::{Subscriber, dice};
use crate::recorder::Recorder;

/// What the bus knows all of its subscriptions as.
pub(crate) const GUEST: &str = "guest";
/// The caller whose they are.
pub(crate) const CALLER: &str = "audit";
/// Before it asks again for what could not be done.
const AGAIN: Duration = Duration::from_millis(300);

/// What the history calls the subscription that stands under the guest's name, while one does.
#[derive(Clone, Debug, Default)]
pub(crate) struct Current(Arc<Mutex<Option<String>>>);

impl Current {
    pub(crate) fn name(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, name: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }
}

pub(crate) struct Guest {
    bus: Bus,
    seed: u64,
    recorder: Arc<Recorder>,
    current: Current,
}

impl Guest {
    pub(crate) fn new(bus: Bus, seed: u64, recorder: Arc<Recorder>, current: Current) -> Self {
        Self {
            bus,
            seed,
            recorder,
            current,
        }
    }

    /// Comes and goes until `publish` is over; what it has then stays until `stop`.
    pub(crate) async fn run(self, publish: CancellationToken, stop: CancellationToken) {
        let mut dice = dice(self.seed, GUEST);
        for n in 1_u32.. {
            let name = format!("{GUEST}.{n}");
            let need = match dice.random_bool(0.7) {
                true => Need::Durable,
                false => Need::Backfill,
            };
            let stay = Duration::from_millis(dice.random_range(2_000..12_000));
            let subscriber = Subscriber::new(&name, CALLER, need, self.seed, Arc::clone(&self.recorder)).under(GUEST);
            let first = loop {
                match subscriber.subscribe(&self.bus).await {
                    Ok(first) => break first,
                    Err(_) if stop.is_cancelled() => return,
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            };
            self.current.set(Some(name.clone()));
            let leave = stop.child_token();
            let fetching = subscriber.run(self.bus.clone(), first, GUEST.to_owned(), leave.clone());
            let goes = async {
                let stays = tokio::select! {
                    () = tokio::time::sleep(stay) => false,
                    () = publish.cancelled() => true,
                };
                if stays {
                    stop.cancelled().await;
                }
                leave.cancel();
                stays
            };
            let ((), stays) = tokio::join!(fetching, goes);
            if stays {
                return;
            }
            self.current.set(None);
            let (subscription, ended) = (name.clone(), name);
            self.recorder.tell(GUEST, What::Unsubscribe { subscription });
            while let Err(error) = self.bus.unsubscribe(GUEST).await {
                // An attempt before it may have done it.
                if error.kind == ErrorKind::UnknownSubscription {
                    break;
                }
                if stop.is_cancelled() {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
            self.recorder.tell(GUEST, What::Unsubscribed { subscription: ended });
            if publish.is_cancelled() {
                return;
            }
        }
    }
}
