//! Fetches, hands over, settles: one subscription after the other, one hand-over at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanout_component::types::{
    BackfillProgress, CatchUp, Delivery, LeasedDelivery, Need, Position, Rejection, SettleError, Settlement,
    SettlementOutcome, Subscription, SubscriptionOrigin, SubscriptionState, Verdict,
};

use crate::attempts::Attempts;
use crate::inbox::{Inbox, Trouble};
use crate::plan::{self, Plan};

/// How long all subscriptions wait for their first delivery, one after the other.
const WAIT: Duration = Duration::from_secs(2);
/// The shortest wait of one of many.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// How often the bus is asked for subscriptions that the component made, and the pause where there is none.
const LIST_EVERY: Duration = Duration::from_secs(1);
/// The waits after a request that failed: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The wait before a component that was not notified of its catching up is notified again.
const NOTIFY_AGAIN: Duration = Duration::from_secs(2);
/// For how long it is tried to settle, at least: `handled` is taken however late it comes.
const SETTLE_FOR: Duration = Duration::from_secs(10);
/// What is handled is settled no later than this after it was, where others wait for their turn.
const SETTLE_EVERY: Duration = Duration::from_millis(200);
/// The most deliveries of one fetch where neither the subscription nor the operator says it.
const BATCH: u32 = 100;
/// The shortest lease that is reckoned with, whatever the bus says.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// The component that is given deliveries.
pub trait Subscriber {
    /// It has a `batch-handler`.
    const TAKES_BATCHES: bool;
    /// It has a `backfill-handler`.
    const IS_NOTIFIED: bool;

    /// Hands over deliveries; one answer for each, in order.
    fn handle(&self, deliveries: &[Delivery]) -> Vec<Result<(), Rejection>>;

    /// Tells it that a backfill has caught up.
    ///
    /// # Errors
    /// It wants to be notified again.
    fn caught_up(&self, progress: &BackfillProgress) -> Result<(), Rejection>;
}

/// Delivers.
#[derive(Debug)]
pub struct Runner<B, S> {
    bus: B,
    subscriber: S,
    plan: Plan,
    attempts: Attempts,
    lines: Vec<Line>,
    listed: Option<Duration>,
}

/// One subscription.
#[derive(Debug)]
struct Line {
    name: String,
    /// What the operator declared; a subscription of the component's own is there already.
    declared: Option<plan::Declared>,
    is_queue: bool,
    /// As the bus says of it, once it has.
    known: Option<Known>,
    is_made: bool,
    is_notified: bool,
    is_finished: bool,
    is_gone: bool,
    reached: Option<Position>,
    not_before: Duration,
    pause: Duration,
    /// What is wrong is said once.
    trouble: Option<String>,
}

/// What the bus says of a subscription.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    /// Another one of its name has another.
    incarnation: String,
    /// The most deliveries in one invocation.
    batch: u32,
}

/// A delivery and its lease.
struct Leased {
    delivery: Delivery,
    token: Vec<u8>,
    /// When another may be given it.
    until: Duration,
}

impl Line {
    fn new(name: String, is_queue: bool, declared: Option<plan::Declared>) -> Self {
        Self {
            name,
            is_queue,
            known: None,
            is_made: declared.is_none(),
            declared,
            is_notified: false,
            is_finished: false,
            is_gone: false,
            reached: None,
            not_before: Duration::ZERO,
            pause: PAUSES.0,
            trouble: None,
        }
    }

    /// Takes in what the bus says of it: another incarnation is another subscription, of which nobody was notified of anything.
    fn learns(&mut self, subscription: &Subscription) {
        let known = Known {
            incarnation: subscription.incarnation.clone(),
            batch: subscription.batch_size,
        };
        if self
            .known
            .as_ref()
            .is_some_and(|before| before.incarnation != known.incarnation)
        {
            self.begins_again();
        }
        self.known = Some(known);
    }

    /// The most deliveries of one fetch: of the runner's own subscription as the operator says, of one that the component made as
    /// the component says, within what the operator does. Where neither says it, it is the bus's. A queue's fetch is no batch.
    fn most(&self, said: Option<u32>) -> u32 {
        let own = self
            .known
            .as_ref()
            .filter(|_| !self.is_queue)
            .map(|known| known.batch.max(1));
        match (self.declared.is_some(), own, said) {
            (false, Some(own), Some(said)) => own.min(said),
            (_, _, Some(said)) => said,
            (_, own, None) => own.unwrap_or(BATCH),
        }
    }

    /// It is wound back, or another of this name.
    fn begins_again(&mut self) {
        self.is_finished = false;
        self.is_notified = false;
        self.reached = None;
    }

