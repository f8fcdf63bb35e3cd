//! Programs that are given events: by fetching, and as the handler of a component behind an edge.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use fanout_campaign_checker::history::{Answer, Need, Subscription, Verdict, What};
use fanout_client::{Bus, Deliveries, Delivery, Start};
use fanout_tests::Component;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::guest::GUEST;
use super::{Teller, answer, digest, position, told};
use crate::recorder::Recorder;
use crate::world::{START_WITHIN, World, until};

/// Deliveries at a time.
const PREFETCH: u32 = 16;
/// Before it asks again for a subscription that it was told is not there.
const AGAIN: Duration = Duration::from_millis(300);
/// How long what it holds may take to be settled at the end.
const STOP: Duration = Duration::from_secs(10);

/// What one caller wants, by fetching.
#[derive(Clone)]
pub(crate) struct Subscriber {
    /// In the history.
    name: String,
    /// At the bus.
    under: String,
    caller: String,
    need: Need,
    seed: u64,
    recorder: Arc<Recorder>,
    /// What it has given back untried: an event once, since that counts as no attempt.
    released: Arc<Mutex<BTreeSet<String>>>,
}

impl Subscriber {
    pub(crate) fn new(name: &str, caller: &str, need: Need, seed: u64, recorder: Arc<Recorder>) -> Self {
        Self {
            name: name.to_owned(),
            under: name.to_owned(),
            caller: caller.to_owned(),
            need,
            seed,
            recorder,
            released: Arc::default(),
        }
    }

    /// The bus knows it under another name than the history.
    pub(crate) fn under(mut self, name: &str) -> Self {
        name.clone_into(&mut self.under);
        self
    }

    fn wanted(&self) -> fanout_client::Subscription {
        let wanted = match self.need {
            Need::Queue => fanout_client::Subscription::queue(&self.under),
            Need::Durable => fanout_client::Subscription::durable(&self.under),
            Need::Backfill => fanout_client::Subscription::backfill(&self.under, Start::First),
        };
        wanted.tenants(self.tenants()).prefetch(PREFETCH)
    }

    fn tenants(&self) -> Vec<String> {
        match self.caller.as_str() {
            "billing" => vec!["acme".to_owned(), "globex".to_owned()],
            _ => Vec::new(),
        }
    }

    /// Makes the subscription. The same twice is one.
    pub(crate) async fn subscribe(&self, bus: &Bus) -> Result<Deliveries> {
        self.recorder.tell(
            &self.caller,
            What::Subscribe(Subscription {
                subscription: self.name.clone(),
                caller: self.caller.clone(),
                need: self.need,
                tenants: self.tenants(),
                event_types: Vec::new(),
                fetched: true,
            }),
        );
        let made = bus
            .subscribe(self.wanted())
            .await
            .with_context(|| format!("{} subscribes", self.caller))?;
        self.recorder.tell(
            &self.caller,
            What::Subscribed {
                subscription: self.name.clone(),
            },
        );
        Ok(made)
    }

