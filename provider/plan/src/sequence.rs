//! Which event is delivered next when order matters: events of one key in the order of the log and one at a time, keys
//! beside each other, and every tenant in turn.
//!
//! A state machine over positions. It holds no payloads, makes no calls and reads no clock: `now` is whatever the caller
//! counts milliseconds by. Deliberately absent: where events come from, and how they are settled in the store.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy::Ordering;
use crate::{Attributes, Position, TenantId};

/// What an event is in line with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    tenant: TenantId,
    within: Within,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Within {
    /// With every event of its tenant.
    Tenant,
    /// With those of its tenant that have this ordering key.
    Key(Box<str>),
    /// With none.
    Alone(Position),
}

impl Lane {
    /// The lane of an event.
    pub fn of(ordering: Ordering, attributes: &Attributes, position: Position) -> Self {
        let within = match (ordering, &attributes.raw().ordering_key) {
            (Ordering::Tenant, _) => Within::Tenant,
            (Ordering::Key, Some(key)) => Within::Key(key.as_str().into()),
            (Ordering::Key, None) | (Ordering::None, _) => Within::Alone(position),
        };
        Self {
            tenant: attributes.tenant().clone(),
            within,
        }
    }

    /// The lane of all events of a tenant.
    pub fn of_tenant(tenant: TenantId) -> Self {
        Self {
            tenant,
            within: Within::Tenant,
        }
    }

    /// Whose events these are.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

/// What became of an event that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It waits for its turn.
    New,
    /// It was held already, and waits or is under way.
    Known,
}

/// The line in front of a subscriber.
#[derive(Debug, Default)]
pub struct Sequencer {
    lanes: BTreeMap<Lane, State>,
    /// Lanes whose first event can be delivered now, by tenant and by the place of that event.
    ready: BTreeMap<TenantId, BTreeSet<(Position, Lane)>>,
    /// Lanes that wait for a retry, by the moment at which it is due.
    resting: BTreeSet<(u64, Lane)>,
    /// The tenant that was served last.
    last: Option<TenantId>,
    held: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<Position>,
    running: Option<Position>,
    /// The first event may not be delivered before this moment.
    rests_until: Option<u64>,
}

impl Sequencer {
    /// Takes an event into the line.
    pub fn offer(&mut self, lane: &Lane, position: Position) -> Offered {
        let state = self.lanes.entry(lane.clone()).or_default();
        if state.running == Some(position) || state.waiting.contains(&position) {
            return Offered::Known;
        }
        Self::leave_ready(&mut self.ready, lane, state);
        state.waiting.insert(position);
        self.held += 1;
        Self::enter_ready(&mut self.ready, lane, state);
        Offered::New
    }

    /// The next event to deliver, which is then under way: of the next tenant in turn, the one that has waited longest.
    pub fn next(&mut self, now: u64) -> Option<(Lane, Position)> {
        self.wake(now);
        let after = self.last.clone();
        let tenant = after
            .and_then(|last| {
                let later = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
                self.ready.range::<TenantId, _>(later).next()
            })
            .or_else(|| self.ready.iter().next())
            .map(|(tenant, _)| tenant.clone())?;
        let (position, lane) = self.ready.get(&tenant)?.first().cloned()?;
        let state = self.lanes.get_mut(&lane)?;
        Self::leave_ready(&mut self.ready, &lane, state);
        state.waiting.remove(&position);
        state.running = Some(position);
        self.last = Some(tenant);
        Some((lane, position))
    }

    /// An event under way has left for good; the next of its lane can be delivered.
    pub fn settled(&mut self, lane: &Lane, position: Position) {
        self.end(lane, position, |_| {});
    }

    /// An event under way is delivered again, not before `at`; until then its lane, and no other, waits.
    pub fn again(&mut self, lane: &Lane, position: Position, at: u64) {
        let resting = self.end(lane, position, |state| {
            state.waiting.insert(position);
            state.rests_until = Some(at);
        });
        if resting {
            self.held += 1;
            self.resting.insert((at, lane.clone()));
        }
    }

    /// When the next lane's rest is over, if nothing else happens before.
    pub fn due(&self) -> Option<u64> {
        self.resting.first().map(|(at, _)| *at)
    }

    /// Whether something could be delivered at this moment.
    pub fn is_ready(&self, now: u64) -> bool {
        !self.ready.is_empty() || self.due().is_some_and(|at| at <= now)
    }

    /// Lanes whose first event waits for a retry.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Events that wait or are under way.
    pub fn held(&self) -> usize {
        self.held
    }

