//! Ends the provider when its host is gone: a host that is killed can't tell its providers.

use std::os::unix::process::parent_id;
use std::time::Duration;

/// How often the parent is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Returns once the process that started this one is gone.
pub(crate) async fn parent_gone() {
    let parent = parent_id();
    while parent_id() == parent {
        tokio::time::sleep(LOOK).await;
    }
}