    fn works(&mut self) {
        self.pause = PAUSES.0;
        if self.trouble.take().is_some() {
            eprintln!("subscription {}: deliveries go on", self.name);
        }
    }

    fn waits(&mut self, trouble: &Trouble, now: Duration) {
        self.not_before = now + trouble.retry_after().unwrap_or_default().max(self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
        let problem = trouble.problem();
        if self.trouble.as_deref() != Some(&problem.code) {
            eprintln!(
                "subscription {} waits: {} [{}]",
                self.name, problem.message, problem.code
            );
            self.trouble = Some(problem.code.clone());
        }
    }
}

impl<B: Inbox, S: Subscriber> Runner<B, S> {
    /// One that has delivered nothing yet.
    pub fn new(bus: B, subscriber: S, plan: Plan, attempts: Attempts) -> Self {
        let declared = plan.declared.clone().map(|declared| {
            let is_queue = declared.need == Some(plan::Need::Queue);
            Line::new(declared.name.clone(), is_queue, Some(declared))
        });
        Self {
            bus,
            subscriber,
            plan,
            attempts,
            lines: declared.into_iter().collect(),
            listed: None,
        }
    }

    /// Fetches once from each subscription, and delivers what comes.
    pub fn turn(&mut self) {
        self.list();
        let now = self.bus.now();
        let mut lines = std::mem::take(&mut self.lines);
        let ready = lines
            .iter()
            .filter(|line| !line.is_finished && line.not_before <= now)
            .count();
        let each = u32::try_from(ready).unwrap_or(u32::MAX).max(1);
        for line in &mut lines {
            if !line.is_finished && line.not_before <= now {
                self.fetch(line, (WAIT / each).max(SHORTEST_WAIT));
            }
        }
        if ready == 0 {
            let due = lines
                .iter()
                .filter(|line| !line.is_finished)
                .map(|line| line.not_before)
                .min();
            self.bus
                .pause(due.map_or(LIST_EVERY, |due| due.saturating_sub(now).min(LIST_EVERY)));
        }
        lines.retain(|line| !line.is_gone);
        self.lines = lines;
    }

    /// Lists subscriptions that the component made, for those that it ended, and for finished ones that are wound back.
    fn list(&mut self) {
        let now = self.bus.now();
        // What the policy declares is made by nobody here, and its batches are known by the list alone.
        let is_unknown = |line: &Line| {
            let is_the_policys = line.declared.as_ref().is_some_and(|declared| declared.need.is_none());
            line.known.is_none() && is_the_policys && self.plan.batch.is_none()
        };
        let is_nothing_to_see = self.plan.called == plan::Called::None
            && !self.lines.iter().any(|line| line.is_finished || is_unknown(line));
        if is_nothing_to_see || self.listed.is_some_and(|last| now < last + LIST_EVERY) {
            return;
        }
        self.listed = Some(now);
        let subscriptions = match self.bus.subscriptions() {
            Ok(subscriptions) => subscriptions,
            // What is known is delivered; a fetch says what is wrong.
            Err(trouble) if !self.lines.is_empty() => {
                drop(trouble);
                return;
            }
            Err(trouble) => {
                let problem = trouble.problem();
                eprintln!(
                    "the subscriptions can't be read: {} [{}]",
                    problem.message, problem.code
                );
                return;
            }
        };
        let called = |name: &str, made_by| made_by == SubscriptionOrigin::Call && self.plan.called.has(name);
        self.lines.retain(|line| {
            let is_there = |s: &&Subscription| s.name == line.name && called(&s.name, s.made_by);
            line.declared.is_some() || subscriptions.iter().any(|s| is_there(&s))
        });
        for line in &mut self.lines {
            let found = subscriptions.iter().find(|s| s.name == line.name);
            if let Some(found) = found {
                line.learns(found);
            }
            if line.is_finished && found.is_none_or(|s| s.state != SubscriptionState::Finished) {
                line.begins_again();
            }
        }
        for made in subscriptions {
            let is_known = self.lines.iter().any(|line| line.name == made.name);
            if !is_known && called(&made.name, made.made_by) {
                let is_queue = matches!(made.need, Need::Queue);
                let mut line = Line::new(made.name.clone(), is_queue, None);
                line.learns(&made);
                self.lines.push(line);
            }
        }
    }

