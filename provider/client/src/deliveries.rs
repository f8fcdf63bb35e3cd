//! The deliveries of one subscription, as a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fanout_transport::CallContext;
use fanout_wit::types::FetchedDeliveries;
use futures::Stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::leases::Leases;
use crate::retry::Backoff;
use crate::upstream::Upstream;
use crate::{Delivery, Error, Subscription};

/// Less than this much of its wait, and an empty answer came early.
const EARLY: u32 = 4;

/// How a backfill stands that has given out all that the log held when it was made, and seen it settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    /// How many events that were.
    pub replayed: u64,
    /// It reached its end: the stream ends.
    pub finished: bool,
}

/// A stream of deliveries. It reconnects by itself and goes on where it was. It yields an error, and ends, only when
/// the bus refuses for good; it ends without one when a backfill has reached its end.
///
/// At most [`Subscription::prefetch`] deliveries are held at a time: those that the program does not settle leave no
/// place for others. Dropped, it gives back what the program has not taken; [`Deliveries::stop`] waits until the bus has
/// it.
#[derive(Debug)]
pub struct Deliveries {
    incoming: mpsc::Receiver<Result<Delivery, Error>>,
    caught_up: watch::Receiver<Option<CaughtUp>>,
    stop: CancellationToken,
    fetching: AbortOnDropHandle<()>,
    keeping: tokio::task::JoinHandle<()>,
}

impl Deliveries {
    pub(crate) fn start(upstream: Upstream, subscription: &Subscription) -> Self {
        let prefetch = subscription.prefetch as usize;
        // Room for every delivery, and for one error.
        let (outgoing, incoming) = mpsc::channel(prefetch + 1);
        let (tell_caught_up, caught_up) = watch::channel(None);
        let stop = CancellationToken::new();
        let (leases, keeping) = Leases::start(upstream.clone());
        let fetching = Fetching {
            upstream,
            leases,
            name: subscription.name.clone(),
            wait: subscription.wait,
            left: subscription.at_most.unwrap_or(u64::MAX),
            places: Arc::new(Semaphore::new(prefetch)),
            outgoing,
            caught_up: tell_caught_up,
            stop: stop.clone(),
        };
        Self {
            incoming,
            caught_up,
            stop,
            fetching: AbortOnDropHandle::new(tokio::spawn(fetching.run())),
            keeping,
        }
    }

    /// How a backfill stands, once it has caught up; `None` before, and for other needs.
    #[must_use]
    pub fn caught_up(&self) -> Option<CaughtUp> {
        *self.caught_up.borrow()
    }

    /// The next delivery, for programs that use no stream's methods.
    pub async fn recv(&mut self) -> Option<Result<Delivery, Error>> {
        Some(self.incoming.recv().await?.map(Delivery::taken))
    }

    /// Stops: fetches no more, gives back what was not taken, and waits until all that was taken is settled, at most
    /// `within`. Without it, what was fetched and not taken comes again only when its lease is over.
    pub async fn stop(mut self, within: Duration) {
        self.stop.cancel();
        let stopped = async {
            let mut given_back = Vec::new();
            // It ends when the fetching does, so nothing that it was just given is left behind.
            while let Some(next) = self.incoming.recv().await {
                if let Ok(delivery) = next {
                    given_back.push(delivery.release());
                }
            }
            futures::future::join_all(given_back).await;
            // It ends once nobody can settle any more: with the last delivery.
            (&mut self.keeping).await.ok();
        };
        if tokio::time::timeout(within, stopped).await.is_err() {
            debug!("deliveries that are not settled are delivered again when their lease ends");
        }
        drop(self.fetching);
    }
}

impl Stream for Deliveries {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx).map(|next| Some(next?.map(Delivery::taken)))
    }
}

/// What fetches.
struct Fetching {
    upstream: Upstream,
    leases: Leases,
    name: String,
    wait: Duration,
    /// How many more it takes.
    left: u64,
    places: Arc<Semaphore>,
    outgoing: mpsc::Sender<Result<Delivery, Error>>,
    caught_up: watch::Sender<Option<CaughtUp>>,
    stop: CancellationToken,
}

impl Fetching {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while self.left > 0 {
            let places = tokio::select! {
                () = self.stop.cancelled() => return,
                places = free(&self.places) => places,
            };
            let since = Instant::now();
            let wait = self.wait;
            let most = places
                .num_permits()
                .min(usize::try_from(self.left).unwrap_or(usize::MAX));
            // What a fetch that is given up has brought by then comes again when its lease is over.
            let fetched = tokio::select! {
                () = self.stop.cancelled() => return,
                fetched = self.fetch(most, wait) => fetched,
            };
            let pause = match fetched {
                Ok(fetched) => {
                    let count = fetched.deliveries.len();
                    self.left = self.left.saturating_sub(count as u64);
                    if self.take(fetched, places, since).await.is_break() {
                        return;
                    }
                    let early = count == 0 && since.elapsed() < wait / EARLY;
                    if !early {
                        backoff.reset();
                    }
                    early.then(|| backoff.next())
                }
                Err(error) if error.is_transient() => {
                    debug!(subscription = self.name, %error, "fetching failed; it is tried again");
                    Some(backoff.next())
                }
                Err(error) => {
                    // Nobody may be there to hear it any more.
                    drop(self.outgoing.send(Err(error)).await);
                    return;
                }
            };
            if let Some(pause) = pause {
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    async fn fetch(&self, most: usize, wait: Duration) -> Result<FetchedDeliveries, Error> {
        let (cx, most) = (CallContext::default(), u32::try_from(most).unwrap_or(u32::MAX));
        Ok(self.upstream.fetch_for(&cx, &self.name, most, None, wait).await?)
    }

    /// Hands on the deliveries of a fetch that began at `since`.
    async fn take(
        &self,
        fetched: FetchedDeliveries,
        mut places: OwnedSemaphorePermit,
        since: Instant,
    ) -> std::ops::ControlFlow<()> {
        let time = Duration::from_millis(fetched.lease_ms);
        for leased in fetched.deliveries {
            let id = self.leases.take(leased.token, time, since);
            let Some(place) = places.split(1) else { break };
            let delivery = Delivery::new(leased.delivery, leased.traceparent, id, self.leases.clone(), place);
            if self.outgoing.send(Ok(delivery)).await.is_err() {
                return std::ops::ControlFlow::Break(());
            }
        }
        if let Some(c) = fetched.caught_up {
            let told = CaughtUp {
                replayed: c.replayed,
                finished: c.finished,
            };
            self.caught_up.send_replace(Some(told));
            if c.finished {
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    }
}

/// At least one free place, and all others that are free now.
async fn free(places: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    // The semaphore is never closed.
    let Ok(mut permits) = Arc::clone(places).acquire_owned().await else {
        return std::future::pending().await;
    };
    let more = u32::try_from(places.available_permits()).unwrap_or(u32::MAX);
    if more > 0
        && let Ok(others) = Arc::clone(places).try_acquire_many_owned(more)
    {
        permits.merge(others);
    }
    permits
}
