//! Fetches, hands over, settles: one subscription after the other, one hand-over at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fanout_component::types::{
    BackfillProgress, CatchUp, Delivery, LeasedDelivery, Need, Position, Rejection, SettleError, Settlement,
    SettlementOutcome, SubscriptionOrigin, Verdict,
};

use crate::attempts::Attempts;
use crate::inbox::{Inbox, Trouble};
use crate::plan::{self, Plan};

/// How long all subscriptions wait for their first delivery, one after the other.
const WAIT: Duration = Duration::from_secs(2);
/// The shortest wait of one of many.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
/// How often it is looked for subscriptions that the component made, and the pause where there is none.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The waits after a request that failed: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The wait before a component that was not told of its catching up is told again.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// For how long it is tried to settle, at least: `handled` is taken however late it comes.
const SETTLE_FOR: Duration = Duration::from_secs(10);
/// What is handled is settled no later than this after it was, where others wait for their turn.
const SETTLE_EVERY: Duration = Duration::from_millis(200);
/// The shortest lease that is reckoned with, whatever the bus says.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// The component that is given deliveries.
pub trait Subscriber {
    /// It has a `batch-handler`.
    const TAKES_BATCHES: bool;
    /// It has a `backfill-handler`.
    const IS_TOLD: bool;

    /// Hands over deliveries; one answer for each, in order.
    fn handle(&self, deliveries: &[Delivery]) -> Vec<Result<(), Rejection>>;

    /// Tells it that a backfill has caught up.
    ///
    /// # Errors
    /// It wants to be told again.
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
    looked: Option<Duration>,
}

/// One subscription.
#[derive(Debug)]
struct Line {
    name: String,
    /// What the operator declared; a subscription of the component's own is there already.
    declared: Option<plan::Declared>,
    is_queue: bool,
    is_made: bool,
    is_told: bool,
    is_finished: bool,
    reached: Option<Position>,
    not_before: Duration,
    pause: Duration,
    /// What is wrong is said once.
    trouble: Option<String>,
}

/// A delivery and its lease.
struct Leased {
    delivery: Delivery,
    token: Vec<u8>,
    is_lost: bool,
}

impl Line {
    fn new(name: String, is_queue: bool, declared: Option<plan::Declared>) -> Self {
        Self {
            name,
            is_queue,
            is_made: declared.is_none(),
            declared,
            is_told: false,
            is_finished: false,
            reached: None,
            not_before: Duration::ZERO,
            pause: PAUSES.0,
            trouble: None,
        }
    }

    fn works(&mut self) {
        self.pause = PAUSES.0;
        if self.trouble.take().is_some() {
            eprintln!("subscription {}: deliveries go on", self.name);
        }
    }

