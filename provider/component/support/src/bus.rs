//! Calls to a bus in the contract's own types, each within a deadline; repeated while time is left and that can help
//! ([`fanout_attempts`]).

use std::time::Duration;

use fanout_attempts::{self as attempts, Attempts, PAUSES};
pub use fanout_attempts::{ATTEMPT, Refusal};

use crate::answer::Failure;
use crate::types::{Event, InboxError, Problem, PublishError, Receipt, SubscribeError};
use crate::wire::{self, Decode, Encode};

/// `publisher`, as a call names it.
pub const PUBLISHER: &str = "fanout:bus/publisher@0.2.0";
/// `subscriber`, as a call names it.
pub const SUBSCRIBER: &str = "fanout:bus/subscriber@0.2.0";
/// `inbox`, as a call names it.
pub const INBOX: &str = "fanout:bus/inbox@0.2.0";
/// `status`, as a call names it.
pub const STATUS: &str = "fanout:bus/status@0.2.0";

/// What calls need of the world: a way to the bus, and a clock.
pub trait World {
    /// Sends a call, and waits for its encoded result.
    ///
    /// # Errors
    /// Why there is none.
    fn send(&self, interface: &str, function: &str, params: &[u8], within: Duration) -> Result<Vec<u8>, Failure>;

    /// The time since some moment.
    fn now(&self) -> Duration;

    /// Waits.
    fn pause(&self, time: Duration);
}

/// A bus that is somewhere else.
#[derive(Clone, Debug)]
pub struct Bus<W> {
    world: W,
    deadline: Duration,
}

impl<W: World> Bus<W> {
    /// A bus; `deadline` is for a whole call with its repeats.
    pub fn new(world: W, deadline: Duration) -> Self {
        Self { world, deadline }
    }

    /// The way to it.
    pub fn world(&self) -> &W {
        &self.world
    }

    /// Calls a function of the contract that answers with a result.
    ///
    /// # Errors
    /// The bus's own, and what stands for what was met on the way.
    pub fn ask<T: Decode, E: Decode + Refusal + Clone + From<Failure>>(
        &self,
        interface: &str,
        function: &str,
        params: &impl Encode,
    ) -> Result<T, E> {
        let params = wire::encode(params);
        let asked = self.repeat(
            |within| match self.attempt::<Result<T, E>>(interface, function, &params, within) {
                Ok(answer) => answer.map_err(|refusal| (refusal, Again::AfterAPause)),
                Err(failure) => Err(missed(failure)),
            },
        );
        asked.map(|(answer, _)| answer)
    }

    /// The same for a function whose answer is no result: `status.links`.
    ///
    /// # Errors
    /// What was met on the way.
    pub fn read<T: Decode>(&self, interface: &str, function: &str) -> Result<T, Problem> {
        let read = self.repeat(|within| self.attempt::<T>(interface, function, &[], within).map_err(missed));
        read.map(|(answer, _)| answer)
    }

    /// Publishes many; one result for each.
    pub fn publish_many(&self, events: &[Event]) -> Vec<Result<Receipt, PublishError>> {
        let params = wire::encode(&(events,));
        let sent = self.repeat(|within| {
            let answers =
                self.attempt::<Vec<Result<Receipt, PublishError>>>(PUBLISHER, "publish-tenant-events", &params, within);
            answers.map_err(missed::<PublishError>)
        });
        let answers: Vec<Result<Receipt, PublishError>> = match sent {
            // Each event has its answer, and of each an attempt before may be known to nobody.
            Ok((answers, attempts)) => answers
                .into_iter()
                .map(|answer| answer.map_err(|refusal| attempts.whole(refusal)))
                .collect(),
            Err(unsent) => return events.iter().map(|_| Err(unsent.clone())).collect(),
        };
        if answers.len() != events.len() {
            let problem = malformed().problem;
            let unknown = || Err(PublishError::OutcomeUnknown(problem.clone()));
            return events.iter().map(|_| unknown()).collect();
        }
        answers
    }

    /// One attempt.
    ///
    /// # Errors
    /// What was met on the way.
    pub fn attempt<T: Decode>(
        &self,
        interface: &str,
        function: &str,
        params: &[u8],
        within: Duration,
    ) -> Result<T, Failure> {
        let result = self.world.send(interface, function, params, within)?;
        wire::decode(&result).map_err(|_| malformed())
    }

