//! The sessions at a terminal that documents show, run as a reader would run them.
//!
//! A line after `$ ` is a command, run by a shell in an empty folder; what follows is what it prints. A command that ends
//! with `&` goes on beside the others, and what follows is what it prints before the next one is run. `…` stands for anything
//! within a line. Ports are exchanged for free ones.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::beside_the_tests;

/// For what a command that goes on has to print, or for the port that it has to open.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// A session of a document.
#[derive(Debug)]
pub struct Transcript {
    steps: Vec<Step>,
    ports: Vec<u16>,
    folder: tempfile::TempDir,
    running: Vec<Child>,
}

#[derive(Debug)]
struct Step {
    command: String,
    goes_on: bool,
    prints: Vec<String>,
}

impl Transcript {
    /// The first console block below a heading. Each port of `ports` is exchanged for a free one.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn of(document: &str, heading: &str, ports: &[u16]) -> Self {
        let below = document.split_once(heading).expect("the heading is there").1;
        let block = below.split_once("```console\n").expect("there is a console block").1;
        let mut block = block.split_once("```").expect("the block ends").0.to_owned();
        let free = free_ports(ports.len());
        for (port, free) in ports.iter().zip(&free) {
            block = block.replace(&format!(":{port}"), &format!(":{free}"));
            block = block.replace(&format!("-p {port}"), &format!("-p {free}"));
        }
        let mut steps: Vec<Step> = Vec::new();
        for line in block.lines() {
            match (line.strip_prefix("$ "), steps.last_mut()) {
                (Some(command), _) => steps.push(Step {
                    command: command.trim_end_matches(" &").to_owned(),
                    goes_on: command.ends_with(" &"),
                    prints: Vec::new(),
                }),
                (None, Some(step)) if step.command.ends_with('\\') => {
                    step.command.push('\n');
                    step.command.push_str(line.trim_end_matches(" &"));
                    step.goes_on = line.ends_with(" &");
                }
                (None, Some(step)) => step.prints.push(line.to_owned()),
                (None, None) => panic!("a console block begins with a command: {line}"),
            }
        }
        Self {
            steps,
            ports: free,
            folder: tempfile::tempdir().expect("there is a folder to run it in"),
            running: Vec::new(),
        }
    }

    /// Runs it, and holds what is printed to what is shown.
    ///
    /// # Panics
    /// At the first command that prints something else.
    pub fn run(mut self) {
        for step in std::mem::take(&mut self.steps) {
            if step.goes_on {
                self.start(&step);
                continue;
            }
            let mut command = shell(&step.command, self.folder.path());
            let output = command.stderr(Stdio::piped()).output().expect("a shell runs");
            let printed = String::from_utf8_lossy(&output.stdout);
            let lines: Vec<_> = printed.lines().collect();
            let as_shown = output.status.success()
                && lines.len() == step.prints.len()
                && lines.iter().zip(&step.prints).all(|(line, shown)| is_like(shown, line));
            assert!(
                as_shown,
                "`{}` prints\n{printed}\nand not\n{}\n{}",
                step.command,
                step.prints.join("\n"),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }

    /// Starts what goes on, and waits for what it prints, or for its port: a person's fingers are slower.
    fn start(&mut self, step: &Step) {
        let mut command = shell(&format!("exec {}", step.command), self.folder.path());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a shell runs");
        let output = child.stdout.take().expect("its output is ours");
        self.running.push(child);
        let (lines, printed) = mpsc::channel();
        std::thread::spawn(move || {
            // Read to its end, so that the command never waits for whoever reads.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.send(line).ok();
            }
        });
        for shown in &step.prints {
            let line = printed.recv_timeout(READY_WITHIN);
            let line = line.unwrap_or_else(|_| panic!("`{}` does not print {shown:?}", step.command));
            let command = &step.command;
            assert!(is_like(shown, &line), "`{command}` prints {line:?}, not {shown:?}");
        }
        let opens = |port: &&u16| step.command.ends_with(&format!("-p {port}"));
        if let Some(port) = self.ports.iter().find(opens) {
            wait_for(*port);
        }
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        // In the reverse order: what was started last needs what was started first.
        for mut child in self.running.drain(..).rev() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A command with Fanout's programs and nats-server on the path, and without variables that say where a bus or a server is.
fn shell(command: &str, folder: &Path) -> Command {
    let fanout = beside_the_tests("fanout");
    let server = PathBuf::from(std::env::var_os("FANOUT_NATS_SERVER").unwrap_or_else(|| "nats-server".into()));
    let folders = [&fanout, &server].into_iter().filter_map(|program| program.parent());
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let inherited = std::env::split_paths(&inherited).collect::<Vec<_>>();
    let path = std::env::join_paths(folders.map(Path::to_owned).chain(inherited)).expect("a path of folders");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("NATS_URL")
        .env_remove("FANOUT_BUS")
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    shell
}

/// Whether a line is the one that is shown: `…` stands for anything.
fn is_like(shown: &str, line: &str) -> bool {
    let mut rest = line;
    let mut pieces = shown.split('…').enumerate().peekable();
    while let Some((place, piece)) = pieces.next() {
        let is_last = pieces.peek().is_none();
        let found = match (place, is_last) {
            (0, true) => return rest == piece,
            (0, false) => rest.starts_with(piece).then_some(0),
            (_, true) => return rest.ends_with(piece),
            (_, false) => rest.find(piece),
        };
        let Some(found) = found else { return false };
        rest = &rest[found + piece.len()..];
    }
    true
}

fn wait_for(port: u16) {
    let end = Instant::now() + READY_WITHIN;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "port {port} is not opened");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ports of this machine that are free now, each another one.
///
/// # Panics
/// If there are not so many.
#[must_use]
pub fn free_ports(count: usize) -> Vec<u16> {
    // Held together, so that they are different ports.
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("there is a port"))
        .collect();
    held.iter()
        .map(|listener| listener.local_addr().expect("it has an address").port())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_like_the_one_that_is_shown() {
        assert!(is_like("a b", "a b"));
        assert!(!is_like("a b", "a b c"));
        assert!(is_like("a … c", "a x y c"));
        assert!(is_like("…c", "abc") && is_like("a…", "abc") && is_like("…", ""));
        assert!(!is_like("a … c", "b x c") && !is_like("a … c", "a x d"));
        assert!(is_like("a…b…c", "a1b2c") && !is_like("a…b…c", "a1c"));
    }
}