    fn fetch(&mut self, line: &mut Line, wait: Duration) {
        let since = self.bus.now();
        let made = match &line.declared {
            Some(declared) if !line.is_made => self.bus.declare(declared),
            _ => Ok(None),
        };
        let fetched = made.and_then(|made| {
            line.is_made = true;
            if let Some(made) = made {
                line.learns(&made);
            }
            self.bus.fetch(&line.name, line.most(self.plan.batch), wait)
        });
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(trouble) => {
                line.is_made &=
                    !matches!(trouble, Trouble::Unknown(_) | Trouble::Refused(_)) || line.declared.is_none();
                // The component has ended it. If it subscribes again by that name, the next list has it.
                line.is_gone = line.declared.is_none() && matches!(trouble, Trouble::Unknown(_));
                line.waits(&trouble, self.bus.now());
                return;
            }
        };
        line.works();
        if let Some(last) = fetched.deliveries.last() {
            line.reached = Some(last.delivery.position);
        }
        let lease = Duration::from_millis(fetched.lease_ms).max(SHORTEST_LEASE);
        match line.is_queue {
            true => self.hand_over_once(fetched.deliveries),
            false => self.deliver(fetched.deliveries, lease, since),
        }
        match fetched.caught_up {
            Some(caught_up) => self.notify(line, caught_up),
            // Every answer says it once it is so: it was wound back since.
            None => line.is_notified = false,
        }
    }

    /// At most once: there is nothing to settle, no second try, and so no attempt to note.
    fn hand_over_once(&self, leased: Vec<LeasedDelivery>) {
        for delivery in leased {
            match self.subscriber.handle(&[delivery.delivery]).pop() {
                Some(Ok(())) => {}
                Some(Err(rejection)) => eprintln!("an event was missed: {rejection:?}"),
                None => eprintln!("an event was missed: the handler gave no answer for it"),
            }
        }
    }

    /// At least once: each is settled by its own answer.
    fn deliver(&mut self, leased: Vec<LeasedDelivery>, lease: Duration, since: Duration) {
        // The bus counts from when it took them from the log, which may be a whole wait after the fetch began; an answer that
        // was long under way leaves less.
        let mut renewed = since.max(self.bus.now().saturating_sub(lease / 4));
        let leased = leased.into_iter().map(|leased| Leased {
            delivery: leased.delivery,
            token: leased.token,
            until: renewed + lease,
        });
        let (trapped, mut waiting): (Vec<_>, Vec<_>) =
            leased.partition(|leased| self.attempts.trapped(&leased.delivery));
        self.refuse(trapped, renewed + lease);
        waiting.reverse();
        let mut answered: Vec<Settlement> = Vec::new();
        let mut settled = self.bus.now();
        while let Some(first) = waiting.last() {
            // The answers so far would be lost with it.
            if !answered.is_empty() && self.attempts.is_suspect(&first.delivery) {
                self.settle(std::mem::take(&mut answered), renewed + lease);
                settled = self.bus.now();
            }
            if self.bus.now() >= renewed + lease / 3 {
                renewed = self.renew(&mut waiting, renewed, lease);
            }
            let now = self.bus.now();
            let before = waiting.len();
            waiting.retain(|leased| now < leased.until);
            if waiting.len() < before {
                let lost = before - waiting.len();
                eprintln!(
                    "{lost} deliveries are not handed over, and come again: their leases were over before their turn came"
                );
            }
            let next = self.next(&mut waiting);
            let (deliveries, tokens): (Vec<_>, Vec<_>) =
                next.into_iter().map(|leased| (leased.delivery, leased.token)).unzip();
            let answers = self.hand_over(&deliveries);
            answered.extend(tokens.into_iter().zip(answers).map(|(token, answer)| Settlement {
                token,
                verdict: answer.map_or_else(Verdict::Rejected, |()| Verdict::Handled),
            }));
            let now = self.bus.now();
            if waiting.is_empty() || now >= settled + SETTLE_EVERY {
                self.settle(std::mem::take(&mut answered), renewed + lease);
                settled = now;
            }
        }
    }

    /// Refuses what trapped, before anything is handed over that could trap too. What the bus does not take is refused when it
    /// comes again.
    fn refuse(&mut self, trapped: Vec<Leased>, until: Duration) {
        if trapped.is_empty() {
            return;
        }
        let refusal = |leased: &Leased| Settlement {
            token: leased.token.clone(),
            verdict: Verdict::Rejected(Rejection::Retry("the handler trapped".to_owned())),
        };
        let taken = self.settle(trapped.iter().map(refusal).collect(), until);
        let refused = trapped.into_iter().filter(|leased| taken.contains(&leased.token));
        let refused: Vec<_> = refused.map(|leased| leased.delivery).collect();
        self.attempts.end(&refused);
    }

