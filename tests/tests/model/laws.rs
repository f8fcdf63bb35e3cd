//! What must hold whatever goes wrong, as the subscriber and the publisher see it.

use std::collections::{BTreeMap, BTreeSet};

use fanout_tests::Verdict;
use fanout_tests::types::{Delivery, Event, Receipt, Rejection};

pub const MAX_ATTEMPTS: u32 = 3;

/// How strictly order is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A key goes back only when it is rewound.
    Strict,
    /// What was delivered may come again; what comes for the first time never lies before what did. An answer that a
    /// broken connection took is no answer.
    FirstDeliveries,
}

pub struct Laws {
    order: Order,
    /// How often each event still has to fail.
    pub failures_left: BTreeMap<String, u32>,
    /// While set, everything fails.
    pub broken: bool,
    /// Of everything that was published, accepted or not.
    payloads: BTreeMap<String, Vec<u8>>,
    receipts: BTreeMap<String, u64>,
    delivered: BTreeSet<String>,
    pub handled: BTreeSet<String>,
    /// Events that were refused for good at least once: redriven, they come behind later ones.
    dead: BTreeSet<String>,
    /// The furthest offset of each key, and how often it went back.
    furthest: BTreeMap<String, u64>,
    went_back: BTreeMap<String, u32>,
    pub rewinds: u32,
    pub wrong: Vec<String>,
}

impl Laws {
    pub fn new(order: Order) -> Self {
        Self {
            order,
            failures_left: BTreeMap::new(),
            broken: false,
            payloads: BTreeMap::new(),
            receipts: BTreeMap::new(),
            delivered: BTreeSet::new(),
            handled: BTreeSet::new(),
            dead: BTreeSet::new(),
            furthest: BTreeMap::new(),
            went_back: BTreeMap::new(),
            rewinds: 0,
            wrong: Vec::new(),
        }
    }

    /// It is about to be published.
    pub fn publishes(&mut self, event: &Event, failures: u32) {
        self.failures_left.insert(event.id.clone(), failures);
        self.payloads.insert(event.id.clone(), event.data.to_vec());
    }

    /// What one call was answered, in its order: its new events are behind each other in the log.
    pub fn accepted(&mut self, answered: &[(String, Receipt)]) {
        let mut last = 0;
        for (id, receipt) in answered {
            let offset = receipt.position.offset;
            if let Some(before) = self.receipts.insert(id.clone(), offset)
                && before != offset
            {
                self.wrong.push(format!("{id} has receipts for {before} and {offset}"));
            }
            if !receipt.duplicate {
                if offset <= last {
                    self.wrong.push(format!(
                        "{id} at {offset} is stored before {last}, and stands behind it in its call"
                    ));
                }
                last = offset;
            }
        }
    }

    /// The verdict on a delivery.
    pub fn judge(&mut self, d: &Delivery) -> Verdict {
        let id = d.event.id.clone();
        if self
            .payloads
            .get(&id)
            .is_none_or(|payload| payload[..] != d.event.data[..])
        {
            self.wrong
                .push(format!("{id} comes with a payload that is not its own"));
        }
        let is_first = self.delivered.insert(id.clone());
        let is_judged = match self.order {
            Order::Strict => !self.dead.contains(&id),
            Order::FirstDeliveries => is_first,
        };
        if is_judged {
            self.in_order(d);
        }
        let left = self.failures_left.entry(id.clone()).or_default();
        if self.broken || *left > 0 {
            *left = left.saturating_sub(1);
            if d.attempt >= MAX_ATTEMPTS {
                self.dead.insert(id);
            }
            return Verdict::Refuse(Rejection::Retry("the model says so".into()));
        }
        self.handled.insert(id);
        Verdict::Handle
    }

    fn in_order(&mut self, d: &Delivery) {
        let key = format!("{}/{}", d.event.tenant, d.event.ordering_key.as_deref().unwrap_or(""));
        let offset = d.position.offset;
        let furthest = self.furthest.entry(key.clone()).or_default();
        if offset < *furthest {
            let times = self.went_back.entry(key.clone()).or_default();
            *times += 1;
            let allowed = match self.order {
                Order::Strict => self.rewinds,
                Order::FirstDeliveries => 0,
            };
            if *times > allowed {
                let id = &d.event.id;
                self.wrong
                    .push(format!("key {key}: {id} at {offset} came after {furthest}"));
            }
        }
        *furthest = offset;
    }

    /// Every receipt's event is in the log once, at its position.
    pub fn holds(&self, log: &BTreeMap<String, Vec<u64>>) -> Vec<String> {
        let mut wrong = self.wrong.clone();
        for (id, offset) in &self.receipts {
            let found = log.get(id).map_or(&[][..], Vec::as_slice);
            if found != [*offset] {
                wrong.push(format!(
                    "{id} has a receipt for {offset} and is in the log at {found:?}"
                ));
            }
        }
        wrong
    }

    /// Accepted events that are neither handled nor among these dead letters.
    pub fn lost(&self, dead: &BTreeSet<String>) -> Vec<&str> {
        let accepted = self.receipts.keys();
        accepted
            .filter(|id| !self.handled.contains(*id) && !dead.contains(*id))
            .map(String::as_str)
            .collect()
    }

    /// Events that were accepted.
    pub fn accepted_ids(&self) -> BTreeSet<String> {
        self.receipts.keys().cloned().collect()
    }
}
