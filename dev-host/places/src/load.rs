//! Publishers that go on until they are told to stop: webhooks posted to an ingress, events of a program.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fanout_client::{Bus, Event};
use fanout_tests::hosted::{Hosted, stripe_webhook};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::ledger::{Ledger, Where};
use crate::place::SECRET;

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const AMOUNT: i64 = 1_900;

/// A publisher takes no more than one event in this time: the demo is about what is cut, not about load.
const PACE: Duration = Duration::from_millis(100);
/// An event that nobody takes for so long ends the demo.
const TAKEN_IN: Duration = Duration::from_secs(60);
/// Between two attempts.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A bus that does not answer so soon is passed over for another.
const BRIEFLY: Duration = Duration::from_millis(500);

/// The code with which a place that is retired refuses an event: it has not taken it.
const RETIRED: &str = "place-retired";

/// What came of sending an event once.
enum Answer {
    Stored,
    /// It is not stored, and will not be.
    Retired,
    /// It may be stored or not.
    Unknown,
}

/// Where a publisher publishes: at the first of these places, until that one is retired.
#[derive(Clone)]
pub(crate) struct Route(Arc<Mutex<VecDeque<(Where, Sender)>>>);

/// How an event is published.
#[derive(Clone)]
pub(crate) enum Sender {
    /// As a signed webhook, posted until it is answered that it is stored.
    Webhook(Arc<Hosted>),
    /// By the client, at the first of these buses that takes it.
    Client(Arc<Mutex<Vec<Bus>>>),
}

impl Sender {
    /// By the client, at one bus.
    pub(crate) fn client(bus: Bus) -> Self {
        Self::Client(Arc::new(Mutex::new(vec![bus])))
    }

    /// Sends an event once.
    async fn send(&self, source: Where, tenant: &str, id: &str) -> Result<Answer> {
        match self {
            Self::Webhook(ingress) => {
                let (ingress, webhook) = (Arc::clone(ingress), stripe_webhook(SECRET, tenant, id, AMOUNT));
                let answer = tokio::task::spawn_blocking(move || ingress.http(&webhook)).await?;
                Ok(match answer {
                    Some((200..300, _)) => Answer::Stored,
                    Some((_, said)) if said.contains(RETIRED) => Answer::Retired,
                    _ => Answer::Unknown,
                })
            }
            Self::Client(buses) => {
                let event = Event::new(tenant, "invoice.paid", id).source(source);
                let buses = buses.lock().await.clone();
                for bus in buses {
                    if let Ok(Ok(_)) = timeout(BRIEFLY, bus.publish(&event)).await {
                        return Ok(Answer::Stored);
                    }
                }
                Ok(Answer::Unknown)
            }
        }
    }
}

/// Who publishes one event after the other, each until it is stored.
pub(crate) struct Publisher {
    /// What its events are named for.
    pub(crate) name: Where,
    pub(crate) route: Route,
    pub(crate) ledger: Arc<Ledger>,
}

impl Publisher {
    /// Publishes until told to stop.
    pub(crate) async fn publish(self, stop: CancellationToken) -> Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for (n, tenant) in TENANTS.into_iter().cycle().enumerate() {
            pace.tick().await;
            if stop.is_cancelled() {
                break;
            }
            self.publish_one(tenant, format!("{}-{n:05}", self.name)).await?;
        }
        Ok(())
    }

    /// Publishes one event. What is not known is a no: it is sent again with the same id to the same place, where it is the same event.
    /// To another place it goes only if this one has not taken it for sure.
    async fn publish_one(&self, tenant: &str, id: String) -> Result<()> {
        let deadline = Instant::now() + TAKEN_IN;
        let mut is_sure = true;
        loop {
            let (place, sender) = self.route.first().await.context("there is nowhere to publish")?;
            match sender.send(self.name, tenant, &id).await? {
                Answer::Stored => {
                    self.ledger.note_accepted(id, place);
                    return Ok(());
                }
                Answer::Retired => {
                    self.ledger.note_turned_away(place);
                    self.route.leave(place).await;
                    if !is_sure {
                        self.ledger.note_unsure(id, place);
                        return Ok(());
                    }
                }
                Answer::Unknown => {
                    is_sure = false;
                    sleep(AGAIN_AFTER).await;
                }
            }
            if Instant::now() > deadline {
                bail!("event {id} is taken by none for {} s", TAKEN_IN.as_secs());
            }
        }
    }
}

impl Route {
    /// Publishing at one place.
    pub(crate) fn to(place: Where, sender: Sender) -> Self {
        Self(Arc::new(Mutex::new(VecDeque::from([(place, sender)]))))
    }

    /// Another place, for when the others are retired.
    pub(crate) async fn then_to(&self, place: Where, sender: Sender) {
        self.0.lock().await.push_back((place, sender));
    }

    async fn first(&self) -> Option<(Where, Sender)> {
        self.0.lock().await.front().cloned()
    }

    /// Publishes there no more, if there is another place to publish at.
    async fn leave(&self, place: Where) {
        let mut places = self.0.lock().await;
        if places.len() > 1 && places.front().is_some_and(|(first, _)| *first == place) {
            places.pop_front();
        }
    }
}
