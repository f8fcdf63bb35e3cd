//! What one seed decides.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The choices of one part of the simulation: those of another do not change with them.
#[derive(Debug)]
pub struct Dice(StdRng);

impl Dice {
    /// The dice of a part, of the `incarnation` of its host.
    pub fn of(seed: u64, part: &str, incarnation: u64) -> Self {
        // Its keys are fixed: the same in every process.
        let mut hasher = DefaultHasher::new();
        (seed, part, incarnation).hash(&mut hasher);
        Self(StdRng::seed_from_u64(hasher.finish()))
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0.random_range(0..sides)
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    /// A time from one to another, which is later.
    pub fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.0.random_range(from..to))
    }

    /// One of several.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.0.random_range(0..of.len())]
    }
}
