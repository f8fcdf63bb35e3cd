//! A command that goes on beside a test, and its pipes.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::eventually;

/// A line that does not come within it never does.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running command; killed on drop.
#[derive(Debug)]
pub struct Running {
    process: Child,
    input: Option<ChildStdin>,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    /// Starts a command, whose pipes are this one's.
    ///
    /// # Panics
    /// If it can't be started.
    #[must_use]
    pub fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command
            .spawn()
            .unwrap_or_else(|e| panic!("{:?} starts: {e}", command.get_program()));
        Self {
            input: process.stdin.take(),
            out: lines(process.stdout.take().expect("it has an output")),
            err: lines(process.stderr.take().expect("it has an output for errors")),
            process,
        }
    }

    /// Writes a line to its input.
    ///
    /// # Panics
    /// If it does not read it, or its input was ended.
    pub fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("its input goes on");
        writeln!(input, "{line}").expect("it reads its input");
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends it a signal, by name as `kill` takes it.
    ///
    /// # Panics
    /// If it can't be sent.
    pub fn signal(&self, name: &str) {
        crate::provider::signal(self.process.id(), name);
    }

    /// The next line of its output, once it is there.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn line(&self) -> String {
        let line = self.out.recv_timeout(PATIENCE);
        line.unwrap_or_else(|e| {
            panic!(
                "it prints a line: {e}; errors: {:?}",
                self.err.try_iter().collect::<Vec<_>>()
            )
        })
    }

    /// The next line of its errors, once it is there.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn error(&self) -> String {
        self.err.recv_timeout(PATIENCE).expect("it prints an error")
    }

    /// The other lines of its errors, until it has ended.
    pub fn errors(&self) -> impl Iterator<Item = String> {
        self.err.iter()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        eventually("the command ends", || {
            let ended = process.try_wait().expect("it can be waited for");
            async move { ended }
        })
        .await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The lines of a pipe, read by a thread, so that waiting for one can end.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
