//! What happened, and what of it broke a law.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What happened, in order. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Happened>>);

#[derive(Debug, Default)]
struct Happened {
    lines: Vec<String>,
    violations: Vec<String>,
}

/// The time of the simulation.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

impl History {
    fn happened(&self) -> MutexGuard<'_, Happened> {
        self.0.lock().unwrap()
    }

    /// Notes what happened now.
    pub fn note(&self, what: impl std::fmt::Display) {
        self.note_at(now(), what);
    }

    /// Notes what happened at a time.
    pub fn note_at(&self, at: Duration, what: impl std::fmt::Display) {
        let line = format!("{:>9.3} {what}", at.as_secs_f64());
        self.happened().lines.push(line);
    }

    /// Notes that a law is broken.
    pub fn broken(&self, law: impl std::fmt::Display) {
        let text = format!("BROKEN: {law}");
        self.note(&text);
        self.happened().violations.push(text);
    }

    /// Notes a law as broken unless it holds.
    pub fn holds(&self, holds: bool, law: impl FnOnce() -> String) {
        if !holds {
            self.broken(law());
        }
    }

    /// What is broken.
    pub fn violations(&self) -> Vec<String> {
        self.happened().violations.clone()
    }

    /// All of it.
    pub fn lines(&self) -> Vec<String> {
        self.happened().lines.clone()
    }
}
