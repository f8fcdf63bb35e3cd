//! What callers wait for of the plan. Those that ask at once are served by one plan, so that a call costs no more where
//! hundreds are made together.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use fanout_plan::planner::Wanted;
use fanout_plan::{Problem, TenantId};
use tokio::sync::oneshot;

/// The most subscriptions that one plan makes for callers: the first do not wait for the last.
const MOST_AT_ONCE: usize = 64;

/// Why what was asked for was refused, if it was.
///
/// # Errors
/// When the store could not be asked, or not to the end.
pub(super) type Answer = Result<Option<Problem>, Problem>;

/// What a caller wants of the plan.
#[derive(Debug)]
pub(super) enum Want {
    /// That everything is as is remembered by now.
    AsRemembered,
    /// That a subscription is made.
    Subscription(Box<Wanted>),
    /// That a tenant has a place in the log.
    Place(TenantId),
}

struct Request {
    want: Want,
    answer: oneshot::Sender<Answer>,
}

/// What callers wait for.
#[derive(Default)]
pub(super) struct Requests(Mutex<VecDeque<Request>>);

/// What one plan is made for.
#[derive(Default)]
pub(super) struct Batch {
    /// Each of another name.
    pub(super) subscriptions: Vec<Wanted>,
    subscribers: Vec<oneshot::Sender<Answer>>,
    pub(super) tenant: Option<TenantId>,
    publishers: Vec<oneshot::Sender<Answer>>,
    others: Vec<oneshot::Sender<Answer>>,
}

impl Requests {
    /// Asks; the answer comes with the plan that serves it.
    pub(super) fn ask(&self, want: Want) -> oneshot::Receiver<Answer> {
        let (answer, answered) = oneshot::channel();
        self.lock().push_back(Request { want, answer });
        answered
    }

    /// Whether anybody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Those that one plan serves, from the oldest on: subscriptions of different names, or a place for one tenant. The
    /// others keep their turn.
    pub(super) fn take(&self) -> Batch {
        let mut batch = Batch::default();
        let mut names = BTreeSet::new();
        let mut waiting = self.lock();
        let mut left = VecDeque::new();
        for Request { want, answer } in waiting.drain(..) {
            if answer.is_closed() {
                // Its caller is gone.
                continue;
            }
            match want {
                Want::AsRemembered => batch.others.push(answer),
                Want::Subscription(wanted)
                    if batch.tenant.is_none()
                        && names.len() < MOST_AT_ONCE
                        && names.insert(wanted.subscription.name.clone()) =>
                {
                    batch.subscriptions.push(*wanted);
                    batch.subscribers.push(answer);
                }
                Want::Place(tenant)
                    if batch.subscriptions.is_empty() && batch.tenant.as_ref().is_none_or(|t| *t == tenant) =>
                {
                    batch.tenant = Some(tenant);
                    batch.publishers.push(answer);
                }
                want => left.push_back(Request { want, answer }),
            }
        }
        *waiting = left;
        batch
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// Whether nobody waits for the plan.
    pub(super) fn is_empty(&self) -> bool {
        self.subscriptions.is_empty() && self.tenant.is_none() && self.others.is_empty()
    }

    /// Answers all of them: `refused` says why a subscription was, by its place, and `no_place` why the tenant has none.
    pub(super) fn answer(self, mut refused: impl FnMut(usize) -> Option<Problem>, no_place: Option<&Problem>) {
        for (i, answer) in self.subscribers.into_iter().enumerate() {
            reply(answer, Ok(refused(i)));
        }
        for answer in self.publishers {
            reply(answer, Ok(no_place.cloned()));
        }
        for answer in self.others {
            reply(answer, Ok(None));
        }
    }

    /// Tells all of them that the plan was not carried out.
    pub(super) fn fail(self, problem: &Problem) {
        let all = [self.subscribers, self.publishers, self.others].into_iter().flatten();
        for answer in all {
            reply(answer, Err(problem.clone()));
        }
    }
}

fn reply(to: oneshot::Sender<Answer>, answer: Answer) {
    // Whoever does not wait any more asks again.
    to.send(answer).ok();
}

#[cfg(test)]
mod tests {
    use fanout_plan::Policy;
    use fanout_plan::link::declared_subscription;
    use fanout_plan::subscription::MadeBy;

    use super::*;

    fn subscription(name: &str) -> Want {
        let settings = [("bus", "b"), ("subject", "b.{tenant}.e.{event-type}")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let policy = Policy::from_settings("test", &settings).unwrap();
        let asked = [("subscription", name), ("need", "durable")];
        let asked = asked.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let interfaces = ["handler".to_owned()];
        Want::Subscription(Box::new(Wanted {
            subscription: declared_subscription("test", "component", &interfaces, &asked, &policy).unwrap(),
            component: "component".to_owned(),
            link: "default".to_owned(),
            made_by: MadeBy::Call,
        }))
    }

    fn names(batch: &Batch) -> Vec<&str> {
        batch
            .subscriptions
            .iter()
            .map(|w| w.subscription.name.as_str())
            .collect()
    }

    #[test]
    fn those_who_ask_at_once_are_served_together_and_a_name_once() {
        let requests = Requests::default();
        let asked: Vec<_> = ["a", "b", "a"]
            .into_iter()
            .map(|name| requests.ask(subscription(name)))
            .collect();
        let first = requests.take();
        assert_eq!(names(&first), ["a", "b"]);
        first.answer(|_| None, None);
        let second = requests.take();
        assert_eq!(
            names(&second),
            ["a"],
            "what came second is judged by what came of the first"
        );
        second.answer(|_| None, None);
        assert!(requests.is_empty() && requests.take().is_empty());
        for mut asked in asked {
            assert!(matches!(asked.try_recv(), Ok(Ok(None))));
        }
    }

    #[test]
    fn a_tenants_place_is_planned_alone() {
        let requests = Requests::default();
        let acme = || Want::Place("acme".parse().unwrap());
        let (_first, _second) = (requests.ask(acme()), requests.ask(subscription("a")));
        let (_third, _fourth) = (
            requests.ask(acme()),
            requests.ask(Want::Place("globex".parse().unwrap())),
        );
        let batch = requests.take();
        assert_eq!((names(&batch).len(), batch.publishers.len()), (0, 2));
        let batch = requests.take();
        assert_eq!((names(&batch).len(), batch.publishers.len()), (1, 0));
        assert_eq!(requests.take().tenant.unwrap().as_str(), "globex");
    }

    #[test]
    fn who_waits_no_more_is_not_served() {
        let requests = Requests::default();
        drop(requests.ask(subscription("a")));
        assert!(requests.take().is_empty());
    }
}
