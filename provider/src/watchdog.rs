//! Ends the provider when its host is gone: a host that is killed can't tell its providers.

use std::os::unix::process::parent_id;
use std::time::Duration;

/// How often the parent is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The process that started this one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parent(u32);

impl Parent {
    /// Asked early: a parent that is gone already can't be told from the one that adopts orphans.
    pub(crate) fn now() -> Self {
        Self(parent_id())
    }

    /// Returns once it is gone.
    pub(crate) async fn gone(self) {
        while parent_id() == self.0 {
            tokio::time::sleep(LOOK).await;
        }
    }
}
