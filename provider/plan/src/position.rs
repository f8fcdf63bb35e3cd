//! Where an event stands in a bus's log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::shown;
use crate::{Code, Problem};

/// A place in the log; ordered within a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The partition, from 0.
    pub partition: u32,
    /// The place in it, from 1.
    pub offset: u64,
}

impl Position {
    /// The place with this offset in a partition.
    pub const fn new(partition: u32, offset: u64) -> Self {
        Self { partition, offset }
    }

    /// A place in the only partition of an undivided bus.
    pub const fn undivided(offset: u64) -> Self {
        Self::new(0, offset)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = Problem;
    fn from_str(s: &str) -> Result<Self, Problem> {
        s.split_once('/')
            .and_then(|(partition, offset)| {
                Some(Self {
                    partition: partition.parse().ok()?,
                    offset: offset.parse().ok().filter(|o| *o > 0)?,
                })
            })
            .ok_or_else(|| {
                Problem::new(
                    Code::InvalidSetting,
                    format!("{} is not a position: write PARTITION/OFFSET, such as 0/42", shown(s)),
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        let p = Position::new(3, 42);
        assert_eq!(p.to_string().parse::<Position>().unwrap(), p);
        for bad in ["", "3", "3/0", "3/-1", "a/1", "1/2/3"] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