    fn waits(&mut self, trouble: &Trouble, now: Duration) {
        self.not_before = now + self.pause;
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
            looked: None,
        }
    }

    /// Fetches once from each subscription, and delivers what comes.
    pub fn turn(&mut self) {
        self.look();
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
                .pause(due.map_or(LOOK_EVERY, |due| due.saturating_sub(now).min(LOOK_EVERY)));
        }
        self.lines = lines;
    }

    /// Looks for subscriptions that the component made, and for those that it ended.
    fn look(&mut self) {
        let now = self.bus.now();
        if self.plan.called == plan::Called::None || self.looked.is_some_and(|last| now < last + LOOK_EVERY) {
            return;
        }
        self.looked = Some(now);
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
            let is_there =
                |s: &&fanout_component::types::Subscription| s.name == line.name && called(&s.name, s.made_by);
            line.declared.is_some() || subscriptions.iter().any(|s| is_there(&s))
        });
        for made in subscriptions {
            let is_known = self.lines.iter().any(|line| line.name == made.name);
            if !is_known && called(&made.name, made.made_by) {
                let is_queue = matches!(made.need, Need::Queue);
                self.lines.push(Line::new(made.name, is_queue, None));
            }
        }
    }

    fn fetch(&mut self, line: &mut Line, wait: Duration) {
        let since = self.bus.now();
        let made = match &line.declared {
            Some(declared) if !line.is_made => self.bus.declare(declared),
            _ => Ok(()),
        };
        let fetched = made.and_then(|()| {
            line.is_made = true;
            self.bus.fetch(&line.name, self.plan.batch, wait)
        });
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(trouble) => {
                line.is_made &=
                    !matches!(trouble, Trouble::Unknown(_) | Trouble::Refused(_)) || line.declared.is_none();
                // The component has ended it.
                line.is_finished |= line.declared.is_none() && matches!(trouble, Trouble::Unknown(_));
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
        if let Some(caught_up) = fetched.caught_up {
            self.tell(line, caught_up);
        }
    }

    /// At most once: there is nothing to settle, and no second try.
    fn hand_over_once(&mut self, leased: Vec<LeasedDelivery>) {
        for delivery in leased {
            if let Err(rejection) = self.hand_over(&[delivery.delivery]).remove(0) {
                eprintln!("an event was missed: {rejection:?}");
            }
        }
    }

    /// At least once: each is settled by its own answer.
    fn deliver(&mut self, leased: Vec<LeasedDelivery>, lease: Duration, since: Duration) {
        // The bus counts from when it took them from the log, which may be a whole wait after the fetch began; an answer that
        // was long under way leaves less.
        let mut renewed = since.max(self.bus.now().saturating_sub(lease / 4));
        let mut waiting: Vec<Leased> = leased
            .into_iter()
            .map(|leased| Leased {
                delivery: leased.delivery,
                token: leased.token,
                is_lost: false,
            })
            .collect();
        waiting.reverse();
        let mut answered: Vec<Settlement> = Vec::new();
        let mut settled = self.bus.now();
        while !waiting.is_empty() {
            if self.bus.now() >= renewed + lease / 3 {
                renewed = self.renew(&mut waiting, renewed);
            }
            let mut next = self.next(&mut waiting);
            next.retain(|leased| !leased.is_lost);
            let (trapped, next): (Vec<_>, Vec<_>) = next
                .into_iter()
                .partition(|leased| self.attempts.trapped(&leased.delivery));
            answered.extend(trapped.into_iter().map(|leased| Settlement {
                token: leased.token,
                verdict: Verdict::Rejected(Rejection::Retry("the handler trapped".to_owned())),
            }));
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

    /// Renews the leases of those that wait for their turn. Returns from when on they last.
    fn renew(&self, waiting: &mut [Leased], renewed: Duration) -> Duration {
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
        for (leased, answer) in waiting.iter_mut().zip(answers) {
            match answer {
                Ok(SettlementOutcome::Extended(token)) => leased.token = token,
                Ok(SettlementOutcome::Settled) | Err(SettleError::Unavailable(_)) => {}
                // Another is given it now.
                Err(SettleError::LeaseExpired(_) | SettleError::InvalidToken(_) | SettleError::NotPermitted(_)) => {
                    leased.is_lost = true;
                }
            }
        }
        now
    }

    /// Settles; what the bus can't do now is tried until the lease is over, and for some seconds at least.
    fn settle(&self, mut batch: Vec<Settlement>, until: Duration) {
        let until = until.max(self.bus.now() + SETTLE_FOR);
        let mut pause = PAUSES.0;
        while !batch.is_empty() {
            let answers = match self.bus.settle(&batch) {
                Ok(answers) => answers,
                Err(problem) if self.bus.now() >= until => {
                    eprintln!(
                        "{} deliveries are not settled, and come again: {}",
                        batch.len(),
                        problem.message
                    );
                    return;
                }
                Err(_) => Vec::new(),
            };
            let mut answers = answers.into_iter();
            batch.retain(|_| match answers.next() {
                Some(Err(SettleError::Unavailable(_))) | None => self.bus.now() < until,
                Some(Ok(_)) => false,
                Some(Err(
                    SettleError::LeaseExpired(problem)
                    | SettleError::InvalidToken(problem)
                    | SettleError::NotPermitted(problem),
                )) => {
                    eprintln!(
                        "a delivery is not settled, and comes again: {} [{}]",
                        problem.message, problem.code
                    );
                    false
                }
            });
            if !batch.is_empty() {
                self.bus.pause(pause);
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    /// Tells the component that a backfill has caught up, once; everything before was handed over.
    fn tell(&self, line: &mut Line, CatchUp { replayed, finished }: CatchUp) {
        if S::IS_TOLD && !line.is_told {
            let progress = BackfillProgress {
                subscription: line.name.clone(),
                reached: line.reached,
                replayed,
                at: wall_clock(),
                finished,
            };
            if let Err(rejection) = self.subscriber.caught_up(&progress) {
                eprintln!("subscription {}: it is to be told again: {rejection:?}", line.name);
                line.not_before = self.bus.now() + TELL_AGAIN;
                return;
            }
        }
        line.is_told = true;
        line.is_finished |= finished;
    }
}

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
