//! What ends a run from outside: SIGINT, SIGTERM, SIGHUP, or the end of standard input.

use anyhow::{Context as _, Result};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why a run was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A signal, by its number.
    Signal(u8),
    /// Standard input ended.
    InputEnd,
}

impl Reason {
    /// The exit code that a shell expects of it.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Signal(number) => 128 + number,
            Self::InputEnd => 0,
        }
    }
}

/// The signals that end a run. From the moment this exists they end the process no more: whoever holds it must.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Interrupt {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("can't listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal.
    pub(crate) async fn signalled(&mut self) -> Reason {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
        };
        Reason::Signal(u8::try_from(kind.as_raw_value()).unwrap_or(0))
    }

    /// Waits for a signal or the end of standard input.
    pub(crate) async fn signalled_or_input_end(&mut self) -> Reason {
        tokio::select! {
            reason = self.signalled() => reason,
            () = input_end() => Reason::InputEnd,
        }
    }
}

async fn input_end() {
    let mut input = tokio::io::stdin();
    let mut ignored = [0; 256];
    while !matches!(input.read(&mut ignored).await, Ok(0) | Err(_)) {}
}
