//! What ends the process: its host is gone, or it is told to end. It is watched from the first line on, so that no wait,
//! whatever for and however long, keeps the process there.

use std::future::pending;
use std::io;
use std::os::unix::process::parent_id;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

/// How often the parent is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Watches for what ends the process. A signal that comes while nobody waits is not missed.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// The process that started this one; `None` where its end means nothing.
    parent: Option<u32>,
    terminate: Signal,
    interrupt: Signal,
}

impl Watchdog {
    /// For a process that ends with the one that started it: a host that is killed can't tell its providers. Made early: a
    /// parent that is gone already can't be told from the one that adopts orphans.
    ///
    /// # Errors
    /// When signals can't be watched.
    pub(crate) fn of_a_host() -> io::Result<Self> {
        Self::new(Some(parent_id()))
    }

    /// For a process that only a signal ends.
    ///
    /// # Errors
    /// When signals can't be watched.
    pub(crate) fn of_signals() -> io::Result<Self> {
        Self::new(None)
    }

    fn new(parent: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            parent,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns once the process is to end.
    pub(crate) async fn ends(&mut self) {
        let parent = self.parent;
        tokio::select! {
            () = self.signalled() => info!("received a signal to end; stopping"),
            () = is_gone(parent) => warn!("the host is gone; stopping"),
        }
    }

    /// Returns at the next SIGTERM or SIGINT: a second one cuts an orderly end short.
    pub(crate) async fn signalled(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn is_gone(parent: Option<u32>) {
    let Some(parent) = parent else {
        return pending().await;
    };
    while parent_id() == parent {
        tokio::time::sleep(CHECK_EVERY).await;
    }
}
