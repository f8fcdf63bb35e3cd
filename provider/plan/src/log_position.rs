//! Where an event stands, and in which log: a stream that was deleted and made again, or put back to an earlier state, gives the
//! same offsets to other events.

use std::fmt;

use crate::{Incarnation, Position};

/// A position of one log. Its text is the end of subjects: `0.42`, or `0-18d3a1b2c3d4e5f6.42` where the log says which it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// In which of the logs that have stood in the position's partition; an earlier one is less.
    pub log: Incarnation,
    /// Where.
    pub position: Position,
}

impl LogPosition {
    /// Reads the two tokens of a subject that it is written in.
    pub fn from_tokens(partition: &str, offset: &str) -> Option<Self> {
        let (partition, log) = match partition.split_once('-') {
            None => (partition, Incarnation::default()),
            Some((partition, log)) => (
                partition,
                log.parse().ok().filter(|log: &Incarnation| !log.is_unsaid())?,
            ),
        };
        let position = Position::new(partition.parse().ok()?, offset.parse().ok()?);
        Some(Self { position, log })
    }
}

impl From<Position> for LogPosition {
    /// In a log that does not say which it is.
    fn from(position: Position) -> Self {
        Self {
            position,
            log: Incarnation::default(),
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { partition, offset } = self.position;
        if self.log.is_unsaid() {
            return write!(f, "{partition}.{offset}");
        }
        write!(f, "{partition}-{}.{offset}", self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Timestamp;

    #[test]
    fn it_is_read_as_it_is_written_and_two_logs_have_nothing_in_common() {
        let position = Position::undivided(42);
        let mut all = std::collections::BTreeSet::new();
        for log in [
            Incarnation::default(),
            Incarnation::new(Timestamp::from_nanoseconds(1)),
            Incarnation::new(Timestamp::from_nanoseconds(255)),
        ] {
            let at = LogPosition { position, log };
            let text = at.to_string();
            let (partition, offset) = text.split_once('.').unwrap();
            assert_eq!(LogPosition::from_tokens(partition, offset), Some(at), "{text}");
            all.insert(text);
        }
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["0-1.42", "0-ff.42", "0.42"]);
        for (partition, offset) in [
            ("", "1"),
            ("0", ""),
            ("0-", "1"),
            ("0-0", "1"),
            ("0-01", "1"),
            ("0-x", "1"),
            ("-1", "1"),
        ] {
            assert_eq!(
                LogPosition::from_tokens(partition, offset),
                None,
                "{partition}.{offset}"
            );
        }
    }
}
