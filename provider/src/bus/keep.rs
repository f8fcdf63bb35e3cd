//! Keeps a bus as it should be: looks when something has changed, and now and then when nothing seems to have.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt as _;
use tracing::{error, info, warn};

use super::{Bus, RETRY};
use crate::jetstream::Store;
use crate::later;
use crate::quota::Unanswered;

/// How often the bus is compared with its policy when nothing seems to have changed: someone may have deleted a
/// consumer by hand.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Half the wait before what the store refused is tried again for the first time.
const MEND: Duration = Duration::from_millis(500);
/// How often the connection's state is read.
const LOOK_AT_CONNECTION: Duration = Duration::from_millis(200);

impl Bus {
    /// Keeps the bus as it should be until it is stopped.
    pub(crate) async fn keep(self) {
        tokio::join!(self.keep_policy(), self.keep_quotas(), self.keep_later());
    }

    /// Counts instances and stored bytes for the policy in force.
    async fn keep_quotas(&self) {
        self.with_store(|store| async move {
            self.gate().keep(&store).await;
        })
        .await;
        if let Some(store) = &self.view().store {
            self.gate().tell(store, &mut Unanswered::default()).await;
        }
    }

    /// Publishes what is due.
    async fn keep_later(&self) {
        let said = std::sync::Mutex::new(String::new());
        let said = &said;
        self.with_store(|store| async move {
            if let Err(error) = later::keep(self, &store).await {
                let error = error.to_string();
                let mut said = said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if *said != error {
                    warn!(error, "what is due can't be read; it is tried again");
                    *said = error;
                }
            }
        })
        .await;
    }

    /// Does something with the store for as long as its policy is in force, again when it ends, until the bus stops.
    async fn with_store<F: Future<Output = ()>>(&self, act: impl Fn(Store) -> F) {
        let mut views = self.0.view.subscribe();
        let (first, longest) = RETRY;
        let mut retry = first;
        loop {
            let began = tokio::time::Instant::now();
            let store = views.borrow_and_update().store.clone();
            let acting = async {
                match &store {
                    Some(store) => act(store.clone()).await,
                    None => std::future::pending().await,
                }
            };
            let replaced = async {
                let other = views.wait_for(|now| match (&now.store, &store) {
                    (Some(now), Some(store)) => !now.is_of_same_policy(store),
                    (now, store) => now.is_some() != store.is_some(),
                });
                other.await.is_ok()
            };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = replaced => retry = first,
                () = acting => {
                    retry = if began.elapsed() > longest { first } else { (retry * 2).min(longest) };
                    tokio::select! {
                        () = self.0.stop.cancelled() => return,
                        () = tokio::time::sleep(retry) => {}
                    }
                }
            }
        }
    }

    /// Brings the bus to its policy whenever something has changed.
    async fn keep_policy(&self) {
        let (first, longest) = RETRY;
        let (mut retry, mut mend) = (first, MEND);
        let mut said = String::new();
        loop {
            let wait = match self.reconcile(None).await {
                Ok(_) => {
                    retry = first;
                    said.clear();
                    // What the store refused is tried again, less and less often.
                    mend = if self.is_whole() {
                        MEND
                    } else {
                        (mend * 2).min(LOOK_EVERY)
                    };
                    if self.is_whole() { LOOK_EVERY } else { mend }
                }
                Err(error) => {
                    let words = format!("{error:?}");
                    if words != said {
                        error!(bus = %self.0.provider, ?error, "{error}; it is tried again");
                        said = words;
                    }
                    // However many publishes find the store gone, it is not asked more often than this.
                    tokio::time::sleep(first).await;
                    retry = (retry * 2).min(longest);
                    retry
                }
            };
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                () = self.0.replan.notified() => {}
                () = self.reconnected() => info!("the store is there again"),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns when the connection to the store was lost and is there again: what the server kept in memory only is
    /// gone then.
    async fn reconnected(&self) {
        let nats = self.0.lattice.nats();
        let mut lost = false;
        loop {
            let connected = nats.connection_state() == async_nats::connection::State::Connected;
            if connected && lost {
                return;
            }
            lost |= !connected;
            tokio::time::sleep(LOOK_AT_CONNECTION).await;
        }
    }

    /// Tells `keep` of changes that other instances make to the registry.
    pub(crate) async fn watch_registry(self) {
        let mut views = self.0.view.subscribe();
        loop {
            let store = views.borrow_and_update().store.clone();
            let changes = match &store {
                Some(store) => store.watch_registry().await.ok(),
                None => None,
            };
            if let Some(mut changes) = changes {
                while let Some(Ok(_)) = changes.next().await {
                    self.0.replan.notify_one();
                }
            }
            tokio::select! {
                () = self.0.stop.cancelled() => return,
                _ = views.changed() => {}
                () = tokio::time::sleep(RETRY.1) => {}
            }
        }
    }
}
