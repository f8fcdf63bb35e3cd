//! Whether the positions that a backfill or a rewind names mean something on its bus.

use crate::partition::Layout;
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
        is_a_place(asked, layout, p)?;
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
        Some(End::Position(p)) => is_a_place(asked, layout, p),
        Some(End::Time(_)) | None => Ok(()),
    }
}

/// A position orders the events of its own partition, and of those that came before or after it; it says nothing of
/// partitions that are written beside it.
pub(crate) fn is_a_place(asked: &Subscription, layout: &Layout, position: Position) -> Result<(), Problem> {
    let refuse = |why: String| {
        Err(Problem::new(
            Code::UnknownPosition,
            format!("subscription {}: position {position} {why}", asked.name),
        ))
    };
    let Some(mine) = layout.partitions.get(&position.partition) else {
        let known: Vec<_> = layout.partitions.keys().map(ToString::to_string).collect();
        return refuse(format!("does not exist: this bus has partitions {}", known.join(", ")));
    };
    let beside = layout
        .touching(&asked.filter)
        .find(|p| p.generation == mine.generation && p.number != mine.number);
    match beside {
        Some(other) => refuse(format!(
            "says nothing of partition {}, which its events are in too: ask for tenants of one partition, or begin and end at a time",
            other.number
        )),
        None => Ok(()),
    }
}
