//! How much is measured, and how: warm-up, then rounds in which the cases take turns.

use std::future::Future;
use std::pin::Pin;
use std::time::Instant;

use anyhow::Result;

use crate::processor;
use crate::report::{Report, Took};

/// How long a bench may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Seconds: shows that it runs.
    Quick,
    /// A few minutes.
    Usual,
    /// As long as it takes.
    Full,
}

impl Size {
    /// How often each case is measured.
    pub(crate) fn rounds(self) -> usize {
        match self {
            Self::Quick => 2,
            Self::Usual => 5,
            Self::Full => 9,
        }
    }

    /// A number of events for this size, given the usual one.
    pub(crate) fn events(self, usual: usize) -> usize {
        match self {
            Self::Quick => usual / 10,
            Self::Usual | Self::Full => usual,
        }
    }
}

/// One round of a case: it does its work and returns how many events that were.
type Round<'a> = Box<dyn FnMut(usize) -> Pin<Box<dyn Future<Output = Result<usize>> + 'a>> + 'a>;

/// Something whose rate is measured.
pub(crate) struct Case<'a> {
    name: &'static str,
    round: Round<'a>,
}

impl<'a> Case<'a> {
    /// `round` is given the number of the round, 0 for the warm-up.
    pub(crate) fn new<F: Future<Output = Result<usize>> + 'a>(
        name: &'static str,
        mut round: impl FnMut(usize) -> F + 'a,
    ) -> Self {
        Self {
            name,
            round: Box::new(move |n| Box::pin(round(n))),
        }
    }
}

/// Measures cases in turns; `between` clears what a round left. The first case is what the others are compared with.
pub(crate) async fn in_turns<F: Future<Output = Result<()>>>(
    report: &mut Report,
    group: &'static str,
    size: Size,
    mut cases: Vec<Case<'_>>,
    mut between: impl FnMut() -> F,
) -> Result<()> {
    for round in 0..=size.rounds() {
        for case in &mut cases {
            let before = processor::used()?;
            let start = Instant::now();
            let events = (case.round)(round).await?;
            let seconds = start.elapsed().as_secs_f64();
            if round > 0 {
                let used = processor::between(&before, &processor::used()?);
                let took = Took { events, seconds, used };
                report.round(group, case.name, took)?;
            }
            between().await?;
        }
    }
    Ok(())
}