    fn end(&mut self, lane: &Lane, position: Position, put_back: impl FnOnce(&mut State)) -> bool {
        let Some(state) = self.lanes.get_mut(lane).filter(|s| s.running == Some(position)) else {
            return false;
        };
        state.running = None;
        self.held -= 1;
        put_back(state);
        if state.waiting.is_empty() {
            self.lanes.remove(lane);
        } else {
            Self::enter_ready(&mut self.ready, lane, state);
        }
        true
    }

    /// Lets lanes go on whose rest is over.
    fn wake(&mut self, now: u64) {
        while let Some((at, lane)) = self.resting.first().cloned() {
            if at > now {
                return;
            }
            self.resting.remove(&(at, lane.clone()));
            if let Some(state) = self.lanes.get_mut(&lane) {
                state.rests_until = None;
                Self::enter_ready(&mut self.ready, &lane, state);
            }
        }
    }

    fn enter_ready(ready: &mut BTreeMap<TenantId, BTreeSet<(Position, Lane)>>, lane: &Lane, state: &State) {
        if state.running.is_none()
            && state.rests_until.is_none()
            && let Some(first) = state.waiting.first()
        {
            let of_tenant = ready.entry(lane.tenant.clone()).or_default();
            of_tenant.insert((*first, lane.clone()));
        }
    }

