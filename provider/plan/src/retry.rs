//! When a refused delivery is tried again, and when it is set aside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest delay that a handler can ask for.
pub const MAX_DELAY: Duration = Duration::from_secs(86_400);

/// The most bytes of a reason that are kept.
pub const MAX_REASON_BYTES: usize = 1_024;

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

impl Rejection {
    /// The handler's reason, cut to what is kept.
    pub fn reason(&self) -> &str {
        let (Self::Retry(r) | Self::RetryNow(r) | Self::RetryAfter(_, r) | Self::DeadLetter(r)) = self;
        let mut end = r.len().min(MAX_REASON_BYTES);
        while !r.is_char_boundary(end) {
            end -= 1;
        }
        &r[..end]
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
    fn long_reasons_are_cut_between_characters() {
        let reason = Rejection::Retry("é".repeat(1000)).reason().to_owned();
        assert_eq!(reason.len(), MAX_REASON_BYTES);
    }
}
