//! When a refused delivery is tried again, and when it is dead-lettered.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest delay that a handler can ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(86_400);

/// The most bytes of a reason that are kept.
pub const MAX_REASON_BYTES: usize = 1_024;

/// Reasons are cut to no less than this before attempts are left out.
const SHORTEST_CUT_REASON: usize = 32;

/// The bus's delays between attempts, and how many attempts there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetrySchedule {
    delays: Vec<Duration>,
    max_attempts: u32,
}

/// What a handler asked for when it refused a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// Again, by the schedule.
    Retry(String),
    /// Again, at once.
    RetryNow(String),
    /// Again, after a delay of its own.
    RetryAfter(Duration, String),
    /// Never again.
    DeadLetter(String),
}

/// An attempt whose outcome is known and was not success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAttempt {
    /// 1 for the first.
    pub attempt: u32,
    /// When it failed, RFC 3339.
    pub at: String,
    /// Why.
    pub reason: String,
    /// Its refusal came when its lease was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<Late>,
}

/// Of a refusal that came when its lease was over. It is counted and settles nothing: another may have the event by then. What
/// follows from it follows when the event comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// The number of the delivery that was refused. Another delivery of the same attempt has another.
    pub delivery: u64,
    /// There is to be no further attempt.
    pub is_final: bool,
}

/// Retries of one subscription that are under way at once, of all its invocations: the rest is for first attempts, so
/// that refused events delay no others, however many of them are due.
pub fn at_once(concurrency: u32) -> u32 {
    (concurrency / 2).max(1)
}

/// Due retries of one tenant that are held for their turn, while `others` tenants have some too, of `all` that may be
/// held: whoever comes later finds room.
pub fn held_of_one_tenant(all: usize, others: usize) -> usize {
    (all / (others + 2)).max(1)
}

/// What comes of a refused delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Deliver it again after this time.
    RetryAfter(Duration),
    /// Store a dead letter, then settle it.
    DeadLetter,
}

impl RetrySchedule {
    /// A schedule; its last delay serves for all further attempts.
    pub fn new(delays: Vec<Duration>, max_attempts: u32) -> Self {
        Self { delays, max_attempts }
    }

    /// How long all attempts take, when each is refused and none asks for a delay of its own.
    pub fn longest(&self) -> Duration {
        let delays = self.delays.iter().chain(self.delays.last().into_iter().cycle());
        let waits = self.max_attempts.saturating_sub(1) as usize;
        // The last delay serves for all further attempts.
        match self.delays.last() {
            Some(_) => delays.take(waits).sum(),
            None => Duration::ZERO,
        }
    }

    /// Whether a refusal that came late has used the attempts up.
    pub fn is_used_up(&self, failed: &[FailedAttempt]) -> bool {
        // A verdict that is final stays so, whatever another whose lease had ended says after it.
        let is_given_up = failed
            .iter()
            .any(|attempt| attempt.late.is_some_and(|late| late.is_final));
        let is_last = |attempt| self.disposition(&Rejection::Retry(String::new()), attempt) == Disposition::DeadLetter;
        is_given_up
            || failed
                .last()
                .is_some_and(|last| last.late.is_some() && is_last(last.attempt))
    }

    /// What comes of the `attempt`th attempt (from 1) having been refused.
    pub fn disposition(&self, rejection: &Rejection, attempt: u32) -> Disposition {
        if attempt >= self.max_attempts || matches!(rejection, Rejection::DeadLetter(_)) {
            return Disposition::DeadLetter;
        }
        Disposition::RetryAfter(match rejection {
            Rejection::RetryAfter(delay, _) => (*delay).min(MAX_DELAY),
            Rejection::RetryNow(_) | Rejection::DeadLetter(_) => Duration::ZERO,
            Rejection::Retry(_) => {
                let i = attempt.saturating_sub(1) as usize;
                self.delays.get(i).or(self.delays.last()).copied().unwrap_or_default()
            }
        })
    }
}

/// The attempts, cut to at most so many bytes of JSON: a header of the store's messages holds them, and headers have a
/// limit (nats-server 2.15, error 10097). Long reasons are cut first, then attempts in the middle are left out.
pub fn attempts_within(attempts: &[FailedAttempt], bytes: usize) -> Vec<FailedAttempt> {
    let fits = |attempts: &[FailedAttempt]| serde_json::to_string(attempts).is_ok_and(|json| json.len() <= bytes);
    let mut kept = attempts.to_vec();
    let mut longest = MAX_REASON_BYTES;
    while !fits(&kept) && longest > SHORTEST_CUT_REASON {
        longest /= 2;
        for attempt in &mut kept {
            attempt.reason.truncate(cut(&attempt.reason, longest));
        }
    }
    while !fits(&kept) && !kept.is_empty() {
        // The first says how it began, and the last what is wrong now: of one that is left, it is the last.
        let half = kept.len() / 2;
        let first = half / 2;
        kept.drain(first..first + kept.len() - half);
    }
    kept
}

