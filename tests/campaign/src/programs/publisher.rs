//! A program that publishes: single events and many, together or not, again under the same id, for later, and cancelled.

use std::sync::Arc;
use std::time::Duration;

use fanout_campaign_checker::history::{Answer, Receipt, What};
use fanout_client::{Bus, Error, Event};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use tokio_util::sync::CancellationToken;

use super::{Teller, answer, dice, position, told};
use crate::recorder::Recorder;
use crate::rules::LIMITED;

/// Events that it remembers, to publish them again.
const REMEMBERED: usize = 200;
/// Before it sends again what it does not know the outcome of.
const AGAIN: Duration = Duration::from_millis(300);

pub(crate) struct Publisher {
    teller: Teller,
    bus: Bus,
    dice: StdRng,
    published: u64,
    /// How many it publishes; none for as many as it can.
    most: Option<u64>,
    earlier: Vec<Event>,
    scheduled: Vec<Event>,
}

impl Publisher {
    pub(crate) fn new(name: &str, bus: Bus, seed: u64, recorder: Arc<Recorder>, most: Option<u64>) -> Self {
        Self {
            teller: Teller {
                name: name.to_owned(),
                recorder,
            },
            bus,
            dice: dice(seed, name),
            published: 0,
            most,
            earlier: Vec::new(),
            scheduled: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() && self.most.is_none_or(|most| self.published < most) {
            match self.dice.random_range(0..100) {
                0..55 => {
                    let event = self.next();
                    self.publish(vec![event], false, &stop).await;
                }
                55..75 => {
                    let events = self.some(2..9);
                    self.publish(events, false, &stop).await;
                }
                75..85 => {
                    let events = self.some(2..6);
                    self.publish(events, true, &stop).await;
                }
                85..92 => {
                    let Some(event) = self.earlier.choose(&mut self.dice).cloned() else {
                        continue;
                    };
                    self.publish(vec![event], false, &stop).await;
                }
                92..97 => self.schedule().await,
                _ => self.cancel().await,
            }
            let pause = Duration::from_millis(self.dice.random_range(60..500));
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn next(&mut self) -> Event {
        let n = self.published;
        self.published += 1;
        let tenants = ["acme", "acme", "globex", "globex", LIMITED];
        let tenant = tenants.choose(&mut self.dice).copied().unwrap_or("acme");
        let event_type = if self.dice.random_bool(0.8) {
            "invoice.paid"
        } else {
            "invoice.voided"
        };
        let (id, key) = (format!("{}-{n}", self.teller.name), self.dice.random_range(0..8));
        let payload = format!("{{\"of\":\"{id}\"}}").repeat(self.dice.random_range(1..60));
        let event = Event::new(tenant, event_type, id).source(format!("/{}", self.teller.name));
        event.ordering_key(format!("k{key}")).data(payload)
    }

    fn some(&mut self, many: std::ops::Range<usize>) -> Vec<Event> {
        (0..self.dice.random_range(many)).map(|_| self.next()).collect()
    }

    /// Publishes events until each is accepted or refused: what may be stored is sent again as it was.
    async fn publish(&mut self, mut events: Vec<Event>, together: bool, stop: &CancellationToken) {
        while !events.is_empty() {
            let recorder = Arc::clone(&self.teller.recorder);
            let call = recorder.number();
            self.teller.tell(What::Publish {
                call,
                events: events.iter().map(told).collect(),
                together,
            });
            let answers = match (together, &events[..]) {
                (false, [event]) => vec![self.bus.publish(event).await],
                (false, _) => self.bus.publish_many(&events).await,
                (true, _) => all_or_none(self.bus.publish_together(&events).await, events.len()),
            };
            let again: Vec<_> = answers
                .iter()
                .map(|a| a.as_ref().is_err_and(Error::is_transient))
                .collect();
            let answers: Vec<_> = answers.into_iter().map(receipt).collect();
            let accepted = events
                .iter()
                .zip(&answers)
                .filter(|(_, a)| matches!(a, Answer::Done(_)));
            self.earlier.extend(accepted.map(|(event, _)| event.clone()));
            if self.earlier.len() > REMEMBERED {
                self.earlier.drain(..REMEMBERED / 2);
            }
            self.teller.tell(What::Published { call, answers });
            if stop.is_cancelled() || !again.contains(&true) {
                return;
            }
            if !together {
                let mut again = again.into_iter();
                events.retain(|_| again.next().unwrap_or(false));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn schedule(&mut self) {
        let event = self.next();
        let wait = u64::from(self.dice.random_range(1..8_u32)) * 1_000_000;
        let recorder = Arc::clone(&self.teller.recorder);
        let call = recorder.number();
        let (due, at) = (recorder.now() + wait, recorder.wall_in(wait));
        self.teller.tell(What::Schedule {
            call,
            event: told(&event),
            due,
        });
        let answer = match self.bus.publish_at(&event, at).await {
            Ok(_) => Answer::Done(()),
            Err(error) => answer(error),
        };
        self.teller.tell(What::Scheduled { call, answer });
        self.scheduled.push(event);
    }

    async fn cancel(&mut self) {
        if self.scheduled.is_empty() {
            return;
        }
        let event = self
            .scheduled
            .swap_remove(self.dice.random_range(0..self.scheduled.len()));
        let call = self.teller.recorder.number();
        self.teller.tell(What::Cancel {
            call,
            event: told(&event).id,
        });
        let answer = match self.bus.cancel_scheduled(&event.tenant, &event.source, &event.id).await {
            Ok(cancelled) => Answer::Done(cancelled),
            Err(error) => answer(error),
        };
        self.teller.tell(What::Cancelled { call, answer });
    }
}

/// One answer for each event of a call that stores all or none.
fn all_or_none(
    answer: Result<Vec<fanout_client::Receipt>, Error>,
    events: usize,
) -> Vec<Result<fanout_client::Receipt, Error>> {
    match answer {
        Ok(receipts) => receipts.into_iter().map(Ok).collect(),
        Err(Error { kind, code, message }) => (0..events)
            .map(|_| {
                Err(Error {
                    kind,
                    code: code.clone(),
                    message: message.clone(),
                })
            })
            .collect(),
    }
}

fn receipt(answered: Result<fanout_client::Receipt, Error>) -> Answer<Receipt> {
    match answered {
        Ok(receipt) => Answer::Done(Receipt {
            position: position(receipt.position),
            duplicate: receipt.duplicate,
        }),
        Err(error) => answer(error),
    }
}
