//! Calls to a bus in the contract's own types, each within a deadline; repeated while time is left and that can help.
//!
//! The rules are those of `fanout-client`: every function of the contract is idempotent; where an attempt had an unknown outcome
//! and none after it settled that, the outcome of the whole is unknown. A refusal that depends on the moment, such as a quota,
//! settles nothing: what was asked may have been done before.

use std::time::Duration;

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

/// One attempt.
pub const ATTEMPT: Duration = Duration::from_secs(3);
/// The first wait between attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// An attempt that has less time ends with an unknown outcome, though nothing is wrong with the bus.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

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

/// An error of the contract, as far as a repeat depends on it.
pub trait Refusal: From<Failure> {
    /// A retry can help.
    fn is_transient(&self) -> bool;

    /// It may have been done.
    fn is_unknown(&self) -> bool;

    /// It depends on the moment, not on what was asked alone: of an attempt before it, it says nothing.
    fn is_of_the_moment(&self) -> bool;
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
    pub fn ask<T: Decode, E: Decode + Refusal>(
        &self,
        interface: &str,
        function: &str,
        params: &impl Encode,
    ) -> Result<T, E> {
        let params = wire::encode(params);
        self.repeat(
            |within| match self.attempt::<Result<T, E>>(interface, function, &params, within) {
                Ok(answer) => answer.map_err(|refusal| (refusal, true, None)),
                Err(failure) => {
                    let (can_help, wait) = (failure.can_be_repeated, failure.retry_after);
                    Err((E::from(failure), can_help, wait))
                }
            },
        )
    }

    /// The same for a function whose answer is no result: `status.links`.
    ///
    /// # Errors
    /// What was met on the way.
    pub fn read<T: Decode>(&self, interface: &str, function: &str) -> Result<T, Problem> {
        let read = self.repeat(|within| {
            self.attempt::<T>(interface, function, &[], within).map_err(|failure| {
                let (can_help, wait) = (failure.can_be_repeated, failure.retry_after);
                (Unread(failure.problem), can_help, wait)
            })
        });
        read.map_err(|Unread(problem)| problem)
    }

    /// Publishes many; one result for each.
    pub fn publish_many(&self, events: &[Event]) -> Vec<Result<Receipt, PublishError>> {
        let params = wire::encode(&(events,));
        let mut unknown = None;
        let sent = self.repeat(|within| {
            let answers: Result<Vec<Result<Receipt, PublishError>>, Failure> =
                self.attempt(PUBLISHER, "publish-tenant-events", &params, within);
            answers.map_err(|failure| {
                let (can_help, wait) = (failure.can_be_repeated, failure.retry_after);
                let refusal = PublishError::from(failure);
                if refusal.is_unknown() {
                    unknown = Some(refusal.clone());
                }
                (refusal, can_help, wait)
            })
        });
        // Each event has its answer, and of each an attempt before may be known to nobody.
        let settled = |answer: Result<Receipt, PublishError>| {
            answer.map_err(|refusal| {
                let says_nothing = refusal.is_of_the_moment();
                unknown.clone().filter(|_| says_nothing).unwrap_or(refusal)
            })
        };
        match sent {
            Ok(answers) if answers.len() == events.len() => answers.into_iter().map(settled).collect(),
            Ok(_) => {
                let problem = malformed().problem;
                events
                    .iter()
                    .map(|_| Err(PublishError::OutcomeUnknown(problem.clone())))
                    .collect()
            }
            Err(unsent) => events.iter().map(|_| Err(unsent.clone())).collect(),
        }
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

    fn repeat<T, E: Refusal>(
        &self,
        mut attempt: impl FnMut(Duration) -> Result<T, (E, bool, Option<Duration>)>,
    ) -> Result<T, E> {
        let end = self.world.now() + self.deadline;
        let mut unknown = None;
        let mut pause = PAUSES.0;
        loop {
            let left = end.saturating_sub(self.world.now());
            let within = left.min(ATTEMPT).max(Duration::from_millis(1));
            let (refusal, can_help, wait) = match attempt(within) {
                Ok(answer) => return Ok(answer),
                Err((refusal, _, _)) if !refusal.is_transient() => {
                    return Err(unknown.filter(|_| refusal.is_of_the_moment()).unwrap_or(refusal));
                }
                Err(refused) => refused,
            };
            let wait = wait.unwrap_or(pause);
            pause = (pause * 2).min(PAUSES.1);
            if !can_help || self.world.now() + wait + SHORTEST_ATTEMPT > end {
                return Err(unknown.filter(|_| !refusal.is_unknown()).unwrap_or(refusal));
            }
            if refusal.is_unknown() {
                unknown = Some(refusal);
            }
            self.world.pause(wait);
        }
    }
}

fn malformed() -> Failure {
    Failure::unknown(
        "protocol-violation",
        "its answer can't be read: is it a bus of this version?",
    )
    .for_good()
}

struct Unread(Problem);

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self(failure.problem)
    }
}

impl Refusal for Unread {
    fn is_transient(&self) -> bool {
        true
    }

    fn is_unknown(&self) -> bool {
        false
    }

    fn is_of_the_moment(&self) -> bool {
        true
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

impl Refusal for PublishError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }

    fn is_of_the_moment(&self) -> bool {
        match self {
            Self::QuotaExceeded(_) | Self::StoreFull(_) | Self::NotPermitted(_) | Self::Unavailable(_) => true,
            Self::InvalidEvent(_) | Self::TooLarge(_) | Self::OutcomeUnknown(_) => false,
        }
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

impl Refusal for SubscribeError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::OutcomeUnknown(_))
    }

    fn is_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }

    fn is_of_the_moment(&self) -> bool {
        match self {
            Self::NotPermitted(_) | Self::Unavailable(_) => true,
            Self::InvalidRequest(_) | Self::Conflict(_) | Self::UnknownSubscription(_) | Self::OutcomeUnknown(_) => {
                false
            }
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
        assert!(sent.iter().all(|within| *within >= SHORTEST_ATTEMPT), "{sent:?}");
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
    fn a_refusal_of_the_moment_does_not_say_that_nothing_is_stored() {
        let lost = || Err(Failure::unknown("connection-lost", "it closed the connection"));
        let refused = |refusal: PublishError| Ok(wire::encode(&Err::<Receipt, _>(refusal)));
        let after_a_loss = publish(&Played::bus([lost(), refused(quota())]));
        assert!(
            matches!(after_a_loss, Err(PublishError::OutcomeUnknown(_))),
            "{after_a_loss:?}"
        );
        assert_eq!(publish(&Played::bus([refused(quota())])), Err(quota()));
        // What could never have been stored is not.
        let invalid = PublishError::InvalidEvent(Problem {
            code: "invalid-event".to_owned(),
            message: String::new(),
        });
        let after_a_loss = publish(&Played::bus([lost(), refused(invalid.clone())]));
        assert_eq!(after_a_loss, Err(invalid));
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