    /// Takes and settles deliveries until it is told to stop.
    pub(crate) async fn run(self, bus: Bus, first: Deliveries, name: String, stop: CancellationToken) {
        let teller = Teller {
            name,
            recorder: Arc::clone(&self.recorder),
        };
        let mut first = Some(first);
        while !stop.is_cancelled() {
            let made = match first.take() {
                Some(first) => Ok(first),
                None => self.subscribe(&bus).await,
            };
            let Ok(mut deliveries) = made else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let mut settling = JoinSet::new();
            loop {
                let next = tokio::select! {
                    () = stop.cancelled() => break,
                    next = deliveries.recv() => next,
                };
                match next {
                    Some(Ok(delivery)) => drop(settling.spawn(self.clone().handle(teller.clone(), delivery))),
                    // Refused for good, or ended: what there is of it is found by asking again.
                    Some(Err(_)) | None => break,
                }
                while settling.try_join_next().is_some() {}
            }
            while settling.join_next().await.is_some() {}
            deliveries.stop(STOP).await;
            if !stop.is_cancelled() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    async fn handle(self, teller: Teller, delivered: Delivery) {
        let event = delivered.event().clone();
        let delivery = teller.delivered(
            &self.name,
            &self.caller,
            &event,
            position(delivered.position()),
            delivered.attempt(),
        );
        let dice = digest(format!("{}{}{}", self.seed, event.source, event.id).as_bytes());
        tokio::time::sleep(Duration::from_millis(u64::from(dice >> 8) % 20)).await;
        let verdict = self.verdict(dice, delivered.attempt(), &format!("{}{}", event.source, event.id));
        teller.tell(What::Settle {
            delivery,
            verdict: verdict.clone(),
        });
        let settled = match verdict {
            Verdict::Ack => delivered.ack().await,
            Verdict::Retry(reason) => delivered.retry(reason).await,
            Verdict::DeadLetter(reason) => delivered.dead_letter(reason).await,
            Verdict::Release => delivered.release().await,
        };
        let answer = settled.map_or_else(answer, Answer::Done);
        teller.tell(What::Settled { delivery, answer });
    }

    /// An event decides how it fares, so that it fares the same wherever it is delivered: of those of `billing` one in ten is
    /// refused once or twice, and one in fifty for as long as it comes. A guest refuses one in eight once, so that it leaves
    /// some behind that wait.
    fn verdict(&self, dice: u32, attempt: u32, id: &str) -> Verdict {
        match self.under.as_str() {
            "billing" => {}
            GUEST if attempt == 1 && dice.is_multiple_of(8) => {
                return Verdict::Retry("a guest refuses it once".to_owned());
            }
            _ => return Verdict::Ack,
        }
        match dice % 100 {
            0 => Verdict::DeadLetter(format!("{} will have none of it", self.name)),
            1 => Verdict::Retry(format!("attempt {attempt} is refused for ever")),
            2..12 if attempt <= 1 + dice % 2 => Verdict::Retry(format!("attempt {attempt} is refused")),
            12 => {
                let mut released = self.released.lock().unwrap_or_else(PoisonError::into_inner);
                match released.insert(id.to_owned()) {
                    true => Verdict::Release,
                    false => Verdict::Ack,
                }
            }
            _ => Verdict::Ack,
        }
    }
}

/// A component behind the edge, which is called with its events.
pub(crate) struct Handler {
    /// Served for as long as it is here.
    _component: Component,
}

impl Handler {
    pub(crate) async fn start(world: &World) -> Result<Self> {
        let teller = Teller {
            name: "invoicing".to_owned(),
            recorder: Arc::clone(&world.recorder),
        };
        teller.tell(What::Subscribe(Subscription {
            subscription: "handled".to_owned(),
            caller: "invoicing".to_owned(),
            need: Need::Durable,
            tenants: Vec::new(),
            event_types: Vec::new(),
            fetched: false,
        }));
        let component = world.edge.component("invoicing").await;
        let handler = teller.clone();
        component.judge(move |delivered| {
            let event: fanout_client::Event = delivered.event.clone().into();
            let at =
                fanout_campaign_checker::history::Position(delivered.position.partition, delivered.position.offset);
            let delivery = handler.delivered("handled", "invoicing", &event, at, delivered.attempt);
            handler.tell(What::Settle {
                delivery,
                verdict: Verdict::Ack,
            });
            fanout_tests::Verdict::Handle
        });
        let js = async_nats::jetstream::new(world.admin.clone());
        until("the component's subscription is made", START_WITHIN, async || {
            let Ok(log) = js.get_stream_no_info(crate::world::LOG).await else {
                return false;
            };
            fanout_tests::stored::consumer_name(&log, "handled").await.is_some()
        })
        .await?;
        teller.tell(What::Subscribed {
            subscription: "handled".to_owned(),
        });
        Ok(Self { _component: component })
    }
}

impl Teller {
    fn delivered(
        &self,
        subscription: &str,
        caller: &str,
        event: &fanout_client::Event,
        position: fanout_campaign_checker::history::Position,
        attempt: u32,
    ) -> u64 {
        let mut number = 0;
        self.recorder.tell_numbered(&self.name, |delivery| {
            number = delivery;
            What::Delivered {
                delivery,
                subscription: subscription.to_owned(),
                caller: caller.to_owned(),
                event: told(event),
                position,
                attempt,
            }
        });
        number
    }
}
