//! Whether the positions that a backfill or a rewind names mean something on its bus.

use crate::partition::{Layout, Partition};
use crate::planner::Observed;
use crate::subscription::{End, Need, Start, Subscription};
use crate::{Code, Position, Problem};

/// # Errors
/// Names the position, and what to ask for instead.
pub(crate) fn check(asked: &Subscription, layout: &Layout, observed: &Observed) -> Result<(), Problem> {
    let Need::Backfill { start, end } = asked.need else {
        return Ok(());
    };
    if let Start::Position(p) = start {
        is_of_the_log(asked, layout, p)?;
        let head = observed.logs.get(&p.partition).map_or(0, |log| log.head);
        if p.offset > head + 1 {
            return Err(Problem::new(
                Code::UnknownPosition,
                format!(
                    "subscription {}: its start lies beyond the log's last offset, {head}: begin at or before that, or at a time",
                    asked.name
                ),
            ));
        }
    }
    match end {
        Some(End::Position(p)) => is_of_the_log(asked, layout, p),
        Some(End::Time(_)) | None => Ok(()),
    }
}

pub(crate) fn is_of_the_log(asked: &Subscription, layout: &Layout, position: Position) -> Result<(), Problem> {
    let read = layout.partitions.values().filter(|p| asked.reads(p));
    layout.orders(read, position).map_err(|problem| Problem {
        message: format!("subscription {}: {}", asked.name, problem.message),
        ..problem
    })
}

impl Layout {
    /// Whether every event of the partitions that are read lies before or behind a position. A position orders the events
    /// of its own partition, and of those that came before or after that partition; it says nothing of partitions that
    /// are written beside it.
    ///
    /// # Errors
    /// Names the position, and what to give instead.
    pub fn orders<'a>(&self, mut read: impl Iterator<Item = &'a Partition>, position: Position) -> Result<(), Problem> {
        let refuse = |why: String| {
            let message = format!("position {position} {why}");
            Err(Problem::new(Code::UnknownPosition, message))
        };
        let Some(mine) = self.partitions.get(&position.partition) else {
            let known: Vec<_> = self.partitions.keys().map(ToString::to_string).collect();
            return refuse(format!(
                "does not exist: this bus has partitions {}; give a position of one of these, or a time",
                known.join(", ")
            ));
        };
        let beside =
            read.find(|p| (p.place != mine.place || p.generation == mine.generation) && p.number != mine.number);
        match beside {
            Some(other) => refuse(format!(
                "says nothing of partition {}, which is written beside it and holds events that are asked for: give a time, or ask for tenants of one partition alone",
                other.number
            )),
            None => Ok(()),
        }
    }
}