    /// The answer, and the attempts before it.
    fn repeat<T, E: Refusal + Clone>(
        &self,
        mut attempt: impl FnMut(Duration) -> Result<T, (E, Again)>,
    ) -> Result<(T, Attempts<E>), E> {
        let end = self.world.now() + self.deadline;
        let left = || end.saturating_sub(self.world.now());
        let mut attempts = Attempts::default();
        let mut pause = PAUSES.0;
        loop {
            let (refusal, again) = match attempt(attempts::within(left(), ATTEMPT)) {
                Ok(answer) => return Ok((answer, attempts)),
                Err(refused) => refused,
            };
            let wait = match again {
                Again::Never => None,
                Again::After(wait) => Some(wait),
                Again::AfterAPause => refusal.is_transient().then_some(pause),
            };
            pause = (pause * 2).min(PAUSES.1);
            self.world.pause(attempts.refused(refusal, wait, left())?);
        }
    }
}

/// Whether a call that was refused is tried again.
enum Again {
    Never,
    After(Duration),
    /// If the refusal is one that a retry can help against.
    AfterAPause,
}

/// What was met on the way.
fn missed<E: From<Failure>>(failure: Failure) -> (E, Again) {
    let again = match (failure.can_be_repeated, failure.retry_after) {
        (false, _) => Again::Never,
        (true, Some(wait)) => Again::After(wait),
        (true, None) => Again::AfterAPause,
    };
    (E::from(failure), again)
}

fn malformed() -> Failure {
    Failure::unknown(
        "protocol-violation",
        "its answer can't be read: is it a bus of this version?",
    )
    .for_good()
}

/// Of what is only read.
impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        failure.problem
    }
}

impl From<Failure> for PublishError {
    fn from(failure: Failure) -> Self {
        if !failure.may_have_run {
            return Self::Unavailable(failure.problem);
        }
        Self::OutcomeUnknown(Problem {
            code: "outcome-unknown".to_owned(),
            message: format!(
                "it may be stored; publish it again with the same id: {}",
                failure.problem.message
            ),
        })
    }
}

impl From<Failure> for SubscribeError {
    fn from(failure: Failure) -> Self {
        match failure.may_have_run {
            true => Self::OutcomeUnknown(failure.problem),
            false => Self::Unavailable(failure.problem),
        }
    }
}

