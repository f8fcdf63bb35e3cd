//! Fewer faults that break a law all the same.

use anyhow::Result;

use crate::schedule::{Schedule, Step};

/// Takes steps away for as long as what is left still fails (Zeller's ddmin): halves first, then single ones. `fails` runs a
/// schedule; at most `most` are run.
pub(crate) async fn shrink(
    schedule: &Schedule,
    most: usize,
    fails: impl AsyncFn(&Schedule) -> Result<bool>,
) -> Result<Schedule> {
    let mut smallest = schedule.clone();
    let (mut parts, mut runs) = (2, 0);
    while smallest.steps.len() > 1 && runs < most {
        let size = smallest.steps.len().div_ceil(parts);
        let mut smaller = None;
        for begin in (0..smallest.steps.len()).step_by(size) {
            if runs == most {
                break;
            }
            let without = without(&smallest.steps, begin, size);
            let candidate = Schedule {
                steps: without,
                ..smallest.clone()
            };
            runs += 1;
            if fails(&candidate).await? {
                smaller = Some(candidate);
                break;
            }
        }
        match smaller {
            Some(found) => {
                parts = parts.saturating_sub(1).max(2);
                smallest = found;
            }
            None if size == 1 => break,
            None => parts = (2 * parts).min(smallest.steps.len()),
        }
    }
    Ok(smallest)
}

fn without(steps: &[Step], begin: usize, size: usize) -> Vec<Step> {
    let left = steps
        .iter()
        .enumerate()
        .filter(|(i, _)| !(begin..begin + size).contains(i));
    left.map(|(_, step)| step.clone()).collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use fanout_campaign_checker::history::Durability;

    use super::*;
    use crate::schedule::Kind;

    #[tokio::test]
    async fn two_steps_that_fail_together_are_found_among_twenty() {
        let whole = Schedule::decide(1, 20, Kind::value_variants(), (3, Durability::OnDisk));
        let (first, second) = (whole.steps[3].clone(), whole.steps[14].clone());
        let fails = async |tried: &Schedule| Ok(tried.steps.contains(&first) && tried.steps.contains(&second));
        let smallest = shrink(&whole, 200, fails).await.unwrap();
        assert_eq!(smallest.steps, [first.clone(), second.clone()]);
    }

    #[tokio::test]
    async fn it_ends_after_as_many_runs_as_it_may() {
        let whole = Schedule::decide(1, 20, Kind::value_variants(), (3, Durability::OnDisk));
        let runs = std::cell::Cell::new(0);
        let fails = async |_: &Schedule| {
            runs.set(runs.get() + 1);
            Ok(false)
        };
        assert_eq!(shrink(&whole, 3, fails).await.unwrap(), whole);
        assert_eq!(runs.get(), 3);
    }
}
