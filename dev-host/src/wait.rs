//! Waiting on a condition with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Asks every `interval` until there is an answer. After `limit`, fails and says `what` was waited for and what
/// `check` last said about why not.
pub(crate) async fn until<T, F>(what: &str, limit: Duration, interval: Duration, mut check: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Check<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let not_yet = match check().await? {
            Check::Found(found) => return Ok(found),
            Check::NotYet(why) => why,
        };
        if Instant::now() >= deadline {
            bail!("waited {:.0} s for {what}: {not_yet}", limit.as_secs_f64());
        }
        sleep(interval).await;
    }
}

/// What a check found.
#[derive(Debug)]
pub(crate) enum Check<T> {
    /// What was waited for.
    Found(T),
    /// Not there yet, and this is how it stands.
    NotYet(String),
}