/// A fetch is tried once: what it took from the log and did not bring waits for its lease.
impl From<Failure> for InboxError {
    fn from(failure: Failure) -> Self {
        Self::Unavailable(failure.problem)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::VecDeque;

    use super::*;
    use crate::types::{Position, RefusalForNow};

    /// A world whose time is what was waited for, and whose answers are given.
    struct Played {
        now: Cell<Duration>,
        answers: RefCell<VecDeque<Result<Vec<u8>, Failure>>>,
        sent: RefCell<Vec<Duration>>,
    }

    impl Played {
        fn bus(answers: impl IntoIterator<Item = Result<Vec<u8>, Failure>>) -> Bus<Self> {
            let world = Self {
                now: Cell::default(),
                answers: RefCell::new(answers.into_iter().collect()),
                sent: RefCell::default(),
            };
            Bus::new(world, Duration::from_secs(2))
        }
    }

    impl World for Played {
        fn send(&self, _: &str, _: &str, _: &[u8], within: Duration) -> Result<Vec<u8>, Failure> {
            self.sent.borrow_mut().push(within);
            let next = self.answers.borrow_mut().pop_front();
            next.unwrap_or_else(|| Err(Failure::not_started("peer-unreachable", "nothing listens")))
        }

        fn now(&self) -> Duration {
            self.now.get()
        }

        fn pause(&self, time: Duration) {
            self.now.set(self.now.get() + time);
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            position: Position {
                partition: 0,
                offset: 7,
            },
            duplicate: true,
            durable_subscriptions: 2,
        }
    }

    fn publish(bus: &Bus<Played>) -> Result<Receipt, PublishError> {
        bus.ask(PUBLISHER, "publish-tenant-event", &())
    }

    #[test]
    fn a_bus_that_is_away_is_tried_again_until_the_deadline() {
        let bus = Played::bus([
            Err(Failure::not_started("peer-unreachable", "nothing listens")),
            Ok(wire::encode(&Ok::<_, PublishError>(receipt()))),
        ]);
        assert_eq!(publish(&bus), Ok(receipt()));
        let gone = Played::bus([]);
        assert!(matches!(publish(&gone), Err(PublishError::Unavailable(_))));
        let sent = gone.world().sent.borrow();
        assert!((4..=8).contains(&sent.len()), "{sent:?}");
        assert!(gone.world().now() <= Duration::from_secs(2));
        assert!(
            sent.iter().all(|within| *within >= Duration::from_millis(100)),
            "{sent:?}"
        );
    }

    #[test]
    fn an_unknown_outcome_stays_unknown_until_an_answer_settles_it() {
        let lost = || Err(Failure::unknown("connection-lost", "it closed the connection"));
        assert!(matches!(
            publish(&Played::bus([lost()])),
            Err(PublishError::OutcomeUnknown(_))
        ));
        let settled = Played::bus([lost(), Ok(wire::encode(&Ok::<_, PublishError>(receipt())))]);
        assert_eq!(publish(&settled), Ok(receipt()));
    }

    fn event() -> Event {
        Event {
            tenant: "acme".to_owned(),
            event_type: "a".to_owned(),
            id: "1".to_owned(),
            source: String::new(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            ordering_key: None,
            data: Vec::new(),
        }
    }

    fn quota() -> PublishError {
        PublishError::QuotaExceeded(RefusalForNow {
            problem: Problem {
                code: "quota-exceeded".to_owned(),
                message: String::new(),
            },
            retry_after_ms: 1_000,
        })
    }

    #[test]
    fn a_refusal_does_not_say_that_nothing_is_stored() {
        let lost = || Err(Failure::unknown("connection-lost", "it closed the connection"));
        let refused = |refusal: PublishError| Ok(wire::encode(&Err::<Receipt, _>(refusal)));
        let after_a_loss = publish(&Played::bus([lost(), refused(quota())]));
        assert!(
            matches!(after_a_loss, Err(PublishError::OutcomeUnknown(_))),
            "{after_a_loss:?}"
        );
        assert_eq!(publish(&Played::bus([refused(quota())])), Err(quota()));
    }

    #[test]
    fn what_a_repeat_can_not_help_is_sent_once() {
        let refused = PublishError::NotPermitted(Problem {
            code: "tenant-not-permitted".to_owned(),
            message: String::new(),
        });
        let bus = Played::bus([Ok(wire::encode(&Err::<Receipt, _>(refused.clone())))]);
        assert_eq!(publish(&bus), Err(refused));
        assert_eq!(bus.world().sent.borrow().len(), 1);
        let malformed = Played::bus([Ok(vec![9])]);
        let Err(PublishError::OutcomeUnknown(problem)) = publish(&malformed) else {
            panic!("an answer that can't be read settles nothing");
        };
        assert!(problem.message.contains("can't be read"), "{problem:?}");
        assert_eq!(malformed.world().sent.borrow().len(), 1);
    }

    #[test]
    fn a_batch_has_an_answer_for_each_event() {
        let event = event();
        let one = vec![Ok::<_, PublishError>(receipt())];
        let bus = Played::bus([Ok(wire::encode(&one))]);
        let answers = bus.publish_many(&[event.clone(), event]);
        assert!(
            matches!(
                answers[..],
                [
                    Err(PublishError::OutcomeUnknown(_)),
                    Err(PublishError::OutcomeUnknown(_))
                ]
            ),
            "{answers:?}"
        );
    }
    #[test]
    fn each_event_of_a_batch_keeps_an_outcome_that_nobody_knows() {
        let lost = Err(Failure::unknown("connection-lost", "it closed the connection"));
        let bus = Played::bus([lost, Ok(wire::encode(&vec![Ok(receipt()), Err(quota())]))]);
        let answers = bus.publish_many(&[event(), event()]);
        assert!(
            matches!(answers[..], [Ok(_), Err(PublishError::OutcomeUnknown(_))]),
            "{answers:?}"
        );
    }
}
