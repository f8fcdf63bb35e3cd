//! Waiting on a condition with a deadline.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Asks every `interval` until there is an answer. After `limit`, fails and says `what` was waited for and what
/// `look` last said about why not.
pub(crate) async fn until<T, F>(what: &str, limit: Duration, interval: Duration, mut look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<Look<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let not_yet = match look().await? {
            Look::Found(found) => return Ok(found),
            Look::NotYet(why) => why,
        };
        if Instant::now() >= deadline {
            bail!("waited {:.0} s for {what}: {not_yet}", limit.as_secs_f64());
        }
        sleep(interval).await;
    }
}

/// What a look found.
#[derive(Debug)]
pub(crate) enum Look<T> {
    /// What was waited for.
    Found(T),
    /// Not there yet, and this is how it stands.
    NotYet(String),
}