    fn leave_ready(ready: &mut BTreeMap<TenantId, BTreeSet<(Position, Lane)>>, lane: &Lane, state: &State) {
        if let Some(first) = state.waiting.first()
            && let Some(of_tenant) = ready.get_mut(&lane.tenant)
        {
            of_tenant.remove(&(*first, lane.clone()));
            if of_tenant.is_empty() {
                ready.remove(&lane.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::RawEvent;

    fn lane(tenant: &str, key: Option<&str>) -> Lane {
        Lane {
            tenant: tenant.parse().unwrap(),
            within: key.map_or(Within::Tenant, |k| Within::Key(k.into())),
        }
    }

    fn at(offset: u64) -> Position {
        Position::undivided(offset)
    }

    #[test]
    fn an_event_is_in_line_with_its_tenant_its_key_or_none() {
        let event = |key: Option<&str>| {
            Attributes::try_from(RawEvent {
                tenant: "acme".into(),
                event_type: "a.b".into(),
                id: "1".into(),
                source: "/x".into(),
                ordering_key: key.map(Into::into),
                ..RawEvent::default()
            })
            .unwrap()
        };
        let of = |ordering, key, offset| Lane::of(ordering, &event(key), at(offset));
        assert_eq!(of(Ordering::Tenant, Some("k"), 1), of(Ordering::Tenant, None, 2));
        assert_eq!(of(Ordering::Key, Some("k"), 1), of(Ordering::Key, Some("k"), 2));
        assert_ne!(of(Ordering::Key, Some("k"), 1), of(Ordering::Key, Some("l"), 1));
        assert_ne!(of(Ordering::Key, None, 1), of(Ordering::Key, None, 2));
        assert_ne!(of(Ordering::None, Some("k"), 1), of(Ordering::None, Some("k"), 2));
    }

    #[test]
    fn a_lane_that_rests_holds_only_itself() {
        let (a, b) = (lane("acme", Some("a")), lane("acme", Some("b")));
        let mut line = Sequencer::default();
        for offset in [1, 3] {
            line.offer(&a, at(offset));
        }
        line.offer(&b, at(2));
        assert_eq!(line.next(0), Some((a.clone(), at(1))));
        assert_eq!(line.next(0), Some((b.clone(), at(2))));
        assert_eq!(line.next(0), None, "one at a time");
        line.again(&a, at(1), 50);
        line.settled(&b, at(2));
        line.offer(&b, at(4));
        assert_eq!(line.next(49), Some((b, at(4))));
        assert_eq!((line.next(49), line.due()), (None, Some(50)));
        assert_eq!(line.offer(&a, at(1)), Offered::Known);
        assert_eq!(line.next(50), Some((a.clone(), at(1))), "the failed one first");
        line.settled(&a, at(1));
        assert_eq!(line.next(50), Some((a, at(3))));
    }

    #[test]
    fn tenants_take_turns_however_much_one_has_waiting() {
        let mut line = Sequencer::default();
        for offset in 1..=1000 {
            line.offer(&lane("loud", Some(&offset.to_string())), at(offset));
        }
        line.offer(&lane("quiet", None), at(1001));
        line.offer(&lane("silent", None), at(1002));
        let served: Vec<_> = (0..4).filter_map(|_| line.next(0)).map(|(l, _)| l.tenant).collect();
        let names: Vec<_> = served.iter().map(TenantId::as_str).collect();
        assert_eq!(names, ["loud", "quiet", "silent", "loud"]);
    }

    #[derive(Clone, Debug)]
    enum Act {
        Offer(u8),
        Deliver,
        Settle(usize),
        Again(usize, u64),
        Redeliver(u8),
        Pass(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            3 => (0u8..9).prop_map(Act::Offer),
            3 => Just(Act::Deliver),
            2 => any::<usize>().prop_map(Act::Settle),
            1 => (any::<usize>(), 0u64..20).prop_map(|(i, d)| Act::Again(i, d)),
            1 => any::<u8>().prop_map(Act::Redeliver),
            1 => (0u64..10).prop_map(Act::Pass),
        ];
        proptest::collection::vec(act, 0..200)
    }

    proptest! {
        /// Whatever happens: one at a time and in order for each lane, nothing lost, nothing starved, nothing twice.
        #[test]
        fn order_holds_and_everything_is_delivered(acts in acts()) {
            let mut line = Sequencer::default();
            let mut now = 0;
            let mut offset = 0;
            let mut offered: Vec<(Lane, Position)> = Vec::new();
            let mut running: Vec<(Lane, Position)> = Vec::new();
            let mut settled: Vec<(Lane, Position)> = Vec::new();
            let start = |line: &mut Sequencer, now, running: &mut Vec<(Lane, Position)>, settled: &[(Lane, Position)]| {
                let Some((lane, position)) = line.next(now) else { return Ok(false) };
                prop_assert!(running.iter().all(|(l, _)| *l != lane), "one at a time");
                prop_assert!(settled.iter().all(|(l, p)| *l != lane || *p < position), "in order, and never again");
                running.push((lane, position));
                Ok(true)
            };
            for act in acts {
                match act {
                    Act::Offer(n) => {
                        offset += 1;
                        let lane = lane(["a", "b", "c"][n as usize % 3], [None, Some("x"), Some("y")][n as usize / 3]);
                        prop_assert_eq!(line.offer(&lane, at(offset)), Offered::New);
                        offered.push((lane, at(offset)));
                    }
                    Act::Redeliver(n) => {
                        if let Some((lane, p)) = offered.get(usize::from(n)).filter(|e| !settled.contains(e)) {
                            prop_assert_eq!(line.offer(lane, *p), Offered::Known);
                        }
                    }
                    Act::Deliver => { start(&mut line, now, &mut running, &settled)?; }
                    Act::Settle(i) if !running.is_empty() => {
                        let (lane, p) = running.remove(i % running.len());
                        line.settled(&lane, p);
                        settled.push((lane, p));
                    }
                    Act::Again(i, delay) if !running.is_empty() => {
                        let (lane, p) = running.remove(i % running.len());
                        line.again(&lane, p, now + delay);
                    }
                    Act::Settle(_) | Act::Again(..) => {}
                    Act::Pass(ms) => now += ms,
                }
                prop_assert_eq!(line.held(), offered.len() - settled.len());
            }
            now += 1_000;
            loop {
                while start(&mut line, now, &mut running, &settled)? {}
                let Some((lane, p)) = running.pop() else { break };
                line.settled(&lane, p);
                settled.push((lane, p));
            }
            prop_assert_eq!(settled.len(), offered.len());
            prop_assert!(line.held() == 0 && line.lanes.is_empty() && line.ready.is_empty() && line.resting.is_empty());
        }

        /// A tenant with one event waits for at most one delivery of each other tenant.
        #[test]
        fn nobody_waits_for_more_than_one_round(backlog in proptest::collection::vec(1u64..50, 1..6)) {
            let mut line = Sequencer::default();
            let mut offset = 0;
            for (tenant, count) in backlog.iter().enumerate() {
                for _ in 0..*count {
                    offset += 1;
                    line.offer(&lane(&format!("t{tenant}"), Some(&offset.to_string())), at(offset));
                }
            }
            line.next(0).unwrap();
            line.offer(&lane("quiet", None), at(offset + 1));
            let before = std::iter::from_fn(|| line.next(0)).take_while(|(l, _)| l.tenant.as_str() != "quiet").count();
            prop_assert!(before <= backlog.len(), "{before} deliveries came before it");
        }
    }
}