/// Where a text is cut so that at most so many bytes are left.
pub(crate) fn cut(text: &str, most: usize) -> usize {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    end
}

impl Rejection {
    /// The handler's reason, cut to what is kept.
    pub fn reason(&self) -> &str {
        let (Self::Retry(r) | Self::RetryNow(r) | Self::RetryAfter(_, r) | Self::DeadLetter(r)) = self;
        &r[..cut(r, MAX_REASON_BYTES)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_end_in_a_dead_letter() {
        let schedule = RetrySchedule::new(vec![Duration::from_secs(1), Duration::from_secs(5)], 4);
        let retry = Rejection::Retry("busy".into());
        let after = |a| schedule.disposition(&retry, a);
        assert_eq!(after(1), Disposition::RetryAfter(Duration::from_secs(1)));
        assert_eq!(after(2), Disposition::RetryAfter(Duration::from_secs(5)));
        assert_eq!(after(3), Disposition::RetryAfter(Duration::from_secs(5)));
        assert_eq!(after(4), Disposition::DeadLetter);
        assert_eq!(
            schedule.disposition(&Rejection::RetryNow(String::new()), 1),
            Disposition::RetryAfter(Duration::ZERO)
        );
        assert_eq!(
            schedule.disposition(&Rejection::RetryAfter(Duration::MAX, String::new()), 1),
            Disposition::RetryAfter(MAX_DELAY)
        );
        assert_eq!(
            schedule.disposition(&Rejection::DeadLetter("no".into()), 1),
            Disposition::DeadLetter
        );
    }

    #[test]
    fn a_late_refusal_uses_up_the_last_attempt_or_all_of_them() {
        let schedule = RetrySchedule::new(Vec::new(), 3);
        let failed = |attempt, late| {
            vec![FailedAttempt {
                attempt,
                at: String::new(),
                reason: String::new(),
                late,
            }]
        };
        let late = |is_final| Some(Late { delivery: 1, is_final });
        assert!(!schedule.is_used_up(&[]));
        assert!(!schedule.is_used_up(&failed(2, late(false))));
        assert!(schedule.is_used_up(&failed(3, late(false))));
        assert!(schedule.is_used_up(&failed(1, late(true))));
        let then_not = [failed(1, late(true)), failed(2, late(false))].concat();
        assert!(schedule.is_used_up(&then_not), "what is final stays so");
        assert!(
            !schedule.is_used_up(&failed(3, None)),
            "what was refused in time is settled"
        );
    }

    #[test]
    fn attempts_fit_what_there_is_room_for() {
        let attempts = |n: u32, reason: &str| -> Vec<FailedAttempt> {
            let attempt = |attempt| FailedAttempt {
                attempt,
                at: "2026-11-28T16:00:00.000000000Z".into(),
                reason: reason.into(),
                late: None,
            };
            (1..=n).map(attempt).collect()
        };
        let size = |a: &[FailedAttempt]| serde_json::to_string(a).unwrap().len();
        let few = attempts(6, "busy");
        assert_eq!(attempts_within(&few, 1_000), few, "what fits stays as it is");
        let long = attempts(30, &"é".repeat(512));
        let cut = attempts_within(&long, 8_000);
        assert!(
            size(&cut) <= 8_000 && cut.len() == 30,
            "{} of {}",
            cut.len(),
            size(&cut)
        );
        assert!(cut.iter().all(|a| a.reason.starts_with("ééé")));
        let many = attempts(1_000, &"x".repeat(MAX_REASON_BYTES));
        let left = attempts_within(&many, 8_000);
        assert!(size(&left) <= 8_000 && left.len() > 20, "{}", left.len());
        assert_eq!((left[0].attempt, left.last().unwrap().attempt), (1, 1_000));
        assert_eq!(attempts_within(&few, 1), []);
        assert_eq!(attempts_within(&few, 90).len(), 1);
        assert_eq!(attempts_within(&few, 90)[0].attempt, 6, "the last one stays longest");
    }

    #[test]
    fn retries_leave_half_for_others() {
        assert_eq!([1, 2, 3, 16].map(at_once), [1, 1, 1, 8]);
        assert_eq!(
            [0, 1, 8].map(|others| held_of_one_tenant(1_000, others)),
            [500, 333, 100]
        );
        assert_eq!(held_of_one_tenant(1, 5), 1);
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let reason = Rejection::Retry("é".repeat(1000)).reason().to_owned();
        assert_eq!(reason.len(), MAX_REASON_BYTES);
    }
}
