//! Histories written by hand.

use std::collections::BTreeMap;

use crate::history::{
    Answer, Durability, Event, EventId, Line, Micros, Need, Ordering, Policy, Position, Receipt, Status, Subscription,
    Verdict, What,
};
use crate::{Facts, History};

/// How long the same id is one event.
pub(crate) const WINDOW: Micros = 3_600_000_000;
/// The bound of recoveries.
pub(crate) const RECOVERY: Micros = 5_000_000;
/// Events a second of `acme`.
pub(crate) const RATE: u64 = 10;

/// What breaks a law in a history.
pub(crate) fn broken(law: fn(&Facts<'_>) -> Vec<String>, told: &Told) -> Vec<String> {
    let history = told.0.clone();
    law(&Facts::of(&history))
}

/// An event from `/p`, whose key is `k`.
pub(crate) fn event(tenant: &str, id: &str) -> Event {
    Event {
        id: EventId {
            tenant: tenant.into(),
            source: "/p".into(),
            id: id.into(),
        },
        event_type: "invoice.paid".into(),
        key: Some("k".into()),
        digest: id.bytes().map(u32::from).sum(),
    }
}

/// A history, as it is told: each line a microsecond after the last.
pub(crate) struct Told(History, u64);

impl Told {
    /// A bus with an order by keys.
    pub(crate) fn new() -> Self {
        let mut told = Self(History::default(), 0);
        told.line(What::Policy(Policy {
            durability: Durability::Acknowledged,
            ordering: Ordering::Key,
            max_attempts: 3,
            dedupe: WINDOW,
            quotas: BTreeMap::from([("acme".to_owned(), RATE)]),
            recovery: RECOVERY,
        }));
        told
    }

    /// The same with a durable subscription `billing` to `acme`'s events.
    pub(crate) fn durable() -> Self {
        let mut told = Self::new();
        told.subscribed("billing", Need::Durable);
        told
    }

    fn policy(&mut self) -> &mut Policy {
        match &mut self.0.0[0].what {
            What::Policy(policy) => policy,
            what => panic!("the first line is no policy: {what:?}"),
        }
    }

    pub(crate) fn on_disk(&mut self) {
        self.policy().durability = Durability::OnDisk;
    }

    pub(crate) fn without_order(&mut self) {
        self.policy().ordering = Ordering::None;
    }

    /// Another policy, and whether every instance goes by it.
    pub(crate) fn ordering(&mut self, ordering: Ordering, is_in_force: bool) {
        let mut policy = self.policy().clone();
        policy.ordering = ordering;
        self.line(What::Policy(policy));
        if is_in_force {
            self.line(What::InForce);
        }
    }

    /// The moment of the last line.
    pub(crate) fn now(&self) -> Micros {
        self.1
    }

    pub(crate) fn pass(&mut self, time: Micros) {
        self.1 += time;
    }

    pub(crate) fn line(&mut self, what: What) {
        self.1 += 1;
        self.0.0.push(Line {
            at: self.1,
            by: "p".into(),
            what,
        });
    }

    fn number(&self) -> u64 {
        self.0.0.len() as u64
    }

    pub(crate) fn subscribed(&mut self, name: &str, need: Need) {
        self.subscribed_to(name, need, &["acme"]);
    }

    pub(crate) fn subscribed_to(&mut self, name: &str, need: Need, tenants: &[&str]) {
        self.line(What::Subscribe(Subscription {
            subscription: name.into(),
            caller: name.into(),
            need,
            tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
            event_types: Vec::new(),
            fetched: true,
        }));
        self.line(What::Subscribed {
            subscription: name.into(),
        });
    }

    pub(crate) fn unsubscribed(&mut self, name: &str) {
        let (subscription, again) = (name.to_owned(), name.to_owned());
        self.line(What::Unsubscribe { subscription });
        self.line(What::Unsubscribed { subscription: again });
    }

    /// A call and its answer, if there is one.
    pub(crate) fn publish_event(&mut self, event: &Event, answer: Option<Answer<Receipt>>) {
        let call = self.number();
        self.line(What::Publish {
            call,
            events: vec![event.clone()],
            together: false,
        });
        if let Some(answer) = answer {
            self.line(What::Published {
                call,
                answers: vec![answer],
            });
        }
    }

    pub(crate) fn publish(&mut self, id: &str, answer: Option<Answer<Receipt>>) {
        self.publish_event(&event("acme", id), answer);
    }

    pub(crate) fn published_at(&mut self, id: &str, position: Position) {
        self.publish(
            id,
            Some(Answer::Done(Receipt {
                position,
                duplicate: false,
            })),
        );
    }

    pub(crate) fn published(&mut self, id: &str, offset: u64) {
        self.published_at(id, Position(0, offset));
    }

    pub(crate) fn published_again(&mut self, id: &str, offset: u64) {
        let position = Position(0, offset);
        let duplicate = true;
        self.publish(id, Some(Answer::Done(Receipt { position, duplicate })));
    }

    pub(crate) fn published_of(&mut self, source: &str, id: &str, offset: u64) {
        let mut event = event("acme", id);
        event.id.source = source.into();
        let position = Position(0, offset);
        self.publish_event(
            &event,
            Some(Answer::Done(Receipt {
                position,
                duplicate: false,
            })),
        );
    }

    /// Two calls at the same time.
    pub(crate) fn published_beside(&mut self, ids: [&str; 2], positions: [Position; 2]) {
        let call = self.number();
        for (i, id) in ids.iter().enumerate() {
            self.line(What::Publish {
                call: call + i as u64,
                events: vec![event("acme", id)],
                together: false,
            });
        }
        for (i, position) in positions.into_iter().enumerate() {
            let answers = vec![Answer::Done(Receipt {
                position,
                duplicate: false,
            })];
            self.line(What::Published {
                call: call + i as u64,
                answers,
            });
        }
    }

    pub(crate) fn schedule(&mut self, id: &str, due: Micros, answer: Option<Answer<()>>) {
        let call = self.number();
        self.line(What::Schedule {
            call,
            event: event("acme", id),
            due,
        });
        if let Some(answer) = answer {
            self.line(What::Scheduled { call, answer });
        }
    }

    pub(crate) fn cancel(&mut self, id: &str, answer: Option<Answer<bool>>) {
        let call = self.number();
        self.line(What::Cancel {
            call,
            event: event("acme", id).id,
        });
        if let Some(answer) = answer {
            self.line(What::Cancelled { call, answer });
        }
    }

    fn deliver(&mut self, to: (&str, &str), event: &Event, position: Position, verdict: Option<Verdict>) -> u64 {
        self.deliver_attempt(to, event, position, 1, verdict)
    }

    fn deliver_attempt(
        &mut self,
        to: (&str, &str),
        event: &Event,
        position: Position,
        attempt: u32,
        verdict: Option<Verdict>,
    ) -> u64 {
        let delivery = self.number();
        self.line(What::Delivered {
            delivery,
            subscription: to.0.into(),
            caller: to.1.into(),
            event: event.clone(),
            position,
            attempt,
        });
        if let Some(verdict) = verdict {
            self.line(What::Settle { delivery, verdict });
        }
        delivery
    }

    pub(crate) fn delivered(&mut self, to: &str, id: &str, offset: u64, verdict: Option<Verdict>) -> u64 {
        self.deliver((to, to), &event("acme", id), Position(0, offset), verdict)
    }

    pub(crate) fn delivered_at(&mut self, to: &str, id: &str, position: Position) {
        self.deliver((to, to), &event("acme", id), position, None);
    }

    pub(crate) fn delivered_as_attempt(&mut self, to: &str, id: &str, offset: u64, attempt: u32) {
        self.deliver_attempt((to, to), &event("acme", id), Position(0, offset), attempt, None);
    }

    pub(crate) fn delivered_of_key(&mut self, to: &str, id: &str, offset: u64, key: &str) {
        let event = Event {
            key: Some(key.into()),
            ..event("acme", id)
        };
        self.deliver((to, to), &event, Position(0, offset), None);
    }

    pub(crate) fn delivered_event(&mut self, to: &str, caller: &str, event: &Event) {
        self.deliver((to, caller), event, Position(0, 1), None);
    }

    pub(crate) fn settled(&mut self, delivery: u64, answer: Answer<()>) {
        self.line(What::Settled { delivery, answer });
    }

    pub(crate) fn rewind(&mut self, subscription: &str) {
        let (subscription, name, on) = (subscription.to_owned(), "rewind".to_owned(), subscription.to_owned());
        self.line(What::Rewind { subscription });
        self.line(What::Operation { name, on, done: true });
    }

    pub(crate) fn stored(&mut self, id: &str, offset: u64) {
        let stored = self.1;
        self.line(What::Stored {
            event: event("acme", id),
            position: Position(0, offset),
            stored,
        });
    }

    pub(crate) fn letter(&mut self, of: &str, id: &str, offset: u64, reasons: &[&str]) {
        self.line(What::Letter {
            subscription: of.into(),
            event: event("acme", id),
            position: Position(0, offset),
            attempts: u32::try_from(reasons.len()).unwrap(),
            reasons: reasons.iter().map(|r| (*r).to_owned()).collect(),
        });
    }

    pub(crate) fn gap(&mut self, of: &str, first: u64, last: u64, count: u64) {
        self.line(What::Gap {
            subscription: of.into(),
            partition: 0,
            first,
            last,
            count,
            exact: true,
        });
    }

    /// A status that is asked for now and answered a microsecond later.
    pub(crate) fn status(&mut self, of: &str, pending: u64) {
        let asked = self.1;
        let (subscription, in_flight, waiting, dead_letters, lost) = (of.to_owned(), 0, 0, 0, 0);
        self.line(What::Status(Status {
            asked,
            subscription,
            pending,
            in_flight,
            waiting,
            dead_letters,
            lost,
        }));
    }

    pub(crate) fn fault(&mut self, fault: u64, kind: &str) {
        self.line(What::Fault {
            fault,
            kind: kind.into(),
            on: "s1".into(),
            redelivers: false,
            unsynced_since: None,
        });
    }

    /// A server is killed and back.
    pub(crate) fn forgetful_fault(&mut self, fault: u64) {
        self.line(What::Fault {
            fault,
            kind: "kill-server".into(),
            on: "s1".into(),
            redelivers: true,
            unsynced_since: None,
        });
        self.line(What::Healed { fault });
    }

    /// Power fails on most of the copies, and takes what was not synced since then.
    pub(crate) fn power_loss(&mut self, since: Micros) {
        let fault = self.number();
        let unsynced_since = Some(since);
        self.line(What::Fault {
            fault,
            kind: "power-loss".into(),
            on: "all".into(),
            redelivers: true,
            unsynced_since,
        });
        self.line(What::Healed { fault });
    }
}
