//! Publishers that go on until they are told to stop: webhooks posted to an ingress, events of a program.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
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

    /// Whether the event was stored. What is not known is a no: it is published again with the same id, which is the same event.
    async fn takes(&self, origin: Where, tenant: &str, id: &str) -> Result<bool> {
        match self {
            Self::Webhook(ingress) => {
                let (ingress, webhook) = (Arc::clone(ingress), stripe_webhook(SECRET, tenant, id, AMOUNT));
                let answer = tokio::task::spawn_blocking(move || ingress.http(&webhook)).await?;
                Ok(answer.is_some_and(|(status, _)| (200..300).contains(&status)))
            }
            Self::Client(buses) => {
                let event = Event::new(tenant, "invoice.paid", id).source(origin);
                let buses = buses.lock().await.clone();
                for bus in buses {
                    if let Ok(Ok(_)) = timeout(BRIEFLY, bus.publish(&event)).await {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Publishes one event after the other, each until it is stored, until told to stop.
    pub(crate) async fn publish(self, origin: Where, ledger: Arc<Ledger>, stop: CancellationToken) -> Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for (n, tenant) in TENANTS.into_iter().cycle().enumerate() {
            pace.tick().await;
            if stop.is_cancelled() {
                break;
            }
            let id = format!("{origin}-{n:05}");
            let deadline = Instant::now() + TAKEN_IN;
            while !self.takes(origin, tenant, &id).await? {
                if Instant::now() > deadline {
                    bail!("event {id} is taken by none for {} s", TAKEN_IN.as_secs());
                }
                sleep(AGAIN_AFTER).await;
            }
            ledger.note_accepted(id, origin);
        }
        Ok(())
    }
}