    /// The deliveries of the next hand-over, from the end of those that wait.
    fn next(&self, waiting: &mut Vec<Leased>) -> Vec<Leased> {
        let mut next = Vec::new();
        while let Some(leased) = waiting.pop() {
            let alone = !S::TAKES_BATCHES || self.attempts.is_suspect(&leased.delivery);
            if alone && !next.is_empty() {
                waiting.push(leased);
                break;
            }
            next.push(leased);
            if alone {
                break;
            }
        }
        next
    }

    /// One answer for each. An answer that is missing counts as `retry`.
    fn hand_over(&mut self, deliveries: &[Delivery]) -> Vec<Result<(), Rejection>> {
        if deliveries.is_empty() {
            return Vec::new();
        }
        self.attempts.begin(deliveries);
        let mut answers = self.subscriber.handle(deliveries);
        self.attempts.end(deliveries);
        answers.resize_with(deliveries.len(), || {
            Err(Rejection::Retry(
                "the handler gave no answer for this delivery".to_owned(),
            ))
        });
        answers
    }

    /// Renews the leases of those that wait for their turn. Returns from when on all of them last.
    fn renew(&self, waiting: &mut [Leased], mut renewed: Duration, lease: Duration) -> Duration {
        let now = self.bus.now();
        let settlements: Vec<_> = waiting
            .iter()
            .map(|leased| Settlement {
                token: leased.token.clone(),
                verdict: Verdict::StillWorking,
            })
            .collect();
        let Ok(answers) = self.bus.settle(&settlements) else {
            return renewed;
        };
        let before = std::mem::replace(&mut renewed, now);
        for (leased, answer) in waiting.iter_mut().zip(answers) {
            match answer {
                Ok(SettlementOutcome::Extended(token)) => {
                    leased.token = token;
                    leased.until = now + lease;
                }
                Ok(SettlementOutcome::Settled) | Err(SettleError::Unavailable(_)) => renewed = before,
                // Another is given it now.
                Err(SettleError::LeaseExpired(_) | SettleError::InvalidToken(_) | SettleError::NotPermitted(_)) => {
                    leased.until = Duration::ZERO;
                }
            }
        }
        renewed
    }

    /// Settles; what the bus can't do now is tried until the lease is over, and for some seconds at least. Returns the tokens of
    /// what it has taken.
    fn settle(&self, mut batch: Vec<Settlement>, until: Duration) -> Vec<Vec<u8>> {
        let until = until.max(self.bus.now() + SETTLE_FOR);
        let mut pause = PAUSES.0;
        let mut taken = Vec::new();
        while !batch.is_empty() {
            let mut asked = None;
            let answers = match self.bus.settle(&batch) {
                Ok(answers) => answers,
                Err(trouble) if self.bus.now() >= until => {
                    eprintln!(
                        "{} deliveries are not settled, and come again: {}",
                        batch.len(),
                        trouble.problem().message
                    );
                    return taken;
                }
                Err(trouble) => {
                    asked = trouble.retry_after();
                    Vec::new()
                }
            };
            let mut answers = answers.into_iter();
            batch.retain(|settlement| match answers.next() {
                Some(Err(SettleError::Unavailable(_))) | None => self.bus.now() < until,
                Some(Ok(_)) => {
                    taken.push(settlement.token.clone());
                    false
                }
                Some(Err(
                    SettleError::LeaseExpired(problem)
                    | SettleError::InvalidToken(problem)
                    | SettleError::NotPermitted(problem),
                )) => {
                    eprintln!(
                        "a delivery was not settled, and is delivered again: {} [{}]",
                        problem.message, problem.code
                    );
                    false
                }
            });
            if !batch.is_empty() {
                let left = until.saturating_sub(self.bus.now());
                self.bus
                    .pause(asked.unwrap_or_default().max(pause).min(left.max(PAUSES.0)));
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
        taken
    }

    /// Notifies the component that a backfill has caught up, once; everything before was handed over.
    fn notify(&self, line: &mut Line, CatchUp { replayed, finished }: CatchUp) {
        if S::IS_NOTIFIED && !line.is_notified {
            let progress = BackfillProgress {
                subscription: line.name.clone(),
                reached: line.reached,
                replayed,
                at: wall_clock(),
                finished,
            };
            if let Err(rejection) = self.subscriber.caught_up(&progress) {
                eprintln!("subscription {}: it is notified again: {rejection:?}", line.name);
                line.not_before = self.bus.now() + NOTIFY_AGAIN;
                return;
            }
        }
        line.is_notified = true;
        line.is_finished |= finished;
    }
}

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
